"""Leaving out parts of the update at random while training, and leaving out all of it on request.

Every mask is a function of (seed, micro-step, layer): a block that is computed again in the backward pass
(gradient checkpointing) draws the same one, and a resumed run goes on as if it had never stopped.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import LoRAConfig


@dataclass
class AdapterMode:
    """What the layers of one adapter look up when they run.

    Attributes:
        is_on: False = the UNet answers as without adapter.
        is_training: False = nothing is dropped.
        seed, index: of the micro-step that runs.
    """

    is_on: bool = True
    is_training: bool = True
    seed: int = 0
    index: int = 0

    @contextmanager
    def turned(self, *, is_on: bool | None = None, is_training: bool | None = None) -> Iterator[None]:
        """Set one or both for as long as the block lasts."""
        before = self.is_on, self.is_training
        self.is_on = before[0] if is_on is None else is_on
        self.is_training = before[1] if is_training is None else is_training
        try:
            yield
        finally:
            self.is_on, self.is_training = before


@dataclass(frozen=True, slots=True)
class LayerDropout:
    """Dropout of one layer: `values`, `ranks` and `modules` are shares from 0 to below 1.

    What is kept is scaled by 1 / (1 - share), so that the update is the same on average; a layer that is
    left out whole is not made up for (kohya's networks/lora.py and LyCORIS do neither).
    """

    values: float
    ranks: float
    modules: float
    mode: AdapterMode
    name: str

    def is_left_out(self) -> bool:
        """Whether this layer runs without its update in this micro-step. Drawn without the device."""
        number = int.from_bytes(self._digest("module")[8:16], "little")
        return number < self.modules * 2**64

    def inner_mask(self, hidden: Tensor, rank_axis: int) -> Tensor | None:
        """For the values between `lora_down` and `lora_up`: factors that broadcast to `hidden`, or None.

        Single values (`dropout`), and whole ranks of single samples (`rank_dropout`).

        Args:
            hidden: (B, ..., R), or (B, R, H, W).
            rank_axis: -1 or 1.
        """
        of_values = self._factors(hidden.shape, self.values, "values", hidden) if self.values else None
        if not self.ranks:
            return of_values
        shape = [1] * hidden.ndim
        shape[0], shape[rank_axis] = hidden.shape[0], hidden.shape[rank_axis]
        of_ranks = self._factors(shape, self.ranks, "ranks", hidden)
        return of_ranks if of_values is None else of_values * of_ranks

    def rank_mask(self, num: int, like: Tensor) -> Tensor | None:
        """For a whole batch: (num,) factors, or None when no rank is dropped."""
        return self._factors((num,), self.ranks, "ranks", like) if self.ranks else None

    def _factors(self, shape: Sequence[int], share: float, purpose: str, like: Tensor) -> Tensor:
        """0 for what is left out, 1 / (1 - share) for what stays; in the type and on the device of `like`."""
        generator = torch.Generator(like.device)
        generator.manual_seed(int.from_bytes(self._digest(purpose)[:8], "little", signed=True))
        kept = torch.empty(shape, dtype=like.dtype, device=like.device)
        return kept.bernoulli_(1.0 - share, generator=generator).div_(1.0 - share)

    def _digest(self, purpose: str) -> bytes:
        return hashlib.sha256(f"{self.mode.seed}:{self.mode.index}:{self.name}:{purpose}".encode()).digest()


def layer_dropout(config: LoRAConfig, mode: AdapterMode, name: str) -> LayerDropout | None:
    """The dropout of the layer `name`, or None where nothing is ever dropped."""
    if not (config.dropout or config.rank_dropout or config.module_dropout):
        return None
    return LayerDropout(config.dropout, config.rank_dropout, config.module_dropout, mode, name)
