"""Layers whose update is a matrix as large as the weight: LoHa and LoKr.

y = (W + update) x. The update is built from its small factors in the forward pass, thrown away, and built
again in the backward pass, so that only x is kept. In half precision the forward pass multiplies it on its
own: W + update would lose every part of it that is smaller than a 512th of its weight. For the gradient of
x, which is that rough anyway, the sum does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .adapter_dropout import LayerDropout
from .adapter_parts import update_of
from .fused_lora import conv_backward

_WIDE = 4
"""Bytes of a number that has room for an update beside the weight."""


@dataclass(frozen=True, slots=True)
class WeightSpaceLayer:
    """A frozen layer and the factors of its update, by part name; the gradient buffers are added to."""

    base: nn.Linear | nn.Conv2d
    parts: Mapping[str, nn.Parameter]
    gradients: Mapping[str, Tensor]
    scale: float

    def update(self, parts: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
        """(O, I) or (O, I, k, k).

        Args:
            parts: the factors to build it from.
            mask: (O,) factors of the rows, or None.
        """
        update = update_of(parts, tuple(self.base.weight.shape), self.scale)
        return update if mask is None else update * mask.view(-1, *[1] * (update.ndim - 1))


class _WeightSpace(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, layer: WeightSpaceLayer, dropout: LayerDropout | None, *_parts: Tensor
    ) -> Tensor:
        base = layer.base
        # LyCORIS drops rows of the update where plain LoRA drops ranks (lycoris/modules/loha.py, lokr.py)
        mask = None if dropout is None else dropout.rank_mask(base.weight.shape[0], base.weight)
        update = layer.update({name: part.detach() for name, part in layer.parts.items()}, mask)
        ctx.layer = layer
        ctx.save_for_backward(x, mask)
        if base.weight.dtype.itemsize >= _WIDE:
            return _apply(base, x, base.weight + update, base.bias)
        return _apply(base, x, base.weight, base.bias).add_(_apply(base, x, update, None))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        layer: WeightSpaceLayer = ctx.layer
        x, mask = ctx.saved_tensors
        with torch.enable_grad():
            factors = {name: part.detach().requires_grad_() for name, part in layer.parts.items()}
            update = layer.update(factors, mask)
        changed = layer.base.weight + update.detach()
        dx, d_update = _gradients(layer.base, dy, x, changed, ctx.needs_input_grad[0])
        gradients = torch.autograd.grad(update, list(factors.values()), d_update)
        for name, gradient in zip(factors, gradients, strict=True):
            layer.gradients[name].add_(gradient)
        return (dx, None, None, *([None] * len(factors)))


def _apply(base: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(base, nn.Conv2d):
        return F.conv2d(x, weight, bias, base.stride, base.padding, base.dilation)
    return F.linear(x, weight, bias)


def _gradients(
    base: nn.Module, dy: Tensor, x: Tensor, weight: Tensor, needs_dx: bool
) -> tuple[Tensor | None, Tensor]:
    """Of the input, where it is wanted, and of the weight."""
    if isinstance(base, nn.Conv2d):
        return conv_backward(base, dy, x, weight, (needs_dx, True))
    dy, rows = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    return (dy @ weight).view(x.shape) if needs_dx else None, dy.t() @ rows


def run_weight_space(layer: WeightSpaceLayer, x: Tensor, dropout: LayerDropout | None) -> Tensor:
    """(..., I) -> (..., O), or (B, I, H, W) -> (B, O, H', W')."""
    return _WeightSpace.apply(x, layer, dropout, *layer.parts.values())


class _Untouched(torch.autograd.Function):
    """The frozen layer alone, yet with a way back for autograd where nothing else of the model learns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: nn.Module, *_parts: Tensor) -> Tensor:
        ctx.base, ctx.x_shape = base, x.shape
        if isinstance(base, nn.Conv2d):
            # a gradient in x needs its shape only, but the operation wants a tensor of it
            ctx.save_for_backward(x)
        return type(base).forward(base, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        base, rest = ctx.base, [None] * (len(ctx.needs_input_grad) - 1)
        if not ctx.needs_input_grad[0]:
            return (None, *rest)
        if isinstance(base, nn.Conv2d):
            dx, _ = conv_backward(base, dy, ctx.saved_tensors[0], base.weight, (True, False))
            return (dx, *rest)
        dx = dy.reshape(-1, dy.shape[-1]) @ base.weight
        return (dx.view(ctx.x_shape), *rest)


def run_untouched(base: nn.Module, x: Tensor, parts: Mapping[str, nn.Parameter]) -> Tensor:
    """The output of `base`, which needs a gradient although no part of the update does anything."""
    return _Untouched.apply(x, base, *parts.values())
