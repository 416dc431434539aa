"""All that a training step reads and changes, and the weights that a run shows to the world."""

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from .adapter.lora import Adapter
from .config import TrainConfig
from .data.batches import BatchPlan
from .data.encoded_dataset import EncodedDataset
from .memory_plan import MemoryPlan
from .optimization.loss_scale import LossScale
from .optimization.optimizers import AdapterOptimizer
from .optimization.weight_average import WeightAverage
from .sdxl.model import Denoiser

READ_EVERY = 10
LOSSES_KEPT = 100


@dataclass(frozen=True, eq=False)
class ClassImages:
    """The pictures of prior preservation: their batches, and their latents and text on the device."""

    plan: BatchPlan
    encoded: EncodedDataset


@dataclass
class Training:
    """A run in memory; `step` and below is what a checkpoint keeps besides weights and optimizer."""

    config: TrainConfig
    denoiser: Denoiser
    adapter: Adapter
    optimizer: AdapterOptimizer
    plan: BatchPlan
    encoded: EncodedDataset
    memory: MemoryPlan
    loss_scale: LossScale | None
    average: WeightAverage | None = None
    """Running mean of the weights, where one is kept."""
    class_images: ClassImages | None = None
    """Prior preservation with class images, where there are some."""
    step: int = 0
    """Optimizer steps that are finished."""
    num_skipped: int = 0
    skipped_in_a_row: int = 0
    recent_losses: deque[float] = field(default_factory=lambda: deque(maxlen=LOSSES_KEPT))
    is_between_steps: bool = True
    """False while weights, moments and `step` do not belong together."""

    @property
    def device(self) -> torch.device:
        return self.encoded.latents[0][0].device

    @property
    def read_every(self) -> int:
        """Steps between two waits for the device; the CPU has nothing to wait for."""
        return 1 if self.device.type == "cpu" else READ_EVERY

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """The adapter as it is saved, previewed and measured: averaged where a mean is kept, no dropout.

        Afterwards the weights that train are back, bit for bit.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.optimizer.evaluation())
            if self.average is not None:
                stack.enter_context(self.average.evaluation())
            stack.enter_context(self.adapter.evaluating())
            yield
