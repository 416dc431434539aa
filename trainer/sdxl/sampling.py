"""Pictures from a denoiser: Euler steps with classifier-free guidance, one prompt after the other.

`T` tokens, `H W` size of the latents (an eighth of the picture's).
"""

from collections.abc import Callable, Sequence

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from ..config import MAX_SEED, PreviewConfig
from ..diffusion.conditioning import (
    Batch,
    TextCondition,
    inference_time_ids,
    stack_conditions,
    stack_time_ids,
)
from ..diffusion.noise_schedule import TERMINAL_ALPHA_CUMPROD, NoiseSchedule
from ..errors import InputError
from .model import Denoiser

LATENT_CHANNELS = 4
PIXELS_PER_LATENT = 8


def _ignore(done: int, total: int) -> None:
    pass


@torch.no_grad()
def sample_latents(
    denoiser: Denoiser,
    prompts: Sequence[TextCondition],
    negative: TextCondition,
    preview: PreviewConfig,
    bucket: tuple[int, int],
    on_step: Callable[[int, int], None] = _ignore,
) -> Tensor:
    """Scaled latents (len(prompts), 4, H, W), float32, one for each prompt.

    Whatever adapter is in the denoiser's UNet takes part. Prompt i starts from the CPU noise of seed + i,
    which is the noise that ComfyUI's KSampler starts from with that seed.

    Args:
        denoiser: UNet and schedule; conditions must be on its device.
        prompts: encoded prompts.
        negative: encoded negative prompt; the empty one by default.
        preview: steps, guidance and seed; its texts are not read.
        bucket: (width, height) of the pictures, pixels, multiples of 8.
        on_step: hears how many UNet calls are done, of how many; what it raises ends the sampling.

    Raises:
        InputError: a size that is no multiple of 8.
    """
    width, height = bucket
    if width % PIXELS_PER_LATENT or height % PIXELS_PER_LATENT:
        raise InputError(f"preview size is {width}x{height}, but both sides must be multiples of 8")
    device = negative.pooled.device
    shape = (1, LATENT_CHANNELS, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
    finished = []
    for index, prompt in enumerate(prompts):
        generator = torch.Generator().manual_seed((preview.seed + index) % (MAX_SEED + 1))
        noise = torch.randn(shape, generator=generator).to(device)
        guided = _Guided(denoiser, [prompt, negative], preview.guidance, bucket)
        done, total = index * preview.steps, len(prompts) * preview.steps
        finished.append(_denoise(guided, noise, preview.steps, lambda n, d=done, t=total: on_step(d + n, t)))
    return torch.cat(finished)


class _Guided:
    """The denoiser with prompt and negative prompt as one function of latents and timestep."""

    def __init__(
        self,
        denoiser: Denoiser,
        conditions: Sequence[TextCondition],
        guidance: float,
        bucket: tuple[int, int],
    ) -> None:
        self.denoiser = denoiser
        self._guidance = guidance
        # at 1 the negative prompt has no weight
        used = conditions[:1] if guidance == 1 else conditions
        self._embeds, self._pooled = stack_conditions(used)
        device = self._pooled.device
        self._time_ids = stack_time_ids([inference_time_ids(bucket)] * len(used), device)

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        rows = len(self._embeds)
        repeated = latents.expand(rows, -1, -1, -1)
        batch = Batch(repeated, self._embeds, self._pooled, self._time_ids)
        predicted = self.denoiser.predict(repeated, timestep.expand(rows), batch).float()
        if rows == 1:
            return predicted
        wanted, unwanted = predicted.chunk(2)
        return unwanted + self._guidance * (wanted - unwanted)


def _denoise(guided: _Guided, noise: Tensor, num_steps: int, on_step: Callable[[int], None]) -> Tensor:
    scheduler = euler_scheduler(guided.denoiser.schedule)
    scheduler.set_timesteps(num_steps, device=noise.device)
    latents = noise * scheduler.init_noise_sigma
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        prediction = guided(scheduler.scale_model_input(latents, timestep), timestep)
        latents = scheduler.step(prediction, timestep, latents).prev_sample
        on_step(done)
    return latents


def euler_scheduler(schedule: NoiseSchedule) -> EulerDiscreteScheduler:
    """Diffusers' Euler sampler over our own ᾱ, timesteps spaced as ComfyUI's `normal` spaces them."""
    alphas_cumprod = schedule.alphas_cumprod.cpu().double()  # MPS has no float64
    alphas_cumprod = alphas_cumprod.clamp(min=TERMINAL_ALPHA_CUMPROD)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
    return EulerDiscreteScheduler(
        trained_betas=(1 - alphas_cumprod / before).tolist(),
        prediction_type=schedule.prediction_type,
        timestep_spacing="linspace",
    )


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, latents: Tensor, scaling_factor: float) -> list[Image.Image]:
    """Scaled latents (N, 4, H, W) as N pictures; the VAE should be in float32 or bfloat16."""
    pictures = []
    for row in latents.split(1):
        pixels = vae.decode(row.to(vae.device, vae.dtype) / scaling_factor).sample[0]
        levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        pictures.append(Image.fromarray(levels.permute(1, 2, 0).cpu().numpy()))
    return pictures
