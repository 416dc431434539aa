"""A run as the state that a checkpoint keeps, and back; and whether it has come anywhere."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError
from ..trained_part import TrainedPart
from ..training import Training
from .checkpoint import TrainState
from .validation import HeldOutLosses

LOSS_SCALE = "loss_scale/"
KINDS = ("lora", "optimizer", "average")
"""What a part's state is made of, as the keys say it: `lora/...`, for the text `clip_l/lora/...`."""


def state_of(training: Training, fingerprint: str, losses: HeldOutLosses) -> TrainState:
    """All that going on needs, on the CPU: weights, moments, averages, counters.

    Args:
        training: between two steps.
        fingerprint: of the run.
        losses: what the held-out loss has done so far.
    """
    tensors: dict[str, Tensor] = {}
    figures: dict[str, dict] = {}
    for part in training.parts:
        values, figures[part.name] = part.state()
        for kind, named in values.items():
            tensors |= {f"{_prefix(part)}{kind}/{name}": values for name, values in named.items()}
    if training.loss_scale is not None:
        tensors |= {LOSS_SCALE + name: values for name, values in training.loss_scale.state().items()}
    return TrainState(
        training.step,
        fingerprint,
        {name: values.detach().cpu().contiguous() for name, values in tensors.items()},
        {
            "num_skipped": training.num_skipped,
            "skipped_in_a_row": training.skipped_in_a_row,
            "recent_losses": list(training.recent_losses),
            "optimizer": figures.pop("unet", {}),
            "optimizers": figures,
            "validation": losses.figures(),
        },
    )


def restore(training: Training, state: TrainState) -> HeldOutLosses:
    """Put a state into a run that was set up with the same settings; returns what was measured by then."""
    optimizers = {"unet": state.figures["optimizer"], **state.figures.get("optimizers", {})}
    for part in training.parts:
        end = part.window[1]
        if end <= state.step and end < training.config.steps:
            part.settle()  # as it had when the state was saved; its weights follow
        values = {kind: _named(state, f"{_prefix(part)}{kind}/") for kind in KINDS}
        part.load_state(values, optimizers[part.name])
    # none in a state that was saved in another arithmetic: the scale is then found anew
    if training.loss_scale is not None and (scale := _named(state, LOSS_SCALE)):
        training.loss_scale.load_state(scale)
    training.step = state.step
    training.num_skipped = state.figures["num_skipped"]
    training.skipped_in_a_row = state.figures["skipped_in_a_row"]
    training.recent_losses.extend(state.figures["recent_losses"])
    return HeldOutLosses.of(state.figures["validation"])


def require_moved(training: Training, start: Mapping[str, Tensor]) -> list[str]:
    """A run that did not learn is no success; returns sentences about what of it stayed behind.

    Args:
        training: at its end.
        start: (N,) master weights of each part that starts from a LoRA.

    Raises:
        InputError: all weights of a part are what they were at the start.
    """
    notes = []
    for part in training.parts:
        if training.step <= part.window[0]:
            continue  # the run ended before its turn came
        if part.name in start and torch.equal(part.weights.snapshot(), start[part.name]):
            raise InputError(part.not_moved(training.step, training.num_skipped))
        num_still = require_part_moved(training, part)
        if num_still > part.num_out_of_reach:
            notes.append(f"{num_still} of {part.size} {part.unit} have not moved")
    return notes


def require_part_moved(training: Training, part: TrainedPart) -> int:
    """How many of a part's layers or tokens are as they started, after its turn. Waits for the device.

    Raises:
        InputError: all of them.
    """
    num_still = part.num_still()
    if num_still == part.size:
        raise InputError(part.not_moved(training.step, training.num_skipped))
    return num_still


def _prefix(part: TrainedPart) -> str:
    """None for the UNet's, as in states that were written before there were other parts."""
    return "" if part.name == "unet" else f"{part.name}/"


def _named(state: TrainState, prefix: str) -> Mapping[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.tensors.items() if k.startswith(prefix)}
