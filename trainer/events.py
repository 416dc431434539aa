"""How a run tells who listens what it does, and hears whether to go on.

The loop does not know who listens: ComfyUI, a terminal bar, a test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Activity = Literal["measuring", "sampling", "saving", "paused", "training", "ending"]
"""What a run does between its first and its last step; "ending" comes once, after the last: nothing but
pictures that were asked for before is granted any more."""

Wish = Literal["finish", "sample", "save"]
"""What may be asked of a running run: to end now as a success, to draw the previews, to save a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart:
    """What is known once a run has its name.

    `step` is where this call goes on: 0 for a new run, `num_steps` or less for one that was finished before
    and is only loaded. `folder` holds its metrics and samples, `prompts` are those of the previews, which are
    drawn at `size`, (width, height) in pixels.
    """

    name: str
    folder: Path
    step: int
    num_steps: int
    prompts: Sequence[str]
    size: tuple[int, int]


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

    def begin(self, start: RunStart) -> None:
        """The run has its name and its folder; comes once, before pictures are encoded."""

    def activity(self, name: Activity) -> None:
        """What the run does from now on; a step says "training" by itself."""

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
        """A sentence for the user: before training about the settings, on the way about what went wrong."""

    def should_stop(self) -> bool:
        """Asked between steps and between pictures: True saves everything and cancels the run."""
        ...

    def can_wish(self) -> bool:
        """Whether somebody is there who may ask for something on the way; previews are made ready then."""
        ...

    def next_wish(self) -> Wish | None:
        """The oldest wish that was not heard yet, asked between steps; hearing it takes it off."""
        ...

    def is_paused(self) -> bool:
        """Asked between steps: True holds the run there, with all that it keeps on the device."""
        ...


class SilentListener:
    """Hears everything, says nothing, never stops: the base for listeners that care for one event."""

    def begin(self, start: RunStart) -> None:
        pass

    def activity(self, name: Activity) -> None:
        pass

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

    def can_wish(self) -> bool:
        return False

    def next_wish(self) -> Wish | None:
        return None

    def is_paused(self) -> bool:
        return False
