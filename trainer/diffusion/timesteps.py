"""Which noise levels are trained how often."""

import torch
from torch import Tensor

from ..settings.objective_config import NoiseConfig


def draw_timesteps(num: int, generator: torch.Generator, config: NoiseConfig, num_timesteps: int) -> Tensor:
    """(num,) int64 timesteps from `timestep_min` to `timestep_max`, both included.

    A position in [0, 1) of that range, 1 being the noisiest, is drawn and rounded down to a timestep:
    - uniform: all alike;
    - logit_normal: sigmoid(logit_mean + logit_std · n), n standard normal (arXiv 2403.03206 eq. 19);
    - content: 1 - u³, mostly noisy, where a picture's layout is decided; style: u³, mostly clean, where
      its surface is. ai-toolkit's `content_or_style` (jobs/process/BaseSDTrainProcess.py at 27a03a9).

    Args:
        num: how many.
        generator: on the CPU; is advanced.
        config: kind of sampling and range.
        num_timesteps: length of the schedule; cuts the range.
    """
    last = min(config.timestep_max, num_timesteps - 1)
    first = min(config.timestep_min, last)
    span = last + 1 - first
    if config.timestep_sampling == "uniform":
        return torch.randint(first, last + 1, (num,), generator=generator)
    # float64, so that 1 - u³ does not round up to 1
    if config.timestep_sampling == "logit_normal":
        normal = torch.randn(num, generator=generator, dtype=torch.float64)
        position = torch.sigmoid(config.logit_mean + config.logit_std * normal)
        return first + (position * span).long().clamp(max=span - 1)
    steps_from_end = (torch.rand(num, generator=generator, dtype=torch.float64) ** 3 * span).long()
    return last - steps_from_end if config.timestep_sampling == "content" else first + steps_from_end
