"""Loss scaling for float16: gradients too small for it are made larger before the backward pass.

Semantics of torch.amp.GradScaler (start 65536, x 2 after 2000 good steps, / 2 at each overflow), over
the flat float32 gradient and without waiting for the device.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

START = 65536.0
GROWTH_INTERVAL = 2000


class LossScale:
    """`scale` multiplies the loss; both tensors are scalars, float32, on the device."""

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.tensor(START, device=device)
        self._good_steps = torch.tensor(0.0, device=device)

    def update(self, overflowed: Tensor) -> None:
        """After each optimizer step; `overflowed` is a bool scalar: the gradient was not finite."""
        good_steps = torch.where(overflowed, 0.0, self._good_steps + 1)
        grown = good_steps >= GROWTH_INTERVAL
        factor = torch.where(overflowed, 0.5, torch.where(grown, 2.0, 1.0))
        self.scale = self.scale * factor
        self._good_steps = torch.where(grown, 0.0, good_steps)

    def state(self) -> dict[str, Tensor]:
        return {"scale": self.scale.cpu(), "good_steps": self._good_steps.cpu()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.scale = state["scale"].to(self.scale.device)
        self._good_steps = state["good_steps"].to(self.scale.device)
