"""Captions as literal text for ComfyUI's tokenizer, which reads parentheses as weights.

The trainer's own text encoder follows the same rule: captions are literal, and parentheses behind a
backslash, as written by people used to prompts, are plain parentheses.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ...trainer.data.captions import literal_prompt
from ...trainer.errors import InputError

if TYPE_CHECKING:
    from ...trainer.diffusion.conditioning import TextCondition


def encode_captions(clip: Any, captions: Sequence[str], widths: tuple[int, int]) -> "list[TextCondition]":
    """Encode literal captions with ComfyUI's CLIP.

    Args:
        clip: the CLIP as wired; its LoRA patches and its layer choice are honoured.
        captions: literal texts.
        widths: (prompt_embeds, pooled) channels that the UNet expects.

    Raises:
        InputError: the pair's widths do not fit the UNet.
    """
    from ...trainer.diffusion.conditioning import TextCondition

    encoded = []
    for caption in captions:
        with torch.inference_mode():  # as ComfyUI calls it
            tokens = clip.tokenize(literal_prompt(caption))
            embeds, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
        if (embeds.shape[-1], pooled.shape[-1]) != widths:
            raise InputError(
                f"clip gives {embeds.shape[-1]} and {pooled.shape[-1]} channels, but the model expects "
                f"{widths[0]} and {widths[1]}: wire CLIP and MODEL of the same SDXL checkpoint"
            )
        with torch.inference_mode(False):
            encoded.append(TextCondition(embeds[0].float().clone(), pooled[0].float().clone()))
    return encoded
