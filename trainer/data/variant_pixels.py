"""The pixels of a picture, and of its mask, as a variant shows them."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from .augmentation import coloured, cut_turned
from .picture import Picture, Variant
from .pictures import UnreadablePictureError, decode_alpha, decode_mask, decode_picture, read_bytes

_MASK_RESAMPLING = Image.Resampling.BOX
"""An area mean, without the overshoot that lanczos has at a mask's edges."""
_Decoded = TypeVar("_Decoded")


def open_picture(picture: Picture) -> Image.Image:
    """The whole upright picture, mode RGB.

    Raises:
        InputError: the file is gone, or is not the one that was loaded.
    """
    if picture.given_pixels is not None:
        return Image.fromarray(picture.given_pixels)
    return _read(picture.path, picture.digest, picture.name, lambda d: decode_picture(d, picture.background))


def open_mask(picture: Picture) -> Image.Image | None:
    """The mask before it is scaled, mode L, 255 = trained; None without a mask.

    Raises:
        InputError: the file is gone, or is not the one that was loaded.
    """
    if not picture.has_mask:
        return None
    if picture.given_mask is not None:
        return Image.fromarray(picture.given_mask)
    if picture.mask_path is not None and picture.mask_digest:
        return _read(picture.mask_path, picture.mask_digest, f"the mask of {picture.name}", decode_mask)
    if picture.given_pixels is not None:
        return None
    return _read(picture.path, picture.digest, picture.name, decode_alpha)


def cut_picture(image: Image.Image, variant: Variant) -> Image.Image:
    """The variant of a whole upright picture, of its bucket's size.

    Raises:
        InputError: kornia, which turns and colours, is missing.
    """
    image = _cut(image, variant, Image.Resampling.LANCZOS)
    return image if variant.augmentation is None else coloured(image, variant.augmentation)


def as_pixels(image: Image.Image) -> Tensor:
    """A picture of mode RGB as (3, H, W), float32 in [-1, 1]."""
    values = torch.from_numpy(np.array(image, dtype=np.float32))
    return (values / 127.5 - 1).permute(2, 0, 1).contiguous()


def cut_mask(mask: Image.Image, variant: Variant) -> Image.Image:
    """The mask of a variant, scaled, cut, turned and mirrored by the numbers of its pixels."""
    return _cut(mask, variant, _MASK_RESAMPLING)


def _read(path: Path, digest: str, name: str, decode: Callable[[bytes], _Decoded]) -> _Decoded:
    try:
        data = read_bytes(path)
        if hashlib.sha256(data).hexdigest() != digest:
            raise UnreadablePictureError("changed after the dataset was loaded: load the dataset again")
        return decode(data)
    except UnreadablePictureError as error:
        raise InputError(f"{name} {error}") from error


def _cut(image: Image.Image, variant: Variant, resampling: Image.Resampling) -> Image.Image:
    if image.size != variant.scaled:
        image = image.resize(variant.scaled, resampling)
    left, top = variant.crop_left, variant.crop_top
    if variant.augmentation is not None and variant.augmentation.rotation:
        image = cut_turned(image, (left, top), variant.bucket, variant.augmentation.rotation)
    else:
        image = image.crop((left, top, left + variant.bucket[0], top + variant.bucket[1]))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if variant.flipped else image
