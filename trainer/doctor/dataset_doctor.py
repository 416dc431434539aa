"""Looks a dataset over before it is trained on: what is wrong with it, what to do, and how long to train."""

from pathlib import Path

from ..data.contact_sheet import dataset_sheet
from ..data.picture_checks import Progress
from ..data.training_set import TrainingSet, some
from ..errors import InputError
from ..files.atomic_file import write_atomically
from .examination import Examination, Finding, Kind, Severity, Subject, examination_report
from .picture_findings import batch_findings, picture_findings
from .picture_measures import measure_pictures
from .training_advice import count_findings, training_advice

__all__ = [
    "Examination",
    "Finding",
    "Kind",
    "Severity",
    "Subject",
    "examination_report",
    "examine",
    "write_examination",
]

REPORT_NAME, SHEET_NAME = "report.txt", "sheet.png"
MAX_ON_SHEET = 48
_ORDER = ("must", "should", "note")


def examine(
    dataset: TrainingSet,
    batch_size: int = 1,
    subject: Subject = "face",
    on_progress: Progress | None = None,
) -> Examination:
    """Look at every picture and caption of a dataset. Nothing is changed.

    Args:
        dataset: any, joined or masked ones too; of its class images only the number is looked at.
        batch_size: pictures in a step, at least 1.
        subject: what is to be learned; it decides how many pictures and steps are usual.
        on_progress: called with (done, total) as pictures are decoded; what it raises, ends the work.

    Returns:
        What was found, the worst first. A second look at the same files is quick.

    Raises:
        InputError: a file is gone or has changed since its last look, or the batch size is below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, but must be at least 1")
    from .caption_findings import caption_findings  # transformers takes seconds to import

    measures = measure_pictures(dataset, on_progress)
    findings = [
        *_unreadable(dataset),
        *caption_findings(dataset, subject),
        *picture_findings(dataset, measures),
        *batch_findings(dataset, batch_size),
        *count_findings(dataset, subject),
    ]
    return Examination(
        findings=tuple(sorted(findings, key=lambda finding: _ORDER.index(finding.severity))),
        counts={
            "pictures": len(dataset.pictures),
            "samples": dataset.num_samples,
            "buckets": len(dataset.buckets),
            "class images": len(dataset.class_set.pictures) if dataset.class_set else 0,
            "skipped": sum(note.kind == "skipped" for note in dataset.notes),
        },
        advice=training_advice(dataset, batch_size, subject),
        subject=subject,
        batch_size=batch_size,
    )


def write_examination(
    dataset: TrainingSet,
    folder: Path,
    batch_size: int = 1,
    subject: Subject = "face",
    on_progress: Progress | None = None,
) -> Examination:
    """`examine`, with its report and sheet as `report.txt` and `sheet.png` in a folder.

    Raises:
        InputError: see `examine`.
        OSError: the folder or a file cannot be written.
    """
    examination = examine(dataset, batch_size, subject, on_progress)
    report = examination_report(dataset, examination)
    sheet = dataset_sheet(dataset, MAX_ON_SHEET, examination.flags)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / REPORT_NAME, lambda place: _write_text(place, report))
    write_atomically(folder / SHEET_NAME, lambda place: sheet.save(place, "PNG"))
    return examination


def _write_text(place: Path, text: str) -> None:
    place.write_text(text + "\n", "utf-8")


def _unreadable(dataset: TrainingSet) -> list[Finding]:
    left_out = [" ".join(str(note).split()) for note in dataset.notes if note.kind == "skipped"]
    if not left_out:
        return []
    files = "1 file was" if len(left_out) == 1 else f"{len(left_out)} files were"
    return [
        Finding(
            "unreadable",
            "should",
            f"{files} left out: {some(left_out)}",
            "Nothing of them is trained on: open them in a picture editor and save them anew, or take them "
            "away.",
        )
    ]
