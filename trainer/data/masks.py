"""Masks: which part of a picture counts in the loss, from white (255 or 1: trained) to black (left out)."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError

LATENT_DOWNSCALE = 8


def latent_mask(mask: Image.Image) -> Tensor:
    """A mask of mode L and size (8·W, 8·H) as float32 (1, H, W) in [0, 1]: the mean of each 8x8 pixels."""
    values = torch.from_numpy(np.array(mask, dtype=np.float32)) / 255
    return torch.nn.functional.avg_pool2d(values[None], LATENT_DOWNSCALE)


def given_masks(masks: Tensor | Sequence[Tensor], num_pictures: int) -> list[np.ndarray]:
    """ComfyUI's MASK as one uint8 array (H, W) for each picture, 255 = trained.

    Copies: what a graph holds may be an inference tensor, which no loss can be multiplied with.

    Args:
        masks: (N, H, W) or (H, W) in [0, 1], or several of them of any sizes; one mask in all counts for
            all pictures.
        num_pictures: of the dataset, in whose order the masks are.

    Raises:
        InputError: another count of masks, another shape, or values outside [0, 1].
    """
    single = single_masks([masks] if isinstance(masks, Tensor) else masks)
    if len(single) not in (1, num_pictures):
        raise InputError(
            f"mask holds {len(single)} masks, but the dataset has {num_pictures} pictures: wire one mask for "
            "all, or one for each picture in the order of their names"
        )
    arrays = [_as_bytes(mask) for mask in single]
    return arrays * num_pictures if len(arrays) == 1 else arrays


def single_masks(batches: Sequence[Tensor]) -> list[Tensor]:
    """Each mask alone, (H, W).

    Args:
        batches: (N, H, W), (N, 1, H, W) or (H, W) each, of any sizes.

    Raises:
        InputError: another shape.
    """
    return [mask for batch in batches for mask in _batch_of_masks(batch)]


def _batch_of_masks(masks: Tensor) -> Tensor:
    """(N, H, W) of what may lack N, or have a channel more."""
    shape = tuple(masks.shape)
    if masks.ndim == 4 and shape[1] == 1:
        masks = masks[:, 0]
    if masks.ndim == 2:
        masks = masks[None]
    if masks.ndim != 3 or 0 in shape:
        raise InputError(f"mask has the shape {shape}, but must be (count, height, width): wire a MASK")
    return masks


def _as_bytes(mask: Tensor) -> np.ndarray:
    values = mask.detach().to("cpu", torch.float32).numpy()
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high) and low >= -1e-3 and high <= 1 + 1e-3):
        raise InputError(f"mask has values from {low:g} to {high:g}, but they must be from 0 to 1")
    return np.round(values.clip(0, 1) * 255).astype(np.uint8)
