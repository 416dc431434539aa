"""Layers with a LoRA beside them, forward and backward, in as few device operations as they need.

y = base(x) + scale * up(down(x)), Hu et al., arXiv 2106.09685, eq. 3, with scale = alpha / rank. The scale
rides on the multiplications, and the gradients of `up` and `down` are added straight into the flat gradient
buffer: autograd holds none for them, `.grad` stays None. peft's layer takes 5 operations forward where this
takes 3, and 7 backward where this takes 5.

Shapes: N samples x tokens, I inputs, O outputs, R rank; B, H, W of a convolution.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .adapter_dropout import AdapterMode, LayerDropout


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

    @property
    def rank_axis(self) -> int:
        """Of what lies between `down` and `up`: (..., R) or (B, R, H, W)."""
        return 1 if isinstance(self.base, nn.Conv2d) else -1

    def hidden_of(self, x: Tensor) -> Tensor:
        """`down` on the input: (..., I) -> (..., R), or (B, I, H, W) -> (B, R, H', W')."""
        down = self.down.detach()
        if isinstance(self.base, nn.Conv2d):
            return F.conv2d(x, down, None, self.base.stride, self.base.padding, self.base.dilation)
        return (x.reshape(-1, x.shape[-1]) @ down.t()).view(*x.shape[:-1], -1)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """The layer's output with scale * up @ hidden added."""
        up = self.up.detach()
        if not isinstance(self.base, nn.Conv2d):
            y = F.linear(x, self.base.weight, self.base.bias)
            y.view(-1, y.shape[-1]).addmm_(hidden.view(-1, hidden.shape[-1]), up.t(), alpha=self.scale)
            return y
        conv = self.base
        y = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation).contiguous()
        up_matrix = up.flatten(1).expand(y.shape[0], -1, -1)  # (B, O, R)
        y.flatten(2).baddbmm_(up_matrix, hidden.flatten(2), alpha=self.scale)  # (B, O, H*W)
        return y

    def backward(
        self, dy: Tensor, x: Tensor, hidden: Tensor, mask: Tensor | None, needs_dx: bool
    ) -> Tensor | None:
        """Add the gradients of `down` and `up` to the buffers; says the gradient of the input.

        Args:
            dy: of the output.
            x: of the forward pass.
            hidden: of the forward pass, after the mask.
            mask: what `hidden` was multiplied with.
            needs_dx: whether the input's gradient is wanted.
        """
        run = self._conv_backward if isinstance(self.base, nn.Conv2d) else self._linear_backward
        return run(dy, x, hidden, mask, needs_dx)

    def _linear_backward(
        self, dy: Tensor, x: Tensor, hidden: Tensor, mask: Tensor | None, needs_dx: bool
    ) -> Tensor | None:
        dy = dy.reshape(-1, dy.shape[-1])
        rows, hidden_rows = x.reshape(-1, x.shape[-1]), hidden.view(-1, hidden.shape[-1])
        d_hidden = dy @ self.up.detach()
        if mask is not None:
            d_hidden.view_as(hidden).mul_(mask)
        self.up_gradient.addmm_(dy.t(), hidden_rows, alpha=self.scale)
        self.down_gradient.addmm_(d_hidden.t(), rows, alpha=self.scale)
        if not needs_dx:
            return None
        dx = dy @ self.base.weight
        return dx.addmm_(d_hidden, self.down.detach(), alpha=self.scale).view(x.shape)

    def _conv_backward(
        self, dy: Tensor, x: Tensor, hidden: Tensor, mask: Tensor | None, needs_dx: bool
    ) -> Tensor | None:
        dy_rows = dy.flatten(2)  # (B, O, H*W)
        up_matrix = self.up.detach().flatten(1).t().expand(dy.shape[0], -1, -1)  # (B, R, O)
        d_hidden = torch.bmm(up_matrix, dy_rows).view_as(hidden)
        if mask is not None:
            d_hidden.mul_(mask)
        self.up_gradient.flatten(1).addbmm_(dy_rows, hidden.flatten(2).mT, alpha=self.scale)
        dx_side, d_down = conv_backward(self.base, d_hidden, x, self.down.detach(), (needs_dx, True))
        self.down_gradient.add_(d_down, alpha=self.scale)
        if not needs_dx:
            return None
        dx, _ = conv_backward(self.base, dy, x, self.base.weight, (True, False))
        return dx.add_(dx_side, alpha=self.scale)


def conv_backward(
    conv: nn.Module, dy: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Gradients of the input and of `weight`, for the geometry of `conv`; unwanted ones are None."""
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


class _LoRA(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, down: Tensor, up: Tensor, layer: LoRALayer, dropout: LayerDropout | None
    ) -> Tensor:
        hidden = layer.hidden_of(x)
        mask = None if dropout is None else dropout.inner_mask(hidden, layer.rank_axis)
        if mask is not None:
            hidden.mul_(mask)
        # weights and buffers outlive the graph: only what the step computed goes through save_for_backward,
        # so that a checkpoint drops it
        ctx.layer = layer
        ctx.save_for_backward(x, hidden, mask)
        return layer.forward(x, hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, mask = ctx.saved_tensors
        return ctx.layer.backward(dy, x, hidden, mask, ctx.needs_input_grad[0]), None, None, None, None


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
    """Linear layers of one input and one rank. `down` and `down_gradient`: theirs joined, (L*R, I)."""

    layers: tuple[LoRALayer, ...]
    down: Tensor
    down_gradient: Tensor
    mode: AdapterMode

    @property
    def scale(self) -> float:
        return self.layers[0].scale

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """(..., I) -> the (..., O) of each layer."""
        if not self.mode.is_on:
            return tuple(F.linear(x, layer.base.weight, layer.base.bias) for layer in self.layers)
        weights = [weight for layer in self.layers for weight in (layer.down, layer.up)]
        return _SharedInputLoRA.apply(x, self, *weights)


def run_lora(layer: LoRALayer, x: Tensor, dropout: LayerDropout | None) -> Tensor:
    """(..., I) -> (..., O), or (B, I, H, W) -> (B, O, H', W')."""
    return _LoRA.apply(x, layer.down, layer.up, layer, dropout)
