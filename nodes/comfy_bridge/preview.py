"""Pictures drawn with the finished LoRA by ComfyUI's own sampler."""

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.sample
import torch
from torch import Tensor

from ...trainer.config import PreviewConfig
from .families import LATENT_DOWNSCALE, NUM_LATENT_CHANNELS

SAMPLER, SCHEDULER = "euler", "normal"


def sample_preview(
    model: Any, clip: Any, vae: Any, prompts: Sequence[str], config: PreviewConfig, size: tuple[int, int]
) -> Tensor:
    """One picture for each prompt, as KSampler would draw it.

    Args:
        model: MODEL with the LoRA applied.
        clip: CLIP with the LoRA applied.
        vae: VAE.
        prompts: prompts in ComfyUI's syntax, (word:1.2) and all.
        config: steps, guidance, seed and negative prompt.
        size: (width, height), pixels.

    Returns:
        IMAGE (B, H, W, 3) in [0, 1], float32.
    """
    width, height = size
    shape = [1, NUM_LATENT_CHANNELS, height // LATENT_DOWNSCALE, width // LATENT_DOWNSCALE]
    images = []
    with torch.inference_mode():
        negative = _encode(clip, config.negative)
        for index, prompt in enumerate(prompts):
            comfy.model_management.throw_exception_if_processing_interrupted()
            positive = _encode(clip, prompt)
            latent = torch.zeros(shape, device=comfy.model_management.intermediate_device())
            seed = config.seed + index
            noise = comfy.sample.prepare_noise(latent, seed)
            samples = comfy.sample.sample(
                model,
                noise,
                config.steps,
                config.guidance,
                SAMPLER,
                SCHEDULER,
                positive,
                negative,
                latent,
                disable_pbar=True,
                seed=seed,
            )
            images.append(vae.decode(samples).float().cpu())
        return torch.cat(images)


def _encode(clip: Any, prompt: str) -> Any:
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
