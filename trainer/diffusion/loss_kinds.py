"""The distance of prediction and target, value by value.

`B` batch. Formulas and names are kohya's (library/train_util.py at 48d368f, conditional_loss and
get_huber_threshold_if_needed); its huber is the pseudo-Huber loss (arXiv 2403.16728).
"""

from torch import Tensor

from ..settings.objective_config import ObjectiveConfig
from .noise_schedule import NoiseSchedule


def distance(
    prediction: Tensor, target: Tensor, timesteps: Tensor, schedule: NoiseSchedule, config: ObjectiveConfig
) -> Tensor:
    """Loss of every value, float32, of the shape (B, ...) of `prediction` and `target`.

    With d the difference and c the threshold of the sample's timestep:
    l2: d²; l1: |d|; huber: 2c(√(d² + c²) - c); smooth_l1: 2(√(d² + c²) - c).
    """
    difference = prediction.float() - target.float()
    if config.loss == "l2":
        return difference.square()
    if config.loss == "l1":
        return difference.abs()
    threshold = huber_threshold(schedule, timesteps, config).reshape(-1, *[1] * (difference.ndim - 1))
    rounded = 2 * ((difference.square() + threshold.square()).sqrt() - threshold)
    return threshold * rounded if config.loss == "huber" else rounded


def huber_threshold(schedule: NoiseSchedule, timesteps: Tensor, config: ObjectiveConfig) -> Tensor:
    """(B,) the difference at which huber and smooth_l1 turn from squared to plain.

    snr: (1 - c)/(1 + σ)² + c, from 1 where there is no noise to c; exponential: c^(t/1000); constant: c.
    """
    alphas_cumprod = schedule.alphas_cumprod[timesteps]
    if config.huber_schedule == "constant":
        return alphas_cumprod.new_full(timesteps.shape, config.huber_c)
    if config.huber_schedule == "exponential":
        return config.huber_c ** (timesteps / schedule.num_timesteps)
    sigmas = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()  # may be infinite in the last timestep
    return (1 - config.huber_c) / (1 + sigmas).square() + config.huber_c
