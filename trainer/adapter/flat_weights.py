"""All trainable numbers of a run in one buffer, and their gradients in another beside it.

Clipping, the finite check, publishing and a snapshot are then one operation over the whole adapter,
where a list of tensors needs one for each. N is the total count of numbers.
"""

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


class FlatWeights:
    """Named weights as views of flat buffers.

    Attributes:
        master: (N,) float32, what the optimizer moves.
        gradient: (N,) float32, the sum over the micro-steps since `zero_gradients`.
        compute: (N,) in the model's type, what the layers multiply with; for a float32 model `master` itself.
        compute_gradient: (N,) in the model's type, where layers add the gradient of one micro-step; for a
            float32 model `gradient` itself.
    """

    def __init__(self, shapes: Mapping[str, Shape], device: torch.device, compute_dtype: torch.dtype) -> None:
        sizes = [int(torch.Size(shape).numel()) for shape in shapes.values()]
        ends = list(itertools.accumulate(sizes))
        self._places = {
            name: (end - size, end, tuple(shape))
            for (name, shape), size, end in zip(shapes.items(), sizes, ends, strict=True)
        }
        num_weights = ends[-1] if ends else 0
        self.master = torch.zeros(num_weights, device=device)
        self.gradient = torch.zeros_like(self.master)
        if compute_dtype == torch.float32:
            self.compute, self.compute_gradient = self.master, self.gradient
        else:
            self.compute = torch.zeros_like(self.master, dtype=compute_dtype)
            self.compute_gradient = torch.zeros_like(self.compute)
        self._parameters = self._optimizer_views()

    def _optimizer_views(self) -> dict[str, nn.Parameter]:
        views = {}
        for name in self._places:
            parameter = nn.Parameter(self.view(self.master, name))
            parameter.grad = self.view(self.gradient, name)
            views[name] = parameter
        return views

    @property
    def names(self) -> list[str]:
        return list(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    @property
    def is_shared(self) -> bool:
        """True for a float32 model, which multiplies with the master weights themselves."""
        return self.compute is self.master

    def view(self, buffer: Tensor, name: str) -> Tensor:
        """The part of a flat buffer (N,) that belongs to `name`, in its own shape; writes go through."""
        start, end, shape = self._places[name]
        return buffer[start:end].view(shape)

    def joined_view(self, buffer: Tensor, names: Sequence[str]) -> Tensor:
        """Neighbours of equal width as one matrix: several (rows, columns) -> (sum of rows, columns).

        Raises:
            ValueError: they do not lie side by side, so no view can hold them.
        """
        places = [self._places[name] for name in names]
        gaps = any(before[1] != after[0] for before, after in itertools.pairwise(places))
        if gaps or len({place[2][1:] for place in places}) != 1:
            raise ValueError(f"{', '.join(names)} do not lie side by side in the flat buffer")
        return buffer[places[0][0] : places[-1][1]].view(-1, *places[0][2][1:])

    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer gets: float32 views of `master`, their `.grad` views of `gradient`.

        Empty gradients with `zero_gradients`, never with `Optimizer.zero_grad`, which would cut the views.
        """
        return list(self._parameters.values())

    def collect_gradients(self, scale: float = 1.0) -> None:
        """Add the micro-step's gradient times `scale` (1 / loss scale) to `gradient`, empty it for the next.

        A float32 model has added it there already.

        Raises:
            ValueError: another scale than 1 for a float32 model, whose loss needs no scaling.
        """
        if not self.is_shared:
            self.gradient.add_(self.compute_gradient, alpha=scale)
            self.compute_gradient.zero_()
        elif scale != 1.0:
            raise ValueError(f"the gradient of a float32 model is not scaled, but scale is {scale:g}")

    def zero_gradients(self) -> None:
        """Empty all gradients, also what a backward pass left that broke off half way (out of memory)."""
        self.gradient.zero_()
        if not self.is_shared:
            self.compute_gradient.zero_()

    def grad_norm(self) -> Tensor:
        """Euclidean length of `gradient`, a scalar tensor on the device; not finite if any part is not."""
        return torch.linalg.vector_norm(self.gradient)

    def clip(self, max_norm: float) -> Tensor:
        """Shorten `gradient` to `max_norm` where it is longer; 0 = never. No wait for the device.

        Returns:
            The length before, a scalar tensor (as `torch.nn.utils.clip_grad_norm_`, whose 1e-6 is kept).
        """
        norm = self.grad_norm()
        if max_norm > 0:
            self.gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def is_finite(self) -> Tensor:
        """Scalar bool tensor on the device: is every gradient a finite number?"""
        return self.grad_norm().isfinite()

    @torch.no_grad()
    def publish(self) -> None:
        """Give the layers the weights the optimizer has moved: master -> compute."""
        if not self.is_shared:
            self.compute.copy_(self.master)

    def snapshot(self) -> Tensor:
        """A copy of `master` (N,) on the CPU, for `restore`."""
        return self.master.detach().to("cpu", copy=True)

    @torch.no_grad()
    def restore(self, snapshot: Tensor) -> None:
        """Put a snapshot back and publish it.

        Raises:
            ValueError: it is of another adapter.
        """
        if snapshot.shape != self.master.shape:
            raise ValueError(f"a snapshot of {snapshot.numel()} weights, but there are {self.master.numel()}")
        self.master.copy_(snapshot)
        self.publish()
