"""Layers with a LoRA beside them, forward and backward, in as few device operations as they need.

y = base(x) + scale * up(down(x)), Hu et al., arXiv 2106.09685, eq. 3, with scale = alpha / rank. The scale
rides on the multiplications, and the gradients of `up` and `down` are added straight into the flat gradient
buffer: autograd holds none for them, `.grad` stays None. peft's layer takes 5 operations forward where this
takes 3, and 7 backward where this takes 5.

Shapes: N samples x tokens, I inputs, O outputs, R rank; B, H, W of a convolution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, slots=True)
class LoRALayer:
    """A frozen layer and its LoRA: `down` (R, I) or (R, I, k, k), `up` (O, R) or (O, R, 1, 1).

    The gradient buffers have the shapes of `down` and `up`, and are added to.
    """

    base: nn.Linear | nn.Conv2d
    down: nn.Parameter
    up: nn.Parameter
    down_gradient: Tensor
    up_gradient: Tensor
    scale: float


class _LinearLoRA(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, layer: LoRALayer) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        hidden = rows @ down.t()
        y = F.linear(x, layer.base.weight, layer.base.bias)
        y.view(-1, y.shape[-1]).addmm_(hidden, up.t(), alpha=layer.scale)
        # weights and buffers outlive the graph: only what the step computed goes through save_for_backward,
        # so that a checkpoint drops it
        ctx.layer, ctx.x_shape = layer, x.shape
        ctx.save_for_backward(rows, hidden)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        layer: LoRALayer = ctx.layer
        rows, hidden = ctx.saved_tensors
        dy = dy.reshape(-1, dy.shape[-1])
        d_hidden = dy @ layer.up.detach()
        layer.up_gradient.addmm_(dy.t(), hidden, alpha=layer.scale)
        layer.down_gradient.addmm_(d_hidden.t(), rows, alpha=layer.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = dy @ layer.base.weight
            dx = dx.addmm_(d_hidden, layer.down.detach(), alpha=layer.scale).view(ctx.x_shape)
        return dx, None, None, None


class _ConvLoRA(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, layer: LoRALayer) -> Tensor:
        conv = layer.base
        hidden = F.conv2d(x, down, None, conv.stride, conv.padding, conv.dilation)
        y = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation).contiguous()
        up_matrix = up.flatten(1).expand(y.shape[0], -1, -1)  # (B, O, R)
        y.flatten(2).baddbmm_(up_matrix, hidden.flatten(2), alpha=layer.scale)  # (B, O, H*W)
        ctx.layer = layer
        ctx.save_for_backward(x, hidden)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        layer: LoRALayer = ctx.layer
        x, hidden = ctx.saved_tensors
        dy_rows = dy.flatten(2)  # (B, O, H*W)
        up_matrix = layer.up.detach().flatten(1).t().expand(dy.shape[0], -1, -1)  # (B, R, O)
        d_hidden = torch.bmm(up_matrix, dy_rows).view_as(hidden)
        layer.up_gradient.flatten(1).addbmm_(dy_rows, hidden.flatten(2).mT, alpha=layer.scale)
        needs_dx = ctx.needs_input_grad[0]
        dx_side, d_down = _conv_backward(layer.base, d_hidden, x, layer.down.detach(), (needs_dx, True))
        layer.down_gradient.add_(d_down, alpha=layer.scale)
        if not needs_dx:
            return None, None, None, None
        dx, _ = _conv_backward(layer.base, dy, x, layer.base.weight, (True, False))
        return dx.add_(dx_side, alpha=layer.scale), None, None, None


def _conv_backward(
    conv: nn.Conv2d, dy: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    dx, d_weight, _ = torch.ops.aten.convolution_backward(
        dy,
        x,
        weight,
        None,
        conv.stride,
        conv.padding,
        conv.dilation,
        False,
        [0, 0],
        1,
        [*wanted, False],
    )
    return dx, d_weight


class _SharedInputLoRA(torch.autograd.Function):
    """Several linear layers of the same input, such as to_q, to_k, to_v, in one go.

    Their `down` matrices lie side by side in the flat buffer, so one multiplication serves all of them, and
    the gradient of their input is summed in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: "LoRAGroup", *_weights: Tensor) -> tuple[Tensor, ...]:
        rows = x.reshape(-1, x.shape[-1])
        hidden = rows @ group.down.t()  # (N, L*R) of L layers
        outputs = []
        for layer, part in zip(group.layers, hidden.chunk(len(group.layers), dim=1), strict=True):
            y = F.linear(x, layer.base.weight, layer.base.bias)
            y.view(-1, y.shape[-1]).addmm_(part, layer.up.detach().t(), alpha=layer.scale)
            outputs.append(y)
        ctx.group, ctx.x_shape = group, x.shape
        ctx.save_for_backward(rows, hidden)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        group: LoRAGroup = ctx.group
        rows, hidden = ctx.saved_tensors
        d_hidden = torch.empty_like(hidden)
        num_layers = len(group.layers)
        parts = zip(
            group.layers, d_outputs, hidden.chunk(num_layers, 1), d_hidden.chunk(num_layers, 1), strict=True
        )
        dx = None
        for layer, d_output, part, d_part in parts:
            dy = d_output.reshape(-1, d_output.shape[-1])
            torch.mm(dy, layer.up.detach(), out=d_part)
            layer.up_gradient.addmm_(dy.t(), part, alpha=layer.scale)
            if ctx.needs_input_grad[0]:
                weight = layer.base.weight
                dx = dy @ weight if dx is None else dx.addmm_(dy, weight)
        group.down_gradient.addmm_(d_hidden.t(), rows, alpha=group.scale)
        if dx is not None:
            dx = dx.addmm_(d_hidden, group.down, alpha=group.scale).view(ctx.x_shape)
        return (dx, None, *([None] * (2 * num_layers)))


@dataclass(frozen=True, slots=True)
class LoRAGroup:
    """Linear layers of one input. `down` and `down_gradient`: theirs joined, (L*R, I)."""

    layers: tuple[LoRALayer, ...]
    down: Tensor
    down_gradient: Tensor

    @property
    def scale(self) -> float:
        return self.layers[0].scale

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """(..., I) -> the (..., O) of each layer."""
        weights = [weight for layer in self.layers for weight in (layer.down, layer.up)]
        return _SharedInputLoRA.apply(x, self, *weights)


class LoRAForward:
    """The forward of one layer, to stand in place of peft's."""

    def __init__(self, layer: LoRALayer) -> None:
        self.layer = layer
        self._function = _ConvLoRA if isinstance(layer.base, nn.Conv2d) else _LinearLoRA

    def __call__(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), or (B, I, H, W) -> (B, O, H', W')."""
        layer = self.layer
        return self._function.apply(x, layer.down, layer.up, layer)


def can_be_fused(base: nn.Module) -> bool:
    """True for plain linear layers and ungrouped, zero-padded convolutions: all that SDXL's UNet has."""
    if isinstance(base, nn.Conv2d):
        return base.groups == 1 and base.padding_mode == "zeros" and not isinstance(base.padding, str)
    return type(base) is nn.Linear


def kaiming_uniform(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Float32 on the CPU, in +-1 / sqrt(inputs): `nn.init.kaiming_uniform_(a=sqrt(5))`, as kohya's."""
    bound = 1.0 / math.sqrt(math.prod(shape[1:]))
    return torch.empty(tuple(shape)).uniform_(-bound, bound, generator=generator)
