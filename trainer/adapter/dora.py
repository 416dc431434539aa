"""DoRA: an update in direction (a LoRA) and one in length (`dora_scale`), one length for each input.

W' = (W + s up down) * m / n, n the length of what each input is multiplied with: arXiv 2402.09353, eq. 5.
As m / n belongs to the inputs, W' x = (W + s up down)(x * m / n): the LoRA's operations on a scaled input.
No weight is built, and none is rounded: in bfloat16 a small update would vanish in W + s up down.

The axis is LyCORIS' `wd_on_out=False`. On the other one ComfyUI divides by the length of the frozen weight
instead of the changed one (comfy/weight_adapter/base.py, weight_decompose): a file would not act as trained.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .adapter_dropout import LayerDropout
from .fused_lora import LoRALayer

_EPS = torch.finfo(torch.float32).eps  # a column of zeros stays one; ComfyUI adds as much to n


@dataclass(frozen=True, slots=True)
class DoRALayer:
    """A LoRA and the lengths of its weight's columns.

    Attributes:
        magnitude: the parameter that autograd sees, in the model's type.
        master: the same numbers in float32, (1, I) or (1, I, 1, 1): m is near n, and bfloat16 could not hold
            how little they differ.
        gradient: buffer of the shape of `magnitude`, added to.
        square_norm: (I,) of the frozen weight, at least float32.
    """

    lora: LoRALayer
    magnitude: Tensor
    master: Tensor
    gradient: Tensor
    square_norm: Tensor

    def inverse_norm(self, mask: Tensor | None) -> Tensor:
        """(I,): 1 / n, from |a + b|^2 = |a|^2 + 2ab + |b|^2, so that no changed weight has to be built.

        Args:
            mask: (R,) factors of the ranks, or None.
        """
        lora = self.lora
        weight = lora.base.weight.flatten(1)  # (O, I*k*k)
        up, down = lora.up.detach().flatten(1), lora.down.detach().flatten(1)
        if mask is not None:
            up = up * mask
        crossed = up.t() @ weight  # (R, I*k*k)
        crossed.addmm_(up.t() @ up, down, beta=2 * lora.scale, alpha=lora.scale**2)
        products = crossed.mul_(down).view(len(down), len(self.square_norm), -1)
        added = products.sum((0, 2), dtype=self.square_norm.dtype)
        return added.add_(self.square_norm).clamp_(min=_EPS**2).rsqrt_()


class _DoRA(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, layer: DoRALayer, dropout: LayerDropout | None, *_parts: Tensor
    ) -> Tensor:
        lora = layer.lora
        mask = None if dropout is None else dropout.rank_mask(lora.up.shape[1], lora.up)
        inverse_norm = layer.inverse_norm(mask)
        factor = layer.master.view(-1) * inverse_norm
        ctx.layer = layer
        scaled = _scale(x, factor, lora.rank_axis)
        hidden = lora.hidden_of(scaled)
        if mask is not None:
            hidden.mul_(_along(mask, hidden, lora.rank_axis))
        ctx.save_for_backward(x, hidden, factor, inverse_norm, mask)
        return lora.forward(scaled, hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        layer: DoRALayer = ctx.layer
        lora = layer.lora
        x, hidden, factor, inverse_norm, mask = ctx.saved_tensors
        mask = None if mask is None else _along(mask, hidden, lora.rank_axis)
        d_scaled = lora.backward(dy, _scale(x, factor, lora.rank_axis), hidden, mask, True)
        # n counts as constant, arXiv 2402.09353, sec. 4.3
        others = [axis for axis in range(x.ndim) if axis != lora.rank_axis % x.ndim]
        d_factor = (x * d_scaled).sum(others, dtype=factor.dtype)
        layer.gradient.view(-1).add_(d_factor * inverse_norm)
        dx = _scale(d_scaled, factor, lora.rank_axis) if ctx.needs_input_grad[0] else None
        return (dx, *[None] * (len(ctx.needs_input_grad) - 1))


def _along(values: Tensor, like: Tensor, axis: int) -> Tensor:
    """(I,) -> a view that broadcasts along one axis of `like`."""
    shape = [1] * like.ndim
    shape[axis] = -1
    return values.view(shape)


def _scale(x: Tensor, factor: Tensor, axis: int) -> Tensor:
    """Multiplied in float32 and rounded once to the type of `x`."""
    return torch.mul(x, _along(factor, x, axis), out=torch.empty_like(x))


def run_dora(layer: DoRALayer, x: Tensor, dropout: LayerDropout | None) -> Tensor:
    """(..., I) -> (..., O), or (B, I, H, W) -> (B, O, H', W')."""
    lora = layer.lora
    return _DoRA.apply(x, layer, dropout, lora.down, lora.up, layer.magnitude)
