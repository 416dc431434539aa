"""Losses and norms on their way from the device to whoever watches a run."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from .errors import InputError
from .events import StepReport
from .trained_part import TrainedPart
from .training import Training

MAX_SKIPPED_IN_A_ROW = 5
SCALE_SEARCH_STEPS = 20
"""Float16 may skip this many more: its loss scale falls from 65536 to 1/16 meanwhile."""


class UnreadFigures:
    """Losses and norms that are still on the device, and the reports that come of them."""

    def __init__(self, training: Training, report: Callable[[StepReport], None]) -> None:
        self._training = training
        self._report = report
        self._figures: list[Tensor] = []
        self._learning_rates: list[float] = []
        self._learning: list[TrainedPart] = []
        self._since = time.perf_counter()

    def add(self, loss: Tensor, grad_norm: Tensor, learning: list[TrainedPart], learning_rate: float) -> None:
        """Take in a step; what it moved, the rate of the first, is the same between two readings."""
        self._figures += [loss, grad_norm.to(loss.device)]
        self._learning_rates.append(learning_rate)
        self._learning = learning

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
        only = len(training.parts) == 1
        learning = "" if only else " and ".join(part.title for part in self._learning)
        # Prodigy's factor on the rate moves slowly: that of the last step stands for the few before it
        factor = self._learning[0].rate_factor
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
                    effective_learning_rate=factor * learning_rate,
                    learning=learning,
                )
            )
            self._refuse_endless_skipping(first + number, learning_rate)
        self.restart_clock_if_read()

    def restart_clock_if_read(self) -> None:
        """What is done between steps once all is read, such as a preview, takes none of the next's time."""
        if not self._figures:
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
