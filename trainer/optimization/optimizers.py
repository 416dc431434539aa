"""The optimizer of an adapter, and the step that a gradient which is not finite leaves out."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..adapter.flat_weights import FlatWeights
from ..config import OptimizerConfig, ProdigyConfig
from .optimizer_checks import optimizer_notes, optimizer_problems
from .optimizer_kinds import KINDS, PRODIGY_KINDS, build_optimizer, optimizer_description, require_optimizer
from .optimizer_state import group_defaults, load_optimizer_state, optimizer_state
from .weight_average import preserved

__all__ = [
    "AdapterOptimizer",
    "build_optimizer",
    "optimizer_description",
    "optimizer_notes",
    "optimizer_problems",
    "require_optimizer",
    "step_if_finite",
]

WHOLE = "all"
"""Name of the one weight that an element-wise optimizer sees."""


class AdapterOptimizer:
    """Moves `weights.master` by `weights.gradient`.

    Element-wise optimizers see the flat buffer as one weight, unless LoRA+ splits it: the same numbers, in
    one operation instead of a thousand. The others see each weight in its own shape. None replaces the
    memory of a weight or of its gradient.

    With LoRA+ (Hayou et al., arXiv 2402.12354) the weights for which `is_up` is true are a group of their
    own, whose rate is `lora_plus_ratio` times the other's.

    Attributes:
        bytes_per_weight: of the moments, at most.
        groups: torch's parameter groups, to read.
    """

    def __init__(
        self,
        weights: FlatWeights,
        config: OptimizerConfig,
        prodigy: ProdigyConfig,
        is_up: Callable[[str], bool],
    ) -> None:
        self._weights = weights
        self._config = config
        self.bytes_per_weight = KINDS[config.optimizer].bytes_per_weight
        named, self._factors = _named_groups(weights, config, is_up)
        self._names = {p: name for group in named for name, p in group.items()}
        groups: list[dict[str, Any]] = [{"params": list(group.values())} for group in named]
        for group, weights_by_name in zip(groups, named, strict=True):
            if all(map(has_no_decay, weights_by_name)):
                group["weight_decay"] = 0.0
        self._optimizer = build_optimizer(groups, config, prodigy)
        self._defaults = group_defaults(self._optimizer)
        self._is_evaluating = False

    @property
    def groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups

    def step(self, learning_rate: float, is_finite: Tensor) -> None:
        """One step at a rate, or none at all: see `step_if_finite`.

        Raises:
            RuntimeError: within `evaluation`.
        """
        self._require_training("step")
        for group, factor in zip(self.groups, self._factors, strict=True):
            group["lr"] = learning_rate * factor
        step_if_finite(self._optimizer, is_finite)

    @property
    def rate_factor(self) -> float:
        """What the rate is multiplied with before it moves the weights: a Prodigy's estimate d, else 1."""
        return float(self.groups[0]["d"]) if self._config.optimizer in PRODIGY_KINDS else 1.0

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Within it, master and the layers hold the weights to use; after it, bit for bit those to train on.

        For schedule-free they differ: the former are a mean over the run. The library's own way back from it
        rounds, so the weights are kept and put back instead.
        """
        if self._config.optimizer != "prodigy_plus_schedule_free" or self._is_evaluating:
            yield
            return
        with preserved(self._weights):
            self._optimizer.eval()
            self._weights.publish()
            self._is_evaluating = True
            try:
                yield
            finally:
                self._is_evaluating = False
                for group in self.groups:
                    group["train_mode"] = True

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors on the CPU and JSON values with which, and the weights, `load_state` goes on bit-equally.

        Raises:
            RuntimeError: within `evaluation`, when the weights are not those to train on.
        """
        self._require_training("state")
        return optimizer_state(self._optimizer, self._names, self._defaults)

    def load_state(self, tensors: Mapping[str, Tensor], figures: Mapping[str, Any]) -> None:
        """Into a new optimizer of the same kind, over the same weights.

        Raises:
            ValueError: it is the state of another one.
        """
        load_optimizer_state(self._optimizer, self._names, tensors, figures)

    def _require_training(self, action: str) -> None:
        if self._is_evaluating:
            raise RuntimeError(f"{action}() within evaluation(), where the weights are the averaged ones")


def has_no_decay(name: str) -> bool:
    """DoRA's lengths are no update that may fade: at 0 they would take the frozen weight with them."""
    return name.endswith(".dora_scale")


def _named_groups(
    weights: FlatWeights, config: OptimizerConfig, is_up: Callable[[str], bool]
) -> tuple[list[dict[str, nn.Parameter]], list[float]]:
    """The groups' weights by name, and the factor of each group on the rate.

    DoRA's lengths are a group of their own, after the others: see `has_no_decay`.
    """
    ratio = config.lora_plus_ratio
    is_fast = {name: ratio != 1.0 and is_up(name) for name in weights.names}
    has_lengths = any(map(has_no_decay, weights.names))
    if KINDS[config.optimizer].is_elementwise and not any(is_fast.values()) and not has_lengths:
        whole = nn.Parameter(weights.master)
        whole.grad = weights.gradient
        return [{WHOLE: whole}], [1.0]
    views = dict(zip(weights.names, weights.parameters(), strict=True))
    lengths = {name: p for name, p in views.items() if has_no_decay(name)}
    fast = {name: p for name, p in views.items() if is_fast[name] and name not in lengths}
    slow = {name: p for name, p in views.items() if name not in lengths and name not in fast}
    present = [(group, factor) for group, factor in ((slow, 1.0), (fast, ratio), (lengths, 1.0)) if group]
    return [group for group, _ in present], [factor for _, factor in present]


def step_if_finite(optimizer: Optimizer, is_finite: Tensor) -> None:
    """One optimizer step, or none at all: weights, moments and step count stay when `is_finite` is False.

    Fused AdamW looks at the flag on the device, as it does for `torch.amp.GradScaler`, so that the host need
    not wait; for all others the host does.

    Args:
        optimizer: from `build_optimizer`.
        is_finite: scalar bool tensor, on the device of the weights.
    """
    if not optimizer.param_groups[0].get("fused"):
        if bool(is_finite):
            optimizer.step()
        return
    optimizer.grad_scale, optimizer.found_inf = None, is_finite.logical_not().to(torch.float32)
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf
