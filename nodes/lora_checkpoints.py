"""The files of one run: the finished LoRA, and the checkpoints that lie beside it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..trainer.errors import InputError
from .comfy_bridge.folders import lora_choices, lora_file

if TYPE_CHECKING:
    from ..trainer.runs.run_folder import RunFiles

NO_FILE = "none"
FINAL = 0
"""Step of the finished file itself."""
FINAL_WORD = "final"


def chosen_file(lora: Any, lora_name: str) -> Path | None:
    """The file of what is wired, or else chosen; None for wired tensors that come from no file.

    Raises:
        InputError: nothing is wired or chosen, or there is no such file.
    """
    if isinstance(lora, str) and lora:
        return lora_file(lora)
    if isinstance(lora, Mapping):
        return getattr(lora, "path", None)
    if lora_name != NO_FILE:
        return lora_file(lora_name)
    raise InputError("no LoRA: wire one to 'lora', or choose a file in 'lora_name'")


def kept_steps(path: Path) -> list[int]:
    """Steps of the checkpoints that lie beside a finished LoRA, ascending."""
    return [step for step, _ in _files_of(path).kept_loras()]


def _files_of(path: Path) -> "RunFiles":
    """How the run that wrote `path` names its files; of its own folder nothing is asked here."""
    from ..trainer.runs.run_folder import RunFiles

    return RunFiles(path.stem, path.parent, path.parent)


def checkpoint_file(path: Path, step: int, asked_by: str = "checkpoint_step is") -> Path:
    """The file of an earlier step of the run that wrote `path`; `path` itself for FINAL.

    `asked_by` begins the error: which widget named the step.

    Raises:
        InputError: that step was not kept; those that were are named.
    """
    if step == FINAL:
        return path
    kept = _files_of(path).kept_lora(step)
    if not kept.is_file():
        there = ", ".join(map(str, kept_steps(path)))
        choice = f"there are steps {there}" if there else "there are no checkpoints of it"
        choice += f", and {FINAL_WORD} (0), the file itself"
        raise InputError(f"{asked_by} {step}, but {kept.name} does not exist: {choice}")
    return kept


def parse_steps(text: str, path: Path) -> list[int]:
    """Steps out of "250, 500, final"; all kept ones and the finished file where nothing is written.

    Raises:
        InputError: a word that is neither a step nor "final", or a step that was not kept.
    """
    words = _words(text)
    if not words:
        return [*kept_steps(path), FINAL]
    bad = [word for word in words if not word.isdecimal() and word.lower() != FINAL_WORD]
    if bad:
        raise InputError(
            f"checkpoints holds '{bad[0]}', but must be steps and 'final', such as '250, 500, final'"
        )
    steps = [FINAL if word.lower() == FINAL_WORD else int(word) for word in words]
    steps = list(dict.fromkeys(steps))
    for step in steps:
        checkpoint_file(path, step, "checkpoints holds")
    return steps


def parse_numbers(text: str, name: str, example: str) -> list[float]:
    """Numbers out of "0, 0.6, 1.0", in their order.

    Args:
        text: as written into the widget.
        name: of the widget, for the error.
        example: what a right text looks like, for the error.

    Raises:
        InputError: a word that is no finite number.
    """
    numbers = []
    for word in _words(text):
        if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", word):
            raise InputError(f"{name} holds '{word}', but must be numbers, such as '{example}'")
        numbers.append(float(word))
    return numbers


def step_title(step: int) -> str:
    return FINAL_WORD if step == FINAL else f"step {step}"


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[,;\s]+", text) if word]


def run_fingerprint(lora_name: str) -> str:
    """Changes when the chosen file, a checkpoint or an embedding of them comes, goes or is written anew."""
    if lora_name == NO_FILE:
        return NO_FILE
    from .comfy_bridge.lora_words import with_embeddings

    path = lora_file(lora_name)
    files = [path, *(checkpoint_file(path, step) for step in kept_steps(path))]
    return files_fingerprint(with_embeddings(files))


def files_fingerprint(files: Sequence[Path]) -> str:
    """Changes when one of the files is written anew."""
    states = [(file.name, file.stat()) for file in files]
    return " ".join(f"{name} {state.st_size} {state.st_mtime_ns}" for name, state in states)


def lora_name_widget() -> io.Input:
    return io.Combo.Input(
        "lora_name",
        options=[NO_FILE, *lora_choices()],
        default=NO_FILE,
        tooltip="File of the loras folder, used when nothing is wired to lora; press R to refresh.",
    )


def lora_socket() -> io.Input:
    return io.MultiType.Input(
        "lora",
        types=[io.LoraModel, io.String],
        optional=True,
        tooltip="LoRA or file name from Train SDXL LoRA; goes before lora_name.",
    )
