"""A running mean of the adapter's weights, which is what is saved and previewed where it is on."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..adapter.flat_weights import FlatWeights


@contextlib.contextmanager
def preserved(weights: FlatWeights) -> Iterator[None]:
    """Whatever happens to `weights.master` within comes to nothing: after it, it is bit for bit as before."""
    kept = weights.master.detach().clone()
    try:
        yield
    finally:
        with torch.no_grad():
            weights.master.copy_(kept)
        weights.publish()


class WeightAverage:
    """Exponential moving average (EMA) of `weights.master`, N numbers in float32 on the same device.

    The decay of update number t (from 0) is min(decay, (1 + t) / (10 + t)), so that the zeros a run starts
    from are soon forgotten; the first update takes the weights as they are. Checked against
    `diffusers.training_utils.EMAModel`.
    """

    def __init__(self, weights: FlatWeights, decay: float) -> None:
        self._weights = weights
        self._decay = decay
        self._num_updates = 0
        self._average = weights.master.detach().clone()

    @torch.no_grad()
    def update(self) -> None:
        """After each optimizer step: average <- decay * average + (1 - decay) * master."""
        self._average.lerp_(self._weights.master, 1.0 - self._decay_now())
        self._num_updates += 1

    def _decay_now(self) -> float:
        t = self._num_updates
        return min(self._decay, (1 + t) / (10 + t)) if t > 0 else 0.0

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Within it, master and the layers hold the mean; after it, bit for bit what they held before."""
        with preserved(self._weights):
            with torch.no_grad():
                self._weights.master.copy_(self._average)
            self._weights.publish()
            yield

    def state(self) -> dict[str, Tensor]:
        """What resuming needs, on the CPU."""
        return {
            "average": self._average.to("cpu", copy=True),
            "num_updates": torch.tensor(self._num_updates, dtype=torch.int64),
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`.

        Raises:
            ValueError: it is of another adapter.
        """
        average = tensors["average"]
        if average.shape != self._average.shape:
            raise ValueError(
                f"an average of {average.numel()} weights, but there are {self._average.numel()}"
            )
        self._average.copy_(average)
        self._num_updates = int(tensors["num_updates"])
