"""Text encoders whose weights stay in half precision while all computing is in float32.

A host holds its encoders in float16, but conditions must be those of float32. Cast layer by layer, forward
and again backward, the weights need half the memory of a float32 copy, and none of it is kept for the
backward pass. `I` inputs, `O` outputs of a layer.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _HalfWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # the stored weight outlives the graph and is no part of it
        ctx.weight = weight
        return F.linear(x, weight.float(), None if bias is None else bias.float())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return dy @ ctx.weight.float(), None, None


class HalfLinear(nn.Module):
    """A frozen linear layer with a half-precision weight, computing in float32.

    Args:
        stored: the layer; its tensors are shared, not copied.
    """

    def __init__(self, stored: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = stored.in_features, stored.out_features
        self.stored_weight = stored.weight
        self.stored_bias = stored.bias

    @property
    def weight(self) -> Tensor:
        """(O, I) float32, a fresh copy at each call."""
        return self.stored_weight.detach().float()

    @property
    def bias(self) -> Tensor | None:
        """(O,) float32, a fresh copy at each call."""
        return None if self.stored_bias is None else self.stored_bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) float32 -> (..., O) float32."""
        bias = None if self.stored_bias is None else self.stored_bias.detach()
        return _HalfWeight.apply(x, self.stored_weight.detach(), bias)


class HalfEmbedding(nn.Module):
    """A frozen table in half precision that gives float32 rows.

    Args:
        stored: the table; its tensor is shared, not copied.
    """

    def __init__(self, stored: nn.Embedding) -> None:
        super().__init__()
        self.weight = stored.weight

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., width) float32."""
        return F.embedding(ids, self.weight.detach()).float()


def hold_in_half(model: nn.Module) -> nn.Module:
    """Let a text encoder compute in float32 with the weights it has, whatever narrower type they are of.

    Linear layers and embeddings are replaced by ones that share their tensors; the few numbers of norms
    become float32 copies. Parts in float32 stay as they are. A module of the host is never changed: the
    modules of `model` are its own, and only they are.

    Args:
        model: frozen and private, but its tensors may be someone else's.

    Returns:
        `model`.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if not _is_narrow(child):
                continue
            if isinstance(child, nn.Linear):
                setattr(parent, name, HalfLinear(child))
            elif isinstance(child, nn.Embedding):
                setattr(parent, name, HalfEmbedding(child))
            else:
                _widen(child)
    return model


def _is_narrow(module: nn.Module) -> bool:
    own = module.parameters(recurse=False)
    return any(p.is_floating_point() and p.dtype.itemsize < torch.float32.itemsize for p in own)


def _widen(module: nn.Module) -> None:
    for name, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(parameter.detach().float(), requires_grad=False))
