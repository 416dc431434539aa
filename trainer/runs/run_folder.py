"""Where a run's files lie, which name it gets, and whether it was begun or finished before.

`<loras>/<name>.safetensors` is the result, `<loras>/<name>-stepNNNNNN.safetensors` are the kept
checkpoints; `<runs>/<name>/` holds config.json, metrics.jsonl, state/, samples/ and the report.
Nothing is ever overwritten that does not belong to the same run.
"""

import glob
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..config import Resume, TrainConfig
from ..errors import InputError
from ..files.atomic_file import remove_leftovers, write_atomically
from ..files.bundle import is_bundled
from ..files.metadata import FINGERPRINT_KEY, SETTINGS_KEY
from ..files.run_name import file_within
from ..text.new_tokens import word_stem
from .checkpoint import list_states
from .run_identity import Identity

MAX_NUMBER = 999
CONFIG, METRICS, SAMPLES = "config.json", "metrics.jsonl", "samples"
REPORT_PAGE, REPORT_PICTURE = "report.html", "report.png"


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of the run `name`; a folder of embeddings, and words, only of a run that has new words."""

    name: str
    loras_folder: Path
    folder: Path
    embeddings_folder: Path | None = None
    words: tuple[str, ...] = ()

    @property
    def lora(self) -> Path:
        return self.loras_folder / f"{self.name}.safetensors"

    @property
    def diffusers_lora(self) -> Path:
        return self.loras_folder / f"{self.name}_diffusers.safetensors"

    def kept_lora(self, step: int) -> Path:
        return self.loras_folder / f"{self.name}-step{step:06d}.safetensors"

    def kept_loras(self) -> list[tuple[int, Path]]:
        """(step, path) of the checkpoints there are, oldest first."""
        pattern = re.compile(re.escape(self.name) + r"-step(\d+)\.safetensors")
        if not self.loras_folder.is_dir():
            return []
        matches = ((pattern.fullmatch(p.name), p) for p in self.loras_folder.iterdir())
        return sorted((int(match[1]), path) for match, path in matches if match)

    @property
    def words_folder(self) -> Path:
        return self.embeddings_folder or self.loras_folder

    def embeddings_of(self, lora: Path) -> list[Path]:
        """The embedding files that belong to a LoRA of this run: of all words, then of each of several."""
        stem = f"{lora.stem}_emb"
        stems = [stem, *(word_stem(stem, word) for word in self.words if len(self.words) > 1)]
        return [self.words_folder / f"{stem}.safetensors" for stem in stems if self.words]

    def embeddings_beside(self, lora: Path) -> list[Path]:
        """Those of them that are there."""
        return [path for path in self.embeddings_of(lora) if path.exists()]

    def words_of(self, lora: Path) -> list[str]:
        """What a prompt writes after `embedding:` for each word that is there; not the file of several."""
        paths = self.embeddings_of(lora)
        return [path.stem for path in paths[1:] or paths if path.exists()]

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def config(self) -> Path:
        return self.folder / CONFIG

    @property
    def metrics(self) -> Path:
        return self.folder / METRICS

    @property
    def samples(self) -> Path:
        return self.folder / SAMPLES

    @property
    def report(self) -> Path:
        """What the run did, as one page that needs nothing else."""
        return self.folder / REPORT_PAGE

    @property
    def report_picture(self) -> Path:
        """The same story as one tall picture."""
        return self.folder / REPORT_PICTURE

    @property
    def asked(self) -> Path:
        """Tells what was asked of the run on its way; not there where nothing was."""
        return self.folder / "asked.json"

    @property
    def pushed(self) -> Path:
        """Tells which file went to which repository of the hub."""
        return self.folder / "pushed.json"

    def remove_leftovers(self) -> None:
        """Remove what a killed process left half written; only while the run is locked."""
        for lora in (self.lora, self.kept_lora(0), self.diffusers_lora):
            remove_leftovers(lora)
        if self.embeddings_folder is not None:
            for leftover in self.embeddings_folder.glob(f".{glob.escape(self.name[:40])}*.part"):
                leftover.unlink(missing_ok=True)
        for folder in (self.folder, self.state, self.samples):
            for leftover in folder.glob(".*.part"):
                leftover.unlink(missing_ok=True)

    def is_free(self) -> bool:
        """Whether nothing that could be lost has this name: no LoRA file and no state.

        A run that failed before its first step leaves its name free.
        """
        files = self.lora.exists() or self.diffusers_lora.exists() or self.kept_loras()
        return not (files or self.embeddings_beside(self.lora) or list_states(self.state))


def choose_run(
    files: RunFiles, identity: Identity, resume: Resume, resume_from_step: int = 0
) -> tuple[RunFiles, list[str]]:
    """The run that goes on or is finished already, else the first free name.

    Args:
        files: of the name that was asked for.
        identity: of the run.
        resume: whether an earlier run with the same identity may be taken up ("auto"), must be
            ("continue"), or must not be ("new").
        resume_from_step: a step to go on from, which there must be, too; 0 = none is asked for.

    Returns:
        The files of the chosen name, and sentences for the report.

    Raises:
        InputError: a thousand runs have this name, or there is no run to continue; with what differs.
    """
    asked = f"resume_from_step is {resume_from_step}" if resume_from_step else "resume is 'continue'"
    must_go_on = resume == "continue" or (resume == "auto" and resume_from_step > 0)
    if resume != "new":
        for candidate in _begun(files):
            if _recorded(candidate).get("fingerprint") == identity.fingerprint and (
                not candidate.lora.exists() or is_finished(candidate, identity.fingerprint)
            ):
                if must_go_on:
                    _require_something_done(candidate, asked)
                return candidate, []
    if must_go_on:
        raise InputError(f"{asked}, but {_why_not_continued(files, identity)}")
    if files.is_free():
        return files, []
    for number in range(2, MAX_NUMBER + 1):
        candidate = _numbered(files, number)
        if candidate.is_free():
            return candidate, [_why_renamed(files, candidate, identity, resume)]
    raise InputError(f"'{files.name}' and all names up to '-{MAX_NUMBER}' are taken: choose another name")


def _require_something_done(files: RunFiles, asked: str) -> None:
    if not files.lora.exists() and not list_states(files.state):
        raise InputError(
            f"{asked}, but the run '{files.name}' has no state to go on from, it ended before "
            "its first checkpoint: set resume to 'auto' and resume_from_step to 0 to start it anew"
        )


def _why_not_continued(files: RunFiles, identity: Identity) -> str:
    """Compares with the run of this name that was begun last."""
    begun = [run for run in _begun(files) if _recorded(run).get("identity")]
    if not begun:
        return (
            f"there is no run '{files.name}' to go on with: check the name, or set resume to 'auto' and "
            "resume_from_step to 0 to start one"
        )
    differing = {run.name: identity.differences(_recorded(run)["identity"]) for run in begun}
    nearest = min(differing, key=lambda name: len(differing[name]))
    if not differing[nearest]:
        return (
            f"{nearest}.safetensors is not the file that this run wrote: move it away, or choose another name"
        )
    return (
        f"the run '{nearest}' has other settings: {', '.join(differing[nearest])}; set them back to go on, "
        "or set resume to 'auto' and resume_from_step to 0 for a new run"
    )


def _numbered(files: RunFiles, number: int) -> RunFiles:
    name = f"{files.name}-{number}"
    folder = file_within(files.folder.parent, name)
    return replace(files, name=name, folder=folder)


def _begun(files: RunFiles) -> list[RunFiles]:
    """The run of this name and its numbered brothers, as far as they have a folder, in order."""
    pattern = re.compile(re.escape(files.name) + r"-(\d{1,3})")
    matches = (pattern.fullmatch(path.name) for path in files.folder.parent.iterdir())
    numbers = sorted(int(match[1]) for match in matches if match)
    return [files, *(_numbered(files, number) for number in numbers)]


def _why_renamed(files: RunFiles, chosen: RunFiles, identity: Identity, resume: Resume) -> str:
    before = _recorded(files).get("identity", {})
    differences = identity.differences(before) if before else []
    if differences:
        why = f"has other settings ({', '.join(differences)})"
    elif resume != "new" or not before:
        why = "is another file"
    else:
        why = "has the same settings and resume is 'new'"
    return f"'{files.name}' exists and {why}, so this run is '{chosen.name}'"


def _recorded(files: RunFiles) -> dict[str, Any]:
    """config.json of a run; empty where there is none that can be read."""
    try:
        recorded = json.loads(files.config.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return recorded if isinstance(recorded, dict) else {}


def is_finished(files: RunFiles, fingerprint: str) -> bool:
    """Whether the final LoRA is there and comes from this very run."""
    try:
        with safe_open(files.lora, framework="pt") as file:
            return (file.metadata() or {}).get(FINGERPRINT_KEY) == fingerprint
    except (OSError, SafetensorError):
        return False


@dataclass(frozen=True, slots=True)
class Written:
    """What a finished LoRA file says about itself."""

    steps: int
    """Optimizer steps it was trained for; 0 = it does not say."""
    precision: str
    """The `save_precision` it was written with; "" = it does not say."""
    has_bundle: bool = False
    """Whether new words are in the file itself."""


def written_as(files: RunFiles) -> Written:
    """The form of the final LoRA that is there."""
    try:
        with safe_open(files.lora, framework="pt") as file:
            metadata = file.metadata() or {}
            has_bundle = any(map(is_bundled, file.keys()))
        settings = json.loads(metadata[SETTINGS_KEY])["train"]
        return Written(int(metadata["ss_steps"]), str(settings["run"]["save_precision"]), has_bundle)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return Written(0, "")


def record_run(files: RunFiles, config: TrainConfig, identity: Identity, pictures: dict[str, Any]) -> None:
    """Write config.json; `pictures` are the settings of the dataset, by section."""
    text = json.dumps(
        {
            "fingerprint": identity.fingerprint,
            "settings": config.to_json(),
            **pictures,
            "identity": identity.values,
        },
        indent=1,
    )
    write_atomically(files.config, lambda temporary: temporary.write_text(text, "utf-8"))
