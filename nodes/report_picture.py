"""The report of a run as IMAGE, for a Save Image or Preview Image behind the trainer."""

from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError

from .comfy_bridge.pixels import to_image

NO_REPORT_SIZE = 64  # pixels of the grey picture that stands in for a report that could not be written


def report_image(path: Path) -> torch.Tensor:
    """IMAGE (1, H, W, 3) in [0, 1]: the picture, or a small grey one where there is none."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return to_image(picture)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        return torch.full((1, NO_REPORT_SIZE, NO_REPORT_SIZE, 3), 0.5)
