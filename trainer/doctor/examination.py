"""What an examination of a dataset found, and its report in plain sentences."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..data.training_set import TrainingSet, some

Kind = Literal[
    "unreadable",
    "no caption",
    "no trigger",
    "trigger missing",
    "common trigger",
    "same caption",
    "long captions",
    "near-duplicate",
    "blank",
    "blurred",
    "small",
    "cut away",
    "small batches",
    "few pictures",
    "many pictures",
    "class images",
    "mirrored",
]
Severity = Literal["must", "should", "note"]
Subject = Literal["face", "character", "object", "style"]
SUBJECT_WORDS: Mapping[Subject, str] = {
    "face": "a face",
    "character": "a character",
    "object": "an object",
    "style": "a style",
}

_TITLES: Mapping[Severity, str] = {
    "must": "Must be mended",
    "should": "Should be mended",
    "note": "Good to know",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is worth knowing about a dataset.

    `pictures` are indices into the set, none where it is about the set as a whole; `labels` are a few words
    about each of them, or empty. `message` says what is the case, `advice` what to do.
    """

    kind: Kind
    severity: Severity
    message: str
    advice: str
    pictures: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()

    def label_of(self, place: int) -> str:
        """The words about `pictures[place]`; the kind where there are none of its own."""
        return self.labels[place] if self.labels else self.kind


@dataclass(frozen=True, slots=True)
class Examination:
    """All findings, the worst first, and what to do with the dataset.

    `counts` are those of pictures, samples (an epoch's), buckets, class images and skipped files; `advice`
    are sentences on how many pictures and steps.
    """

    findings: tuple[Finding, ...]
    counts: Mapping[str, int]
    advice: tuple[str, ...]
    subject: Subject = "face"
    batch_size: int = 1

    @property
    def problems(self) -> int:
        """Findings that ask for something to be mended."""
        return sum(finding.severity != "note" for finding in self.findings)

    @property
    def flags(self) -> dict[int, tuple[str, ...]]:
        """Picture -> a few words for each problem that it has, for the sheet."""
        flags: dict[int, tuple[str, ...]] = {}
        for finding in self.findings:
            if finding.severity != "note":
                for place, index in enumerate(finding.pictures):
                    flags[index] = (*flags.get(index, ()), finding.label_of(place))
        return flags


def examination_report(dataset: TrainingSet, examination: Examination) -> str:
    """The examination in plain text: what is wrong, the worst first, then how long to train."""
    paragraphs = [_summary(dataset, examination)]
    for severity, title in _TITLES.items():
        findings = [finding for finding in examination.findings if finding.severity == severity]
        if findings:
            lines = [f"{title} ({len(findings)}):"]
            for finding in findings:
                lines += _finding_lines(dataset, finding)
            paragraphs.append("\n".join(lines))
    paragraphs.append("\n".join(["How long to train:", *(f"  {line}" for line in examination.advice)]))
    warnings = sum(note.kind == "warning" for note in dataset.notes)
    if warnings:
        things = "one more thing" if warnings == 1 else f"{warnings} more things"
        paragraphs.append(f"The dataset's own report has {things} to check: read it too.")
    return "\n\n".join(paragraphs)


def _summary(dataset: TrainingSet, examination: Examination) -> str:
    counts = examination.counts
    pictures = f"{counts['pictures']} picture{'s' if counts['pictures'] != 1 else ''}"
    start = (
        f"Dataset '{dataset.root_name}': {pictures} looked at, to learn {SUBJECT_WORDS[examination.subject]}."
    )
    if not examination.problems:
        return f"{start} There is nothing to mend."
    things = "1 thing" if examination.problems == 1 else f"{examination.problems} things"
    flagged = len(examination.flags)
    which = f"; {flagged} of the pictures {'is' if flagged == 1 else 'are'} marked on the sheet"
    return f"{start} {things} to mend{which if flagged else ''}."


def _finding_lines(dataset: TrainingSet, finding: Finding) -> list[str]:
    names = [_name(dataset, finding, place) for place in range(len(finding.pictures))]
    which = f": {some(names)}" if names else ""
    return [f"  - {finding.message}{which}.", f"    {finding.advice}"]


def _name(dataset: TrainingSet, finding: Finding, place: int) -> str:
    name = " ".join(dataset.pictures[finding.pictures[place]].name.split())
    return f"{name} ({finding.labels[place]})" if finding.labels else name
