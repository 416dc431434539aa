"""The learning rate of each step, as a pure function: nothing to save, nothing to resume."""

import math

from .config import OptimizerConfig

WARMUP_SHARE = 0.05
"""Part of the run over which the rate rises where `warmup_steps` is 0 and the schedule warms up."""


def learning_rate_at(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """The rate of one optimizer step.

    After the warm-up it is that of diffusers' schedules of the same names. The warm-up rises over the same
    steps, but from 1 / (warmup + 1), where diffusers' spends its first step at rate 0, learning nothing.

    Args:
        step: optimizer steps finished before this one, 0 to num_steps - 1.
        num_steps: of the whole run.
        config: schedule, peak rate and warm-up.
    """
    warmup = num_warmup_steps(num_steps, config)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    if config.lr_schedule == "cosine":
        progress = (step - warmup) / max(1, num_steps - warmup)
        return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return config.learning_rate


def num_warmup_steps(num_steps: int, config: OptimizerConfig) -> int:
    """Steps below the peak rate; "constant" has some only where they are asked for."""
    if config.warmup_steps > 0:
        return min(config.warmup_steps, num_steps)
    return 0 if config.lr_schedule == "constant" else int(num_steps * WARMUP_SHARE)
