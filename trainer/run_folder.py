"""Where a run's files lie, which name it gets, and whether it was begun or finished before.

`<loras>/<name>.safetensors` is the result, `<loras>/<name>-stepNNNNNN.safetensors` are the kept
checkpoints; `<runs>/<name>/` holds config.json, metrics.jsonl and state/. Nothing is ever overwritten
that does not belong to the same run.
"""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .atomic_file import remove_leftovers, write_atomically
from .checkpoint import list_states
from .config import DatasetConfig, TrainConfig
from .errors import InputError
from .run_name import file_within

RECIPE = 1
"""Counts up whenever the same settings no longer give the same numbers."""
FINGERPRINT_KEY = "sdxl_trainer_run"
"""Under which a LoRA file's metadata holds the fingerprint of its run."""
MAX_NUMBER = 999
_RESULT_UNCHANGED_BY = ("name", "resume", "preview")
_RESULT_UNCHANGED_BY_RUN = ("save_every", "keep_last", "gradient_checkpointing")


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of the run `name`."""

    name: str
    loras_folder: Path
    folder: Path

    @property
    def lora(self) -> Path:
        return self.loras_folder / f"{self.name}.safetensors"

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
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def config(self) -> Path:
        return self.folder / "config.json"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    def remove_leftovers(self) -> None:
        """Remove what a killed process left half written; only while the run is locked."""
        for lora in (self.lora, self.kept_lora(0)):
            remove_leftovers(lora)
        for folder in (self.folder, self.state):
            for leftover in folder.glob(".*.part"):
                leftover.unlink(missing_ok=True)

    def is_free(self) -> bool:
        """Whether nothing that could be lost has this name: no LoRA file and no state.

        A run that failed before its first step leaves its name free.
        """
        return not (self.lora.exists() or self.kept_loras() or list_states(self.state))


@dataclass(frozen=True, slots=True)
class Identity:
    """What a run is: two runs with equal fingerprints train the same numbers."""

    values: Mapping[str, Any]
    """Nested plain values: settings, dataset, model."""

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """What is different in `other`, an older run, as "rank 16 -> 8"."""
        before, now = _flat(other), _flat(self.values)
        return [
            f"{key.rpartition('.')[2]} {_shown(before.get(key))} -> {_shown(now.get(key))}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]


def run_identity(config: TrainConfig, dataset: tuple[str, DatasetConfig], model: tuple[str, str]) -> Identity:
    """All that shapes the numbers of a run, and nothing else.

    Args:
        config: settings; the name, where to save and what to preview are left out.
        dataset: fingerprint and settings.
        model: fingerprint and title.
    """
    settings = {k: v for k, v in config.to_json().items() if k not in _RESULT_UNCHANGED_BY}
    settings["run"] = {k: v for k, v in settings["run"].items() if k not in _RESULT_UNCHANGED_BY_RUN}
    settings["lora"] = {**settings["lora"], "alpha": config.lora.effective_alpha}
    return Identity(
        {
            "recipe": RECIPE,
            "settings": settings,
            "dataset": {"dataset": dataset[0], **dataclasses.asdict(dataset[1])},
            "model": {"model": model[0]},
        }
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _shown(value: Any) -> str:
    """Fingerprints by their first eight digits: only that they differ is of interest."""
    return value[:8] if isinstance(value, str) and re.fullmatch("[0-9a-f]{32,}", value) else str(value)


def choose_run(files: RunFiles, identity: Identity, go_on: bool) -> tuple[RunFiles, list[str]]:
    """The run that goes on or is finished already, else the first free name.

    Args:
        files: of the name that was asked for.
        identity: of the run.
        go_on: whether an earlier run with the same identity may be taken up.

    Returns:
        The files of the chosen name, and sentences for the report.

    Raises:
        InputError: a thousand runs have this name.
    """
    if go_on:
        for candidate in _begun(files):
            if _recorded(candidate).get("fingerprint") == identity.fingerprint and (
                not candidate.lora.exists() or is_finished(candidate, identity.fingerprint)
            ):
                return candidate, []
    if files.is_free():
        return files, []
    for number in range(2, MAX_NUMBER + 1):
        candidate = _numbered(files, number)
        if candidate.is_free():
            return candidate, [_why_renamed(files, candidate, identity, go_on)]
    raise InputError(f"'{files.name}' and all names up to '-{MAX_NUMBER}' are taken: choose another name")


def _numbered(files: RunFiles, number: int) -> RunFiles:
    name = f"{files.name}-{number}"
    return RunFiles(name, files.loras_folder, file_within(files.folder.parent, name))


def _begun(files: RunFiles) -> list[RunFiles]:
    """The run of this name and its numbered brothers, as far as they have a folder, in order."""
    pattern = re.compile(re.escape(files.name) + r"-(\d{1,3})")
    matches = (pattern.fullmatch(path.name) for path in files.folder.parent.iterdir())
    numbers = sorted(int(match[1]) for match in matches if match)
    return [files, *(_numbered(files, number) for number in numbers)]


def _why_renamed(files: RunFiles, chosen: RunFiles, identity: Identity, go_on: bool) -> str:
    before = _recorded(files).get("identity", {})
    differences = identity.differences(before) if before else []
    if differences:
        why = f"has other settings ({', '.join(differences)})"
    elif go_on or not before:
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


def record_run(files: RunFiles, config: TrainConfig, identity: Identity) -> None:
    """Write config.json."""
    text = json.dumps(
        {
            "fingerprint": identity.fingerprint,
            "settings": config.to_json(),
            "identity": identity.values,
        },
        indent=1,
    )
    write_atomically(files.config, lambda temporary: temporary.write_text(text, "utf-8"))


@contextmanager
def must_be_writable(folder: Path) -> Iterator[None]:
    """Turns an OSError within into a sentence about the folder.

    Raises:
        InputError: in its place.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the folder '{folder.name}' cannot be written to ({error.strerror or error}): check its "
            "permissions and the free disk space"
        ) from error


def require_disk_space(folder: Path, num_bytes: int, what: str) -> None:
    """Check that there is room before hours are spent.

    Raises:
        InputError: there is not; with both numbers.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(
            f"the disk of '{folder.name}' has {free / 2**20:,.0f} MiB free, but {what} need "
            f"{num_bytes / 2**20:,.0f} MiB: free some space, or lower keep_last or the rank"
        )
