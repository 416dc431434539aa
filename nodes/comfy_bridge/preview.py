"""Pictures drawn by ComfyUI's own samplers, as KSampler and VAE Decode would draw them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import numpy as np
import torch
from comfy.sd1_clip import escape_important, token_weights, unescape_important
from PIL import Image
from torch import Tensor

from ...trainer.config import MAX_SEED, PreviewConfig
from ...trainer.errors import InputError
from .families import LATENT_DOWNSCALE, NUM_LATENT_CHANNELS

if TYPE_CHECKING:
    from ...trainer.sdxl.text_encoder import SDXLTextEncoder


@dataclass(frozen=True, eq=False, slots=True)
class EncodedPrompts:
    """CONDITIONING of each prompt, and of the negative prompt."""

    positives: Sequence[Any]
    negative: Any


def sampler_choices() -> list[str]:
    return list(comfy.samplers.KSampler.SAMPLERS)


def scheduler_choices() -> list[str]:
    return list(comfy.samplers.KSampler.SCHEDULERS)


def require_sampler(config: PreviewConfig) -> None:
    """Refuse a sampler or scheduler that this ComfyUI does not have.

    Raises:
        InputError: with the names that there are.
    """
    for name, value, choices in (
        ("sampler", config.sampler, sampler_choices()),
        ("scheduler", config.scheduler, scheduler_choices()),
    ):
        if value not in choices:
            raise InputError(f"{name} is '{value}', which this ComfyUI does not have: {', '.join(choices)}")


def encode_prompts(clip: Any, prompts: Sequence[str], negative: str) -> EncodedPrompts:
    """Prompts in ComfyUI's syntax, (word:1.2) and all, as CLIP Text Encode encodes them."""
    with torch.inference_mode():
        positives = [_encode(clip, prompt) for prompt in prompts]
        return EncodedPrompts(positives, _encode(clip, negative))


def encode_prompts_with(encoder: "SDXLTextEncoder", prompts: Sequence[str], negative: str) -> EncodedPrompts:
    """Prompts in ComfyUI's syntax through the trainer's own encoder; `embedding:file` is plain text."""
    with torch.inference_mode(False):
        positives = [_encode_with(encoder, prompt) for prompt in prompts]
        return EncodedPrompts(positives, _encode_with(encoder, negative))


def _encode_with(encoder: "SDXLTextEncoder", prompt: str) -> Any:
    """CONDITIONING of a prompt whose parentheses are weights (comfy/sd1_clip.py, tokenize_with_weights)."""
    weighted = token_weights(escape_important(prompt), 1.0)
    segments = [(_as_literal(unescape_important(text)), weight) for text, weight in weighted]
    condition = encoder.encode_weighted(segments)
    device = comfy.model_management.intermediate_device()
    pooled = condition.pooled[None].to(device)
    return [[condition.prompt_embeds[None].to(device), {"pooled_output": pooled}]]


def _as_literal(text: str) -> str:
    """Parentheses that are no weights, as the trainer's encoder is told so, which reads captions."""
    return text.replace("(", "\\(").replace(")", "\\)")


def _encode(clip: Any, prompt: str) -> Any:
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def sample_latents(
    model: Any, encoded: EncodedPrompts, index: int, config: PreviewConfig, size: tuple[int, int]
) -> Tensor:
    """What KSampler gives for prompt `index` with seed + index: LATENT (1, 4, H/8, W/8), unscaled.

    Args:
        model: MODEL, with whatever LoRA it carries.
        encoded: from `encode_prompts`.
        index: which of the prompts.
        config: sampler, scheduler, steps, guidance and seed.
        size: (width, height), pixels.
    """
    width, height = size
    shape = [1, NUM_LATENT_CHANNELS, height // LATENT_DOWNSCALE, width // LATENT_DOWNSCALE]
    seed = (config.seed + index) % (MAX_SEED + 1)
    with torch.inference_mode():
        latent = torch.zeros(shape, device=comfy.model_management.intermediate_device())
        return comfy.sample.sample(
            model,
            comfy.sample.prepare_noise(latent, seed),
            config.steps,
            config.guidance,
            config.sampler,
            config.scheduler,
            encoded.positives[index],
            encoded.negative,
            latent,
            callback=_stop_if_interrupted,
            disable_pbar=True,
            seed=seed,
        )


def _stop_if_interrupted(*_: Any) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """LATENT (B, 4, H/8, W/8) -> IMAGE (B, H, W, 3) in [0, 1], float32, on the CPU."""
    with torch.inference_mode():
        return vae.decode(latents).float().cpu()


def sample_preview(
    model: Any, clip: Any, vae: Any, prompts: Sequence[str], config: PreviewConfig, size: tuple[int, int]
) -> Tensor:
    """One picture for each prompt, as KSampler would draw it.

    Args:
        model: MODEL with the LoRA applied.
        clip: CLIP with the LoRA applied.
        vae: VAE.
        prompts: prompts in ComfyUI's syntax.
        config: sampler, scheduler, steps, guidance, seed and negative prompt.
        size: (width, height), pixels.

    Returns:
        IMAGE (B, H, W, 3) in [0, 1], float32.

    Raises:
        InputError: this ComfyUI has no such sampler or scheduler.
    """
    require_sampler(config)
    encoded = encode_prompts(clip, prompts, config.negative)
    images = []
    for index in range(len(prompts)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        images.append(decode_latents(vae, sample_latents(model, encoded, index, config, size)))
    return torch.cat(images)


def to_pictures(images: Tensor) -> list[Image.Image]:
    """IMAGE (B, H, W, 3) in [0, 1] as pictures."""
    levels = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in levels]
