"""All that a training step reads and changes, and the weights that a run shows to the world."""

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from .adapter.lora import Adapter
from .config import TrainConfig
from .data.batches import BatchPlan
from .encoding.encoded_dataset import EncodedDataset
from .memory_plan import MemoryPlan
from .optimization.loss_scale import LossScale
from .sdxl.model import Denoiser
from .text.trained_text import TrainedText
from .trained_part import TrainedPart

READ_EVERY = 10
LOSSES_KEPT = 100


@dataclass(frozen=True, eq=False)
class ClassImages:
    """The pictures of prior preservation: their batches, and their latents and text on the device."""

    plan: BatchPlan
    encoded: EncodedDataset


@dataclass
class Training:
    """A run in memory; `step` and below is what a checkpoint keeps besides weights and optimizers."""

    config: TrainConfig
    denoiser: Denoiser
    parts: tuple[TrainedPart, ...]
    """What learns in this run, at one time or another."""
    plan: BatchPlan
    encoded: EncodedDataset
    memory: MemoryPlan
    loss_scale: LossScale | None
    adapter: Adapter | None = None
    """The UNet's; None in a run that trains new tokens alone."""
    text: TrainedText | None = None
    """The text encoders, where they learn; also the `conditions` of `encoded`."""
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
        """Where steps are computed; encoded pictures may lie elsewhere."""
        return self.denoiser.unet.device

    @property
    def read_every(self) -> int:
        """Steps between two waits for the device; the CPU has nothing to wait for."""
        return 1 if self.device.type == "cpu" else READ_EVERY

    @property
    def learning(self) -> list[TrainedPart]:
        """The parts that the next step moves."""
        return [part for part in self.parts if part.learns_at(self.step)]

    @property
    def adapters(self) -> list[Adapter]:
        """The UNet's and the text encoders', as far as they are attached."""
        own = [] if self.adapter is None else [self.adapter]
        return own if self.text is None else [*own, *self.text.adapters.values()]

    @property
    def networks(self) -> list[nn.Module]:
        """What gradients pass through."""
        return [self.denoiser.unet, *([] if self.text is None else self.text.networks)]

    @property
    def reaches_all(self) -> bool:
        """Whether every sample moves something; new tokens alone learn from captions that hold them only."""
        return any(part.name != "tokens" for part in self.learning)

    def settle_parts(self) -> None:
        """Let what has learned, before the run's end, become what it is shown as. Belongs to the step."""
        for part in self.parts:
            end = part.window[1]
            if not part.has_settled and end <= self.step and end < self.config.steps:
                part.settle()

    def settle_text(self) -> None:
        """Let the text encoders go when nothing of them learns any more."""
        text_parts = [part for part in self.parts if part.name != "unet"]
        if self.text is not None and self.text.is_learning and all(part.has_settled for part in text_parts):
            self.text.settle(self.denoiser.dtype)

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """Around a step's passes: an adapter that adds nothing yet and does not learn yet costs nothing."""
        with contextlib.ExitStack() as stack:
            for part in self.parts:
                is_early = self.step < part.window[0] and not part.starts_from_file
                if is_early and isinstance(part.learner, Adapter):
                    stack.enter_context(part.learner.disabled())
            yield

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """All parts as they are saved, previewed and measured: averaged where a mean is kept, no dropout.

        Afterwards the weights that train are back, bit for bit.
        """
        with contextlib.ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.evaluation())
            for adapter in self.adapters:
                stack.enter_context(adapter.evaluating())
            yield
