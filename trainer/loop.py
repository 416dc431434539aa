"""The training loop: what one optimizer step is, and nothing of files, names or settings' origins.

Randomness is a function of (seed, micro-step) alone, so a run that goes on needs no generator's state.
On an accelerator nothing here waits for the device: losses and norms stay there and are read every ten
steps.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .batches import BatchPlan
from .conditioning import Batch
from .config import TrainConfig
from .encoded_dataset import EncodedDataset
from .errors import InputError
from .events import StepReport
from .lora import Adapter
from .loss_scale import LossScale
from .lr_schedule import learning_rate_at
from .memory_plan import LEVELS, MemoryPlan, checkpoint_modules, empty_cache, free_bytes
from .model import Denoiser
from .objective import denoising_losses, draw_noise
from .optimizers import set_learning_rate, step_if_finite

READ_EVERY = 10
MAX_SKIPPED_IN_A_ROW = 5
SCALE_SEARCH_STEPS = 20
"""Float16 may skip this many more: its loss scale falls from 65536 to 1/16 meanwhile."""
LOSSES_KEPT = 100


@dataclass
class Training:
    """All that a step reads and changes; `step` and below is what a checkpoint keeps besides the weights."""

    config: TrainConfig
    denoiser: Denoiser
    adapter: Adapter
    optimizer: torch.optim.Optimizer
    plan: BatchPlan
    encoded: EncodedDataset
    memory: MemoryPlan
    loss_scale: LossScale | None
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


def run_steps(
    training: Training,
    report: Callable[[StepReport], None],
    after_step: Callable[[Callable[[], None]], None],
) -> None:
    """Train from `training.step` to the last step.

    Args:
        training: is changed in place.
        report: hears the figures of each step; on an accelerator ten at a time.
        after_step: called between steps with a function that reports all that is still unread; raises
            to stop.

    Raises:
        InputError: the gradient was not finite several times in a row, or memory is too small.
    """
    config, weights, optimizer = training.config, training.adapter.weights, training.optimizer
    unread = UnreadFigures(training, report)

    while training.step < config.steps:
        loss = gradients_of_step(training)

        grad_norm = weights.clip(config.optimizer.max_grad_norm)

        learning_rate = learning_rate_at(training.step, config.steps, config.optimizer)
        set_learning_rate(optimizer, learning_rate)

        training.is_between_steps = False
        is_finite = grad_norm.isfinite()
        step_if_finite(optimizer, is_finite)
        weights.publish()
        if training.loss_scale is not None:
            training.loss_scale.update(~is_finite)
        training.step += 1
        training.is_between_steps = True

        unread.add(loss, grad_norm, learning_rate)
        if training.step % training.read_every == 0:
            unread.read()
        after_step(unread.read)
    unread.read()


def gradients_of_step(training: Training) -> Tensor:
    """Fill the flat gradient with that of one optimizer step; returns its mean loss, on the device.

    When memory runs out, the step is tried once more with the strongest checkpointing.

    Raises:
        InputError: memory runs out even so.
    """
    with contextlib.suppress(torch.cuda.OutOfMemoryError):
        return _all_micro_steps(training)
    # Only here, after the error's traceback is gone, are its activations free.
    empty_cache(training.device)
    checkpoint_modules(training.denoiser.unet, LEVELS[-1])
    training.memory = replace(training.memory, level=LEVELS[-1], ran_out=True)
    try:
        return _all_micro_steps(training)
    except torch.cuda.OutOfMemoryError as error:
        needed, free = training.memory.needed / 2**30, free_bytes(training.device) / 2**30
        raise InputError(
            f"out of memory at step {training.step + 1}, even with gradient checkpointing: without it the "
            f"step was estimated at {needed:.1f} GiB beside the model, {free:.1f} GiB are free; lower the "
            "batch size, the resolution (768) or the rank, or close other programs; the finished steps are "
            "saved"
        ) from error


def _all_micro_steps(training: Training) -> Tensor:
    config, weights, loss_scale = training.config, training.adapter.weights, training.loss_scale
    weights.zero_gradients()
    first = training.step * config.run.gradient_accumulation
    indices = range(first, first + config.run.gradient_accumulation)
    batches = [training.encoded.batch(training.plan.batch(index)) for index in indices]
    num_samples = sum(len(batch.latents) for batch in batches)

    total_loss = torch.zeros((), device=training.device)
    for index, batch in zip(indices, batches, strict=True):
        shape, schedule = batch.latents.shape, training.denoiser.schedule
        noise, timesteps = draw_noise(shape, config.seed, index, schedule.num_timesteps)
        noise, timesteps = _upload(noise, training.device), _upload(timesteps, training.device)
        total_loss += micro_step(training, batch, noise, timesteps, num_samples)
    if loss_scale is not None:
        weights.gradient.div_(loss_scale.scale)
    return total_loss


def micro_step(
    training: Training, batch: Batch, noise: Tensor, timesteps: Tensor, num_samples: int
) -> Tensor:
    """Add one batch's gradient to the flat one, times the loss scale if there is one.

    Args:
        training: whose adapter gets the gradient.
        batch: what to denoise.
        noise: of the shape of the latents, on their device.
        timesteps: (B,), likewise.
        num_samples: of the whole optimizer step, so that a smaller batch weighs less.

    Returns:
        The batch's share of the step's mean loss, a scalar on the device.
    """
    denoiser, loss_scale = training.denoiser, training.loss_scale
    losses = denoising_losses(
        denoiser.predict, batch, noise, timesteps, denoiser.schedule, training.config.objective
    )
    loss = losses.sum() / num_samples

    (loss if loss_scale is None else loss * loss_scale.scale).backward()
    training.adapter.weights.collect_gradients()
    return loss.detach()


def _upload(values: Tensor, device: torch.device) -> Tensor:
    """To the device; from pinned memory, because an ordinary copy waits for all work before it."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


class UnreadFigures:
    """Losses and norms that are still on the device, and the reports that come of them."""

    def __init__(self, training: Training, report: Callable[[StepReport], None]) -> None:
        self._training = training
        self._report = report
        self._figures: list[Tensor] = []
        self._learning_rates: list[float] = []
        self._since = time.perf_counter()

    def add(self, loss: Tensor, grad_norm: Tensor, learning_rate: float) -> None:
        self._figures += [loss, grad_norm.to(loss.device)]
        self._learning_rates.append(learning_rate)

    def read(self) -> None:
        """Report all steps since the last reading.

        Raises:
            InputError: too many of them in a row had no finite gradient.
        """
        training, config = self._training, self._training.config
        if not self._figures:
            return
        figures = torch.stack(self._figures).tolist()
        now = time.perf_counter()
        seconds = (now - self._since) / len(self._learning_rates)
        first = training.step - len(self._learning_rates) + 1
        a_step = config.run.gradient_accumulation / training.plan.num_batches
        rates, self._figures, self._learning_rates = self._learning_rates, [], []
        for number, learning_rate in enumerate(rates):
            loss, grad_norm = figures[2 * number : 2 * number + 2]
            if not math.isfinite(grad_norm):
                loss = grad_norm = math.nan
            self._count(loss)
            self._report(
                StepReport(
                    step=first + number,
                    num_steps=config.steps,
                    epoch=(first + number) * a_step,
                    loss=loss,
                    grad_norm=grad_norm,
                    learning_rate=learning_rate,
                    seconds=seconds,
                )
            )
            self._refuse_endless_skipping(first + number, learning_rate)
        # Time spent in the reports, as for a preview, is not the step's.
        self._since = time.perf_counter()

    def _count(self, loss: float) -> None:
        training = self._training
        if math.isfinite(loss):
            training.skipped_in_a_row = 0
            training.recent_losses.append(loss)
        else:
            training.skipped_in_a_row += 1
            training.num_skipped += 1

    def _refuse_endless_skipping(self, step: int, learning_rate: float) -> None:
        training = self._training
        most = MAX_SKIPPED_IN_A_ROW + (SCALE_SEARCH_STEPS if training.loss_scale is not None else 0)
        if training.skipped_in_a_row >= most:
            raise InputError(
                f"the gradient was NaN or infinite in {training.skipped_in_a_row} steps in a row up to step "
                f"{step} (learning rate {learning_rate:g}, {training.denoiser.dtype}): lower the learning "
                "rate, or use bf16 or fp32; the LoRA as of the last good step is saved"
            )
