"""Weights that learn together in a part of the run: the UNet's adapter, one text encoder's, the new tokens.

Each has an optimizer of its own, so that Prodigy's estimate and the rates of the others do not meddle.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .adapter.flat_weights import FlatWeights
from .adapter.lora import Adapter
from .config import TrainConfig
from .optimization.lr_schedule import learning_rate_at
from .optimization.optimizers import AdapterOptimizer
from .optimization.weight_average import WeightAverage
from .settings.part_rates import Part, part_optimizer, part_window

CLIP_EPS = 1e-6
"""As of `torch.nn.utils.clip_grad_norm_`."""

_TITLES: Mapping[Part, str] = {
    "unet": "the LoRA",
    "clip_l": "CLIP-L's LoRA",
    "clip_g": "CLIP-G's LoRA",
    "tokens": "the new tokens",
}


class Learner(Protocol):
    """What holds the weights: an `Adapter` or `TokenVectors`."""

    weights: FlatWeights

    @property
    def size(self) -> int:
        """How many layers or tokens there are."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """float32 copies on the CPU."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...

    def detach(self) -> None:
        """Take it off its network, which is then what it was before."""
        ...

    def num_still(self) -> int:
        """How many of its layers or rows are still as they started. Waits for the device."""
        ...


@dataclass(eq=False)
class TrainedPart:
    """One set of weights and how it learns.

    Attributes:
        name: which part of the model.
        learner: its weights.
        optimizer: None once the part has settled.
        average: running mean of the weights, where one is kept and the part has not settled.
        config: of the run, with the part's own optimizer section.
        window: step at which it begins to learn, and the one at which it no longer does.
        after_update: what keeps the weights in bounds after each step; is told whether there was one.
        starts_from_file: whether it does something before its first step.
    """

    name: Part
    learner: Learner
    optimizer: AdapterOptimizer | None
    average: WeightAverage | None
    config: TrainConfig
    window: tuple[int, int]
    after_update: Callable[[Tensor], None] = lambda is_finite: None
    starts_from_file: bool = False
    _rate_factor: float = 1.0
    _num_still: int | None = None
    _has_begun: bool = False

    @classmethod
    def of(
        cls,
        name: Part,
        learner: Learner,
        config: TrainConfig,
        is_up: Callable[[str], bool] = lambda name: False,
    ) -> "TrainedPart":
        """A part before its first step, with the settings that `config` has for it.

        Raises:
            InputError: the package of its optimizer is missing.
        """
        own = replace(config, optimizer=part_optimizer(config, name))
        decay = own.optimizer.ema_decay
        return cls(
            name=name,
            learner=learner,
            optimizer=AdapterOptimizer(learner.weights, own.optimizer, own.prodigy, is_up),
            average=WeightAverage(learner.weights, decay) if decay else None,
            config=own,
            window=part_window(config, name),
        )

    @property
    def weights(self) -> FlatWeights:
        return self.learner.weights

    def learns_at(self, step: int) -> bool:
        """Whether the optimizer step after `step` finished ones moves it."""
        first, end = self.window
        return first <= step < end

    def learning_rate_at(self, step: int) -> float:
        """Its rate: the schedule runs over the part's own steps."""
        first, end = self.window
        return learning_rate_at(step - first, end - first, self.config)

    def update(self, learning_rate: float, is_finite: Tensor) -> None:
        """One optimizer step, or none at all where the gradient is not finite."""
        assert self.optimizer is not None
        self._has_begun = True
        self.optimizer.step(learning_rate, is_finite)
        self.after_update(is_finite)
        self.weights.publish()
        if self.average is not None:
            self.average.update()

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Within it the weights are those to show; after it those to train on, bit for bit."""
        with contextlib.ExitStack() as stack:
            if self._has_begun:
                # schedule-free keeps marks of an evaluation, which before its first step throw it off
                if self.optimizer is not None:
                    stack.enter_context(self.optimizer.evaluation())
                if self.average is not None:
                    stack.enter_context(self.average.evaluation())
            yield

    @torch.no_grad()
    def settle(self) -> None:
        """It has learned: the weights become those to show, moments and mean are let go."""
        self._rate_factor, self._num_still = self.rate_factor, self.num_still()
        with self.evaluation():
            shown = self.weights.master.clone()
        self.weights.master.copy_(shown)
        self.weights.publish()
        self.optimizer = self.average = None

    @property
    def title(self) -> str:
        return _TITLES[self.name]

    @property
    def size(self) -> int:
        """Layers that learn, or new tokens."""
        return self.learner.size

    @property
    def unit(self) -> str:
        return "new tokens" if self.name == "tokens" else f"layers of {self.title}"

    @property
    def num_out_of_reach(self) -> int:
        """Layers that no gradient ever reaches: CLIP-L gives out what lies before its last block."""
        return len(self.learner.idle) if isinstance(self.learner, Adapter) else 0

    @property
    def has_settled(self) -> bool:
        return self.optimizer is None

    @property
    def rate_factor(self) -> float:
        """What the optimizer multiplies its rate with: Prodigy's d, else 1."""
        return self._rate_factor if self.optimizer is None else self.optimizer.rate_factor

    def num_still(self) -> int:
        """How many of its layers or rows have not moved. Waits for the device, unless it has settled."""
        return self.learner.num_still() if self._num_still is None else self._num_still

    def not_moved(self, step: int, num_skipped: int) -> str:
        """What to say when a run at `step` finds this part as it started."""
        first, end = self.window
        num_steps = min(step, end) - first
        advice = "raise the learning rate or the steps"
        if self.name == "tokens":
            advice = (
                "raise ti_fraction or the steps, so that captions with their word come up, or set add_token"
            )
        return (
            f"nothing was learned: after {num_steps} steps at learning rate "
            f"{self.config.optimizer.effective_learning_rate:g} no weight of {self.title} has moved "
            f"({num_skipped} steps were skipped): {advice}"
        )

    @property
    def bytes_per_weight(self) -> int:
        """Of what is kept beside each float32 weight to go on: moments and mean."""
        moments = self.optimizer.bytes_per_weight if self.optimizer is not None else 0
        return moments + (4 if self.average is not None else 0)

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """What `load_state` goes on with: tensors by what they are, and plain values."""
        tensors = {"lora": self.learner.state_dict()}
        figures: dict[str, Any] = {}
        if self._has_begun and self.optimizer is not None:
            tensors["optimizer"], figures = self.optimizer.state()
        if self._has_begun and self.average is not None:
            tensors["average"] = self.average.state()
        return tensors, figures

    def load_state(self, tensors: Mapping[str, Mapping[str, Tensor]], figures: Mapping[str, Any]) -> None:
        """The inverse of `state`, for a part that has settled if, and only if, the other one had.

        Raises:
            ValueError: it is the state of other weights.
        """
        self.learner.load_state_dict(tensors["lora"])
        self._has_begun = bool(figures)
        if self._has_begun and self.optimizer is not None:
            self.optimizer.load_state(tensors.get("optimizer", {}), figures)
        if self._has_begun and self.average is not None:
            self.average.load_state(tensors["average"])
        if self.has_settled:
            self._num_still = self.learner.num_still()


def clip_together(parts: Sequence[TrainedPart], max_norm: float) -> Tensor:
    """Shorten the gradient of all parts to `max_norm` where it is longer; 0 = never. No wait for the device.

    Returns:
        The length before over all parts, a scalar tensor (as `torch.nn.utils.clip_grad_norm_`).
    """
    if len(parts) == 1:
        return parts[0].weights.clip(max_norm)
    norms = [part.weights.grad_norm() for part in parts]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    if max_norm > 0:
        factor = (max_norm / (norm + CLIP_EPS)).clamp(max=1.0)
        for part in parts:
            part.weights.gradient.mul_(factor)
    return norm
