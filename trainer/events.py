"""How a run tells who listens what it does, and hears whether to go on.

The loop does not know who listens: ComfyUI, a terminal bar, a test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One optimizer step.

    `step` counts finished optimizer steps from 1, `epoch` is a fraction (1.5 = half through the
    second), `loss` is the mean over the samples of the step before any clipping, `seconds` is the
    time the step took. `loss` and `grad_norm` are NaN for a step that was skipped because its
    gradient was not finite. `effective_learning_rate` is what moved the weights: Prodigy's d times the
    rate, else the rate itself. `learning` says what the step moved in a run that trains more than the LoRA,
    such as "the new tokens"; the rates are those of the first of them.
    """

    step: int
    num_steps: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float
    seconds: float
    effective_learning_rate: float = math.nan
    learning: str = ""


class Listener(Protocol):
    """Whoever watches a run. Calls come from the training thread; `should_stop` must be cheap."""

    def phase(self, name: str, done: int, total: int) -> None:
        """`name` ("reading pictures", "encoding pictures", "encoding captions", ...): done of total."""

    def step(self, report: StepReport) -> None:
        """An optimizer step is finished and its figures are read."""

    def checkpoint(self, step: int, lora_path: Path) -> None:
        """The LoRA of `step` is on disk under its final name."""

    def validation(self, step: int, loss: float, is_best: bool) -> None:
        """The loss on the held-out pictures after `step` steps; `is_best`: lower than all before."""

    def preview(self, step: int, pictures: Sequence[Path]) -> None:
        """Pictures drawn with the LoRA of `step` are on disk, one for each prompt; step 0 is the base."""

    def note(self, text: str) -> None:
        """A sentence about the settings, before anything is trained: what has no effect, what is odd."""

    def should_stop(self) -> bool:
        """Asked between steps and between pictures: True saves everything and cancels the run."""
        ...


class SilentListener:
    """Hears everything, says nothing, never stops: the base for listeners that care for one event."""

    def phase(self, name: str, done: int, total: int) -> None:
        pass

    def step(self, report: StepReport) -> None:
        pass

    def checkpoint(self, step: int, lora_path: Path) -> None:
        pass

    def validation(self, step: int, loss: float, is_best: bool) -> None:
        pass

    def preview(self, step: int, pictures: Sequence[Path]) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def should_stop(self) -> bool:
        return False
