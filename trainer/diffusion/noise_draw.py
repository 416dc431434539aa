"""The random numbers of a forward pass: noise and timesteps, as pure functions of seed and number.

`B` batch, `H W` size of the latents. Every purpose has a generator of its own, so that turning one setting
on or off never changes the numbers of another.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..settings.objective_config import NoiseConfig
from .timesteps import draw_timesteps


@dataclass(frozen=True, eq=False)
class NoiseDraw:
    """What one forward pass is disturbed with.

    `noise` (B, 4, H, W) float32 is what the target is made of; `input_noise` is what is mixed into the
    latents, the same tensor but for input perturbation; `timesteps` (B,) int64.
    """

    noise: Tensor
    input_noise: Tensor
    timesteps: Tensor

    def to(self, device: torch.device | str) -> "NoiseDraw":
        """On another device; `noise` and `input_noise` stay one tensor where they are one."""
        noise = _upload(self.noise, torch.device(device))
        is_same = self.input_noise is self.noise
        input_noise = noise if is_same else _upload(self.input_noise, torch.device(device))
        return NoiseDraw(noise, input_noise, _upload(self.timesteps, torch.device(device)))


def draw_noise(
    shape: Sequence[int], seed: int, index: int, config: NoiseConfig, num_timesteps: int, purpose: str = ""
) -> NoiseDraw:
    """Noise and timesteps of the micro-step `index`: a pure function of its arguments, on the CPU.

    Offset noise (`noise_offset`) and pyramid noise go into the target too; input perturbation does not
    (arXiv 2301.11706 sec. 4).

    Args:
        shape: of the latents, (B, 4, H, W).
        seed: of the run.
        index: micro-steps (forward passes) before this one, from the run's beginning.
        config: the kinds of noise and the timesteps' distribution.
        num_timesteps: length of the schedule.
        purpose: sets other passes of the same index apart, such as those on class images.
    """
    shape = tuple(shape)

    def generator(name: str) -> torch.Generator:
        return _generator(f"{purpose}{name}:{seed}:{index}")

    plain = generator("noise")
    timesteps = torch.randint(0, num_timesteps, (shape[0],), generator=plain)
    noise = torch.randn(shape, generator=plain)
    if _shapes_timesteps(config, num_timesteps):
        timesteps = draw_timesteps(shape[0], generator("timesteps"), config, num_timesteps)
    if config.noise_offset > 0:
        noise = noise + config.noise_offset * torch.randn(*shape[:2], 1, 1, generator=generator("offset"))
    if config.pyramid_iterations > 0:
        noise = pyramid_noise(noise, generator("pyramid"), config.pyramid_iterations, config.pyramid_discount)
    input_noise = noise
    if config.input_perturbation > 0:
        extra = torch.randn(shape, generator=generator("perturbation"))
        input_noise = noise + config.input_perturbation * extra
    return NoiseDraw(noise, input_noise, timesteps)


def fixed_draw(shape: Sequence[int], seed: int, index: int, timestep: int) -> NoiseDraw:
    """Plain noise at one timestep for all samples, the same whenever it is asked for: for validation.

    Args:
        shape: of the latents, (B, 4, H, W).
        seed: of the run.
        index: tells one draw from another.
        timestep: of all B samples.
    """
    noise = torch.randn(tuple(shape), generator=_generator(f"fixed:{seed}:{index}"))
    return NoiseDraw(noise, noise, torch.full((shape[0],), timestep, dtype=torch.int64))


def pyramid_noise(noise: Tensor, generator: torch.Generator, iterations: int, discount: float) -> Tensor:
    """`noise` (B, C, H, W) with coarser and coarser noise on top, brought back to unit spread.

    Level i is 1/rⁱ of the size, r drawn from 2 to 4, enlarged bilinearly and weighted discountⁱ: the first
    is plain noise again (kohya's pyramid_noise_like, library/custom_train_functions.py at 48d368f). The
    spread is each sample's own, where kohya's is the batch's: no sample depends on its neighbours.
    """
    height, width = noise.shape[-2:]
    for level in range(iterations):
        ratio = float(torch.rand((), generator=generator)) * 2 + 2
        size = (max(1, int(height / ratio**level)), max(1, int(width / ratio**level)))
        coarse = torch.randn(*noise.shape[:2], *size, generator=generator)
        noise = noise + F.interpolate(coarse, (height, width), mode="bilinear") * discount**level
        if 1 in size:
            break
    return noise / noise.flatten(1).std(1).reshape(-1, 1, 1, 1)


def _shapes_timesteps(config: NoiseConfig, num_timesteps: int) -> bool:
    is_whole = config.timestep_min == 0 and config.timestep_max >= num_timesteps - 1
    return config.timestep_sampling != "uniform" or not is_whole


def _generator(name: str) -> torch.Generator:
    # hashed, because neighbouring seeds of one generator, or seed + index, would share their streams
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def _upload(values: Tensor, device: torch.device) -> Tensor:
    """To the device; from pinned memory, because an ordinary copy waits for all work before it."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
