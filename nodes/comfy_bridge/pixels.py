"""Pictures as ComfyUI holds them: into scaled latents through its VAE, and as IMAGE on a wire."""

import copy
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)


def encode_pixels(model: Any, vae: Any, pixels: Tensor) -> Tensor:
    """Scaled latents (B, 4, H/8, W/8), float32, of pixels (B, 3, H, W) in [-1, 1].

    The mean of the posterior, as ComfyUI encodes. Pictures whose latents overflow in the VAE's half
    precision are encoded again in float32; latents that are still not finite are returned as they are.
    """
    with torch.inference_mode():
        images = ((pixels + 1) / 2).movedim(1, -1)  # BCHW -> BHWC
        vae_latents = vae.encode(images)
        if not torch.isfinite(vae_latents).all() and vae.vae_dtype != torch.float32:
            vae_latents = _encode_in_float32(vae, images, vae_latents)
        # Playground 2.5's own scale and shift, where a checkpoint or a sampling patch brings it
        latents = model.get_model_object("latent_format").process_in(vae_latents)
    with torch.inference_mode(False):
        return latents.float().clone()


def _encode_in_float32(vae: Any, images: Tensor, vae_latents: Tensor) -> Tensor:
    """Replace the latents that are not finite, with a private float32 copy of the VAE."""
    log.warning("the VAE overflows in %s; the pictures concerned are encoded in float32", vae.vae_dtype)
    finite = torch.isfinite(vae_latents).flatten(1).all(dim=1)
    broken = (~finite).nonzero().flatten().tolist()
    precise = copy.deepcopy(vae.first_stage_model).to(device=vae.device, dtype=torch.float32)
    result = vae_latents.clone()
    for index in broken:
        image = vae.process_input(images[index : index + 1].movedim(-1, 1)).to(vae.device, torch.float32)
        result[index] = precise.encode(image)[0].to(result)
    return result


def to_image(picture: "Image.Image") -> Tensor:
    """A picture as IMAGE (1, H, W, 3) in [0, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]
