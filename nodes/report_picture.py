"""The report of a run as IMAGE, at half its width, for a Save Image or Preview Image behind the trainer."""

from pathlib import Path

import torch
from PIL import Image

from ..trainer.runs.drawings import UNREADABLE
from .comfy_bridge.pixels import to_image

NO_REPORT_SIZE = 64  # pixels of the grey picture that stands in for a report that could not be written
MOST_WIDTH = 800  # pixels: ComfyUI keeps what a node gives out, at 12 bytes a pixel


def report_image(path: Path | None) -> torch.Tensor:
    """IMAGE (1, H, W, 3) in [0, 1], at most 800 pixels wide, or a small grey one where there is none."""
    try:
        if path is not None:
            with Image.open(path, formats=["PNG"]) as picture:
                return to_image(_narrow(picture))
    except UNREADABLE:
        pass  # as if it were not there
    return torch.full((1, NO_REPORT_SIZE, NO_REPORT_SIZE, 3), 0.5)


def _narrow(picture: Image.Image) -> Image.Image:
    if picture.width <= MOST_WIDTH:
        return picture
    size = MOST_WIDTH, max(1, round(picture.height * MOST_WIDTH / picture.width))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
