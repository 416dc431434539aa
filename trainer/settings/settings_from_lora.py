"""The settings that a LoRA file was trained with, read back from its metadata.

Our own files hold all of them; kohya's hold `ss_*` texts, from which `kohya_settings` reads what it can.
A file of an older or newer version is read as far as it goes, and what was left out is said.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import SECTIONS, LoggingConfig
from ..errors import InputError
from ..files.metadata import SETTINGS_KEY
from ..files.safetensors_header import read_header
from .kohya_settings import NO_BATCH_SIZE, NO_STEPS, kohya_values

DEFAULT_SEED = 42
PICTURE_NODES = {
    "dataset": "Load Dataset",
    "augment": "Augment Dataset",
    "caption_variants": "Caption Variants",
}
"""Key in our settings -> the node whose widgets have these values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSettings:
    """What a LoRA file tells of its training.

    `sections` holds one object for each section of a TrainConfig. `steps` and `batch_size` are 0 where
    the file does not tell them. `pictures` are the settings of the dataset and of what varied its looks and
    captions, by a key of `PICTURE_NODES`. `notes` say what could not be read, one sentence each.
    """

    file_name: str
    origin: str
    sections: Mapping[str, Any]
    steps: int
    batch_size: int
    seed: int
    pictures: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]

    def describe(self) -> str:
        """All of it in words, one section a line, the notes at the end."""
        run = [f"steps {self.steps or 'not told'}", f"batch size {self.batch_size or 'not told'}"]
        lines = [
            f"Settings of {self.file_name}, {self.origin}.",
            f"training: {', '.join(run)}, seed {self.seed}",
        ]
        for name, section in self.sections.items():
            lines.append(f"{name} settings: {_in_words(dataclasses.asdict(section))}")
        lines += [f"{PICTURE_NODES[key]}: {_in_words(values)}" for key, values in self.pictures.items()]
        return "\n".join([*lines, *(f"Note: {note}." for note in self.notes)])


def settings_of_file(path: Path) -> LoadedSettings:
    """Read the settings out of a LoRA file, its weights untouched.

    Raises:
        InputError: not readable as safetensors, or no settings in it.
    """
    return settings_of_metadata(read_header(path).metadata, path.name)


def settings_of_metadata(metadata: Mapping[str, str], file_name: str) -> LoadedSettings:
    """The settings in a LoRA file's metadata.

    Where to log and publish is nobody's to say but the user's: that section is always the default, and
    so is the step to resume from, which belonged to another run.

    Args:
        metadata: texts, as they stand in the header.
        file_name: for the report and for errors.

    Raises:
        InputError: neither our settings nor kohya's are in it.
    """
    if SETTINGS_KEY in metadata:
        saved = _our_values(metadata[SETTINGS_KEY], file_name)
        train = saved["train"]
        notes = _missing(train)
        origin = "written by SDXL Trainer"
    elif any(key.startswith("ss_") for key in metadata):
        train, notes = kohya_values(metadata)
        saved, origin = {}, "read from kohya's metadata; what it does not tell has our defaults"
    else:
        raise InputError(
            f"{file_name} holds no settings: neither '{SETTINGS_KEY}' nor kohya's 'ss_' entries are in its "
            "metadata; choose a LoRA that was trained here or with kohya's scripts and not stripped"
        )
    sections = {name: _section(name, train.get(name, {}), notes) for name in SECTIONS}
    sections |= {"logging": LoggingConfig(), "run": replace(sections["run"], resume_from_step=0)}
    return LoadedSettings(
        file_name=file_name,
        origin=origin,
        sections=sections,
        steps=_count(train.get("steps", NO_STEPS)),
        batch_size=_count(train.get("batch_size", NO_BATCH_SIZE)),
        seed=_count(train.get("seed", DEFAULT_SEED)),
        pictures={key: saved[key] for key in PICTURE_NODES if isinstance(saved.get(key), Mapping)},
        notes=tuple(notes),
    )


def _our_values(text: str, file_name: str) -> Mapping[str, Any]:
    try:
        saved = json.loads(text)
    except ValueError:
        saved = None
    if not isinstance(saved, dict) or not isinstance(saved.get("train"), dict):
        raise InputError(f"{file_name}: its settings ('{SETTINGS_KEY}') are damaged: train anew")
    return saved


def _section(name: str, values: Any, notes: list[str]) -> Any:
    """One section, without what this version does not know or does not accept; each gets a note."""
    kind = SECTIONS[name]
    fields = {field.name for field in dataclasses.fields(kind)}
    values = values if isinstance(values, Mapping) else {}
    unknown = sorted(set(values) - fields)
    if unknown:
        notes.append(f"{name} settings: {', '.join(unknown)} unknown to this version, left out")
    known = {field: value for field, value in values.items() if field in fields}
    problem = _problem(kind, known)
    if problem:
        # one by one: a single bad value must not cost the others
        refused = {field: _problem(kind, {field: value}) for field, value in known.items()}
        known = {field: value for field, value in known.items() if not refused[field]}
        problem = "; ".join(text for text in refused.values() if text) or problem
        notes.append(f"{problem}; left out")
        known = {} if _problem(kind, known) else known
    return kind(**known)


def _problem(kind: type, values: Mapping[str, Any]) -> str:
    """Why a section does not accept these values; empty where it does."""
    try:
        kind(**values)
    except (InputError, TypeError, AttributeError) as problem:
        return str(problem)
    return ""


def _missing(train: Mapping[str, Any]) -> list[str]:
    """A note for what a file of an older version does not hold."""
    absent = []
    for name, kind in SECTIONS.items():
        if name == "logging":
            continue
        held = train.get(name)
        if not isinstance(held, Mapping):
            absent.append(f"all {name} settings")
            continue
        absent += [field.name for field in dataclasses.fields(kind) if field.name not in held]
    return [f"not in the file, so taken as the default: {', '.join(absent)}"] if absent else []


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _in_words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_word(value)}" for name, value in values.items())


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, str):
        return str(value)
    line = " / ".join(value.splitlines())  # one prompt a line
    return f"'{line}'" if not line or " " in line else line
