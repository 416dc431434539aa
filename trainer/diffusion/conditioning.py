"""What the denoiser is told beside the noisy latents: the caption's embedding and the picture's size.

`B` batch, `T` tokens (77 per window of a caption), `D` width of both text encoders together (2048),
`P` width of the pooled vector (1280), `H W` size of the latents.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WINDOW_TOKENS = 77
MAX_GROWTH = 4

TimeIds = tuple[int, int, int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class TextCondition:
    """One encoded caption: `prompt_embeds` (T, D) with T = 77·windows, `pooled` (P,)."""

    prompt_embeds: Tensor
    pooled: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one forward pass trains on, all on the denoiser's device.

    `latents` (B, 4, H, W) float32, scaled; `prompt_embeds` (B, T, D); `pooled` (B, P);
    `time_ids` (B, 6) float32 pixels: original height, width, crop top, left, target height, width;
    `loss_weights` (B,) float32, 1 for ordinary samples, None = all 1; `masks` (B, 1, H, W) float32 from 0
    (left out) to 1, None where the dataset has none.
    """

    latents: Tensor
    prompt_embeds: Tensor
    pooled: Tensor
    time_ids: Tensor
    loss_weights: Tensor | None = None
    masks: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; what lies there already is not copied."""
        return Batch(
            latents=self.latents.to(device),
            prompt_embeds=self.prompt_embeds.to(device),
            pooled=self.pooled.to(device),
            time_ids=self.time_ids.to(device),
            loss_weights=None if self.loss_weights is None else self.loss_weights.to(device),
            masks=None if self.masks is None else self.masks.to(device),
        )


def stack_conditions(conditions: Sequence[TextCondition]) -> tuple[Tensor, Tensor]:
    """Captions of any length as one batch: `prompt_embeds` (B, T, D) and `pooled` (B, P).

    Shorter captions are repeated to the least common length, as ComfyUI does when it samples two
    prompts at once (comfy/conds.py, CONDCrossAttn): attention is a weighted mean over tokens, and every
    token twice gives the same mean, so a sample's prediction does not depend on its neighbours. Where the
    least common length is more than four times the longest, repetitions are cut there.
    """
    lengths = [len(c.prompt_embeds) for c in conditions]
    length = min(math.lcm(*lengths), MAX_GROWTH * max(lengths))
    embeds = [_repeat_to(c.prompt_embeds, length) for c in conditions]
    return torch.stack(embeds), torch.stack([c.pooled for c in conditions])


def _repeat_to(prompt_embeds: Tensor, length: int) -> Tensor:
    if len(prompt_embeds) == length:
        return prompt_embeds
    return prompt_embeds.repeat(math.ceil(length / len(prompt_embeds)), 1)[:length]


def inference_time_ids(bucket: tuple[int, int]) -> TimeIds:
    """What ComfyUI's plain text encoding asks for when it samples at `bucket` (width, height), pixels."""
    width, height = bucket
    return (height, width, 0, 0, height, width)


def stack_time_ids(time_ids: Sequence[TimeIds], device: torch.device | str = "cpu") -> Tensor:
    """(B, 6) float32: half precision has no 1025, so sizes never take the denoiser's type."""
    return torch.tensor(time_ids, dtype=torch.float32, device=device)
