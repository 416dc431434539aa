"""What a run needs in order to go on as if it had never stopped, as safetensors and JSON only.

One file per checkpoint, `step-000500.safetensors`: the numbers as tensors, everything else as JSON in
the header, and a digest over both. A file that is half written, cut off or altered is never taken.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import InputError
from ..files.atomic_file import write_atomically

FORMAT = 1
KEPT_STATES = 2
"""The newest, and the one before for when the newest is damaged."""


@dataclass(frozen=True, eq=False)
class TrainState:
    """A run after `step` optimizer steps.

    `tensors` lie on the CPU; `figures` are plain JSON values; `fingerprint` names the run's settings,
    model and dataset.
    """

    step: int
    fingerprint: str
    tensors: Mapping[str, Tensor]
    figures: Mapping[str, Any]


def state_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}.safetensors"


def save_state(folder: Path, state: TrainState, spared: Collection[int] = ()) -> Path:
    """Write a state beside the older ones, and only then remove those no longer needed.

    Of the older ones the newest stays, and those of the `spared` steps. Those of later steps go: the run
    was taken up before them, and comes to them again.

    Raises:
        OSError: it could not be written; the older ones are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = state_path(folder, state.step)
    head = {"format": FORMAT, "step": state.step, "fingerprint": state.fingerprint, **state.figures}
    text = json.dumps(head, sort_keys=True)
    content = safetensors.torch.save(
        dict(state.tensors), {"state": text, "digest": tensors_digest(state.tensors, text)}
    )
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    before = [other for other in list_states(folder) if step_of(other) <= state.step]
    kept = {*before[:KEPT_STATES], *(other for other in before if step_of(other) in spared)}
    for old in list_states(folder):
        if old not in kept:
            with contextlib.suppress(OSError):  # Windows keeps what a program has open; it goes later
                old.unlink()
    return path


def keep_newest_state(folder: Path) -> None:
    """Remove all states but the newest, for a finished run; each takes 12 bytes a weight with AdamW."""
    for old in list_states(folder)[1:]:
        with contextlib.suppress(OSError):
            old.unlink()


def list_states(folder: Path) -> list[Path]:
    """The states in a folder, newest first, unread."""
    found = [p for p in folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d+", p.stem)]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step of a state, from its file's name."""
    return int(path.stem.removeprefix("step-"))


def load_state(folder: Path, step: int, fingerprint: str) -> TrainState:
    """The state of one step.

    Raises:
        InputError: there is none, it is damaged, or it belongs to other settings; with the steps there are.
    """
    steps = [step_of(path) for path in reversed(list_states(folder))]
    if step in steps:
        state, problem = _usable_state(state_path(folder, step), fingerprint)
        if state is not None:
            return state
    else:
        problem = f"there is no state of step {step}"
    there_are = f"there are those of steps {', '.join(map(str, steps))}" if steps else "there are none at all"
    raise InputError(
        f"resume_from_step is {step}, but {problem} in '{folder.parent.name}': {there_are}; choose one of "
        "them, or 0 for the newest"
    )


def load_newest_state(folder: Path, fingerprint: str) -> tuple[TrainState | None, list[str]]:
    """The newest state that is whole and belongs to this run, and a sentence for each that is not.

    Raises:
        InputError: a state was written by a newer version of the trainer.
    """
    notes = []
    for path in list_states(folder):
        state, problem = _usable_state(path, fingerprint)
        if state is not None:
            return state, notes
        notes.append(f"{problem} and was passed over")
    return None, notes


def _usable_state(path: Path, fingerprint: str) -> tuple[TrainState | None, str]:
    """A state of this run, or what is wrong with it.

    Raises:
        InputError: it was written by a newer version of the trainer.
    """
    try:
        state = _read_state(path)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        return None, f"{path.name} is damaged ({type(error).__name__})"
    if state.fingerprint != fingerprint:
        return None, f"{path.name} belongs to other settings"
    return state, ""


def _read_state(path: Path) -> TrainState:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
    text = metadata["state"]
    if metadata["digest"] != tensors_digest(tensors, text):
        raise ValueError("digest differs")
    head = json.loads(text)
    if head["format"] > FORMAT:
        raise InputError(
            f"{path.name} was written by a newer version of SDXL Trainer: update it, or choose a new name"
        )
    figures = {k: v for k, v in head.items() if k not in ("format", "step", "fingerprint")}
    return TrainState(head["step"], head["fingerprint"], tensors, figures)


def tensors_digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 over a text and the names, types, shapes and bytes of tensors, wherever they lie."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
