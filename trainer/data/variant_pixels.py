"""The pixels of a picture, and of its mask, as a variant shows them."""

import hashlib
from collections.abc import Callable
from typing import TypeVar

from PIL import Image

from ..errors import InputError
from .picture import Picture, Variant
from .pictures import UnreadablePictureError, decode_alpha, decode_picture, read_bytes

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
    return _read(picture, lambda data: decode_picture(data, picture.background))


def open_mask(picture: Picture) -> Image.Image | None:
    """The mask before it is scaled, mode L, 255 = trained; None without a mask.

    Raises:
        InputError: the file is gone, or is not the one that was loaded.
    """
    if not picture.has_mask:
        return None
    return _read(picture, decode_alpha) if picture.given_mask is None else Image.fromarray(picture.given_mask)


def cut_picture(image: Image.Image, variant: Variant) -> Image.Image:
    """The variant of a whole upright picture, of its bucket's size."""
    return _cut(image, variant, Image.Resampling.LANCZOS)


def cut_mask(mask: Image.Image, variant: Variant) -> Image.Image:
    """The mask of a variant, scaled, cut and mirrored by the numbers of its pixels."""
    return _cut(mask, variant, _MASK_RESAMPLING)


def _read(picture: Picture, decode: Callable[[bytes], _Decoded]) -> _Decoded:
    try:
        data = read_bytes(picture.path)
        if hashlib.sha256(data).hexdigest() != picture.digest:
            raise UnreadablePictureError("changed after the dataset was loaded: load the dataset again")
        return decode(data)
    except UnreadablePictureError as error:
        raise InputError(f"{picture.name} {error}") from error


def _cut(image: Image.Image, variant: Variant, resampling: Image.Resampling) -> Image.Image:
    if image.size != variant.scaled:
        image = image.resize(variant.scaled, resampling)
    left, top = variant.crop_left, variant.crop_top
    image = image.crop((left, top, left + variant.bucket[0], top + variant.bucket[1]))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if variant.flipped else image
