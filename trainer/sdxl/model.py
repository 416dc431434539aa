"""The seam between a run and whoever holds the weights: ComfyUI's bridge, or a file read from disk.

`B` batch, `H W` size of the latents (an eighth of the picture's), `P` width of the pooled vector.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ..config import PreviewConfig
from ..diffusion.conditioning import Batch, TextCondition
from ..diffusion.noise_schedule import NoiseSchedule

if TYPE_CHECKING:
    from .text_encoder import SDXLTextEncoder


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A private view of the frozen UNet in evaluation mode, and the schedule on its device.

    Adapters are put into `unet`, never into a host's own modules.
    """

    unet: UNet2DConditionModel
    schedule: NoiseSchedule

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        """The UNet's prediction (B, 4, H, W) in its own type, which `noisy_latents` are brought to.

        Sizes and timesteps stay exact: the UNet embeds them in float32.
        """
        dtype = self.dtype
        return self.unet(
            noisy_latents.to(dtype),
            timesteps,
            encoder_hidden_states=batch.prompt_embeds.to(dtype),
            added_cond_kwargs={"text_embeds": batch.pooled.to(dtype), "time_ids": batch.time_ids},
            return_dict=False,
        )[0]


@dataclass(frozen=True, eq=False)
class TextEncoders:
    """Private views of SDXL's two frozen text encoders in evaluation mode.

    New tokens and adapters are put into them, never into a host's own modules.
    """

    clip_l: CLIPTextModel
    clip_g: CLIPTextModelWithProjection
    layer: int = -2
    """Which hidden state both give out: SDXL's is the one before the last."""


class TrainableModel(Protocol):
    """An SDXL checkpoint that a LoRA can be trained on."""

    title: str
    """File name of the checkpoint, no path; goes into the LoRA's metadata."""
    fingerprint: str
    """Tells these weights from others; cheap: names, shapes and samples."""
    device: torch.device
    """Where training happens."""
    schedule: NoiseSchedule
    """As the model samples: known before anything is loaded."""

    @property
    def vae_fingerprint(self) -> str:
        """Changes with all that `encode_pixels` depends on beside the pixels; empty where that is not known.

        Weights, what patches them, the type that is computed in and the kind of device belong to it.
        """
        ...

    @property
    def text_fingerprint(self) -> str:
        """The same of `encode_captions`."""
        ...

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """(B, 3, 8·H, 8·W) in [-1, 1] -> scaled latents (B, 4, H, W), float32.

        They are the mean of the autoencoder's posterior x 0.13025. Pixels are encoded in float32 or
        bfloat16, never in float16, in which SDXL's autoencoder overflows.
        """
        ...

    def encode_captions(self, captions: Sequence[str]) -> list[TextCondition]:
        """One float32 condition per caption; the text is literal."""
        ...

    def open_denoiser(self, activation_bytes: int) -> AbstractContextManager[Denoiser]:
        """The UNet, loaded or aliased on entering; on leaving every reference to it is dropped.

        Args:
            activation_bytes: memory that training needs beside the weights; the host frees so much.
        """
        ...

    def open_text_encoders(self) -> AbstractContextManager[TextEncoders]:
        """The text encoders to train on, on the training device; on leaving every reference is dropped.

        May be open together with the denoiser, and is opened first.
        """
        ...

    def encode_prompts(
        self, prompts: Sequence[str], negative: str, encoder: "SDXLTextEncoder | None" = None
    ) -> Any:
        """Encode preview prompts in the host's own prompt syntax, for `draw`; before the denoiser opens.

        With an encoder, at any time and through it: new tokens and adapters in it act.
        """
        ...

    def draw(
        self, denoiser: Denoiser, encoded_prompts: Any, preview: PreviewConfig, size: tuple[int, int]
    ) -> list[Image.Image]:
        """One picture for each prompt, with the denoiser as it is now: its adapter acts.

        Args:
            denoiser: the one of `open_denoiser`, still open.
            encoded_prompts: from `encode_prompts`.
            preview: sampler, scheduler, steps, guidance and seed (prompt i: seed + i).
            size: (width, height), pixels.
        """
        ...
