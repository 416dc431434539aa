"""The learning rate of each step, as a pure function: nothing to save, nothing to resume."""

import math

from ..config import TrainConfig

POLYNOMIAL_END = 1e-7
"""Rate at which diffusers' polynomial schedule ends."""


def learning_rate_at(step: int, num_steps: int, config: TrainConfig) -> float:
    """The rate of one optimizer step.

    After the warm-up it is that of diffusers' schedules of the same names. The warm-up rises over the same
    steps, but from 1 / (warmup + 1), where diffusers' spends its first step at rate 0, learning nothing.

    Args:
        step: optimizer steps finished before this one, 0 to num_steps - 1.
        num_steps: of the whole run.
        config: its optimizer and schedule sections; for scale_lr also batch size and accumulation.
    """
    peak, warmup = peak_learning_rate(config), num_warmup_steps(num_steps, config)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, num_steps - warmup)
    kind, schedule = config.optimizer.lr_schedule, config.schedule
    if kind == "linear":
        return peak * max(0.0, 1.0 - progress)
    if kind == "cosine":
        return peak * _half_cosine(min(1.0, progress))
    if kind == "cosine_with_restarts":
        return peak * (_half_cosine(schedule.num_cycles * progress % 1.0) if progress < 1.0 else 0.0)
    if kind == "polynomial":
        end = min(POLYNOMIAL_END, peak)
        return end + (peak - end) * max(0.0, 1.0 - progress) ** schedule.power
    return peak


def _half_cosine(progress: float) -> float:
    """1 at 0, falling to 0 at 1."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def peak_learning_rate(config: TrainConfig) -> float:
    """The rate after the warm-up; with scale_lr times the samples of one step, as in diffusers' scripts."""
    rate = config.optimizer.effective_learning_rate
    if config.optimizer.scale_lr:
        rate *= config.batch_size * config.run.gradient_accumulation
    return rate


def num_warmup_steps(num_steps: int, config: TrainConfig) -> int:
    """Steps below the peak rate; "constant" has some only where `warmup_steps` asks for them."""
    if config.optimizer.warmup_steps > 0:
        return min(config.optimizer.warmup_steps, num_steps)
    if config.optimizer.lr_schedule == "constant":
        return 0
    return int(num_steps * config.schedule.warmup_share)
