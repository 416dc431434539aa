"""Augmentation: what is changed about a picture's look beside its crop and its side.

This file knows nothing of training sets, so that reading pixels may use it; `augmented_dataset.py` draws
the looks of a whole set. kornia does the work and is imported only where a look needs it.
"""

import importlib
import math
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from .buckets import Size

Sampling = Literal["bilinear", "bicubic"]
_REACH = 2
"""Pixels that bicubic sampling looks beyond a point, to either side."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How a crop is turned and coloured.

    `rotation` in degrees, counter-clockwise, about the centre of the crop. `brightness`, `contrast` and
    `saturation` are factors, 1 = as it is; `hue` turns the colour wheel, -0.5 to 0.5 of a full turn.
    """

    rotation: float = 0.0
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0

    @property
    def changes_colour(self) -> bool:
        return (self.brightness, self.contrast, self.saturation, self.hue) != (1, 1, 1, 0)


def turning_margin(bucket: Size, degrees: float) -> Size:
    """Pixels that a crop of size `bucket` needs free on each side to be turned about its centre.

    The rectangle around a turned w x h is w·|cos| + h·|sin| wide and w·|sin| + h·|cos| high. A side on
    which the turned crop is narrower than the upright one needs none. (width, height), rounded up.
    """
    width, height = bucket
    cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    beyond = width * cos + height * sin - width, width * sin + height * cos - height
    # 1e-9: whole numbers may come out a hair above themselves
    across, down = (max(0, math.ceil(pixels / 2 - 1e-9)) for pixels in beyond)
    return across, down


def cut_turned(image: Image.Image, place: Size, bucket: Size, degrees: float) -> Image.Image:
    """The crop of `image` at `place` (left, top), turned counter-clockwise about its centre.

    One affine warp, sampled from the pixels around the crop and not from a crop made before, so that
    straight lines stay straight and corners are filled. Pictures are sampled bicubically, which keeps
    them sharp, masks (mode L) bilinearly, which stays between 0 and 255.

    Args:
        image: mode RGB or L, in which the crop has its `turning_margin` on all sides.
        place: left and top of the upright crop, pixels.
        bucket: width and height of the crop, pixels.
        degrees: counter-clockwise.
    """
    (left, top), (width, height) = place, bucket
    across, down = (margin + _REACH for margin in turning_margin(bucket, degrees))
    west, north = max(0, left - across), max(0, top - down)
    east, south = min(image.width, left + width + across), min(image.height, top + height + down)
    pixels = _to_tensor(image.crop((west, north, east, south)))
    # pixel i is the point i: the centre of n pixels lies at (n - 1) / 2
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    from_x, from_y = left - west + centre_x, top - north + centre_y
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.tensor(
        [
            [cos, sin, centre_x - cos * from_x - sin * from_y],
            [-sin, cos, centre_y + sin * from_x - cos * from_y],
        ]
    )
    sampling: Sampling = "bilinear" if image.mode == "L" else "bicubic"
    warp = _kornia("geometry.transform").warp_affine
    turned = warp(
        pixels[None], matrix[None], (height, width), mode=sampling, padding_mode="border", align_corners=True
    )
    return _to_picture(turned[0])


def coloured(image: Image.Image, augmentation: Augmentation) -> Image.Image:
    """The picture, mode RGB, in other colours; the same one where the look changes none."""
    if not augmentation.changes_colour:
        return image
    return _to_picture(coloured_pixels(_to_tensor(image), augmentation))


def coloured_pixels(pixels: Tensor, augmentation: Augmentation) -> Tensor:
    """Pixels (3, H, W), float32 in [0, 1], in other colours, likewise; the input is not changed.

    In this order, each clamped to [0, 1], by the functions of `kornia.enhance` that do as PIL and
    torchvision: brightness multiplies (adjust_brightness_accumulative), contrast scales the distance from
    the mean grey (adjust_contrast_with_mean_subtraction), saturation that from each pixel's grey
    (adjust_saturation_with_gray_subtraction), grey by ITU-R BT.601; hue is added in HSV (adjust_hue).

    Raises:
        InputError: kornia is missing.
    """
    if not augmentation.changes_colour:
        return pixels
    enhance = _kornia("enhance")
    if augmentation.brightness != 1:
        pixels = enhance.adjust_brightness_accumulative(pixels, float(augmentation.brightness))
    if augmentation.contrast != 1:
        pixels = enhance.adjust_contrast_with_mean_subtraction(pixels, float(augmentation.contrast))
    if augmentation.saturation != 1:
        pixels = enhance.adjust_saturation_with_gray_subtraction(pixels, float(augmentation.saturation))
    if augmentation.hue != 0:
        pixels = enhance.adjust_hue(pixels, 2 * math.pi * augmentation.hue)
    return pixels


def require_kornia() -> None:
    """Find out before any work whether looks that turn or colour can be made.

    Raises:
        InputError: kornia is missing.
    """
    _kornia("enhance")


def _kornia(module: str) -> ModuleType:
    try:
        return importlib.import_module(f"kornia.{module}")
    except ImportError as error:
        raise InputError(
            f"rotation and colour need the package kornia, which cannot be imported ({error}): install it "
            "with 'pip install kornia' into the Python of this program, or use flip and crop_jitter alone"
        ) from error


def _to_tensor(image: Image.Image) -> Tensor:
    """(channels, H, W) float32 in [0, 1]."""
    values = torch.from_numpy(np.array(image, dtype=np.float32)) / 255
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1)


def _to_picture(pixels: Tensor) -> Image.Image:
    """Mode RGB or L of (3 or 1, H, W) in about [0, 1]."""
    values = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(values[0].numpy() if len(values) == 1 else values.permute(1, 2, 0).numpy())
