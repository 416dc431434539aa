"""Pictures as people have them, read by their true mode into upright 8-bit sRGB.

Only formats whose decoders are plain code are opened (no EPS, which runs Ghostscript), chosen by the
file's content, never by its ending.
"""

import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from ..errors import InputError

MAX_PIXELS = 178_956_970
"""Larger pictures are refused: the point at which Pillow, too, takes a file for a decompression bomb."""
MAX_FILE_BYTES = 2**30

_FORMATS = (
    *("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "HEIF"),
    *("JPEG2000", "PPM", "QOI", "TGA", "JXL"),
)
_DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError),
    *(TypeError, AttributeError, OverflowError, ZeroDivisionError, RuntimeError, MemoryError),
)  # what Pillow's plug-ins let out on damaged files
_MAGIC = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"qoif"),
    *(b"\0\0\0\x0cjP  ", b"\xffO\xffQ"),
)
_Converted = TypeVar("_Converted")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


class UnreadablePictureError(InputError):
    """A picture cannot be used; the message is the reason, without the file's name."""


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """What a full decode tells: upright size in pixels, and what is odd about the picture."""

    width: int
    height: int
    warnings: tuple[str, ...]


def looks_like_picture(head: bytes) -> bool:
    """Whether the first 32 bytes of a file are those of a picture."""
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[4:8] == b"ftyp":
        return head[8:12] in (b"avif", b"avis", *_HEIF_BRANDS)
    if head[:2] == b"BM":
        return head[6:10] == b"\0\0\0\0"  # the reserved fields of a bitmap; text has none
    return head.startswith(_MAGIC)


@contextmanager
def whole_files_only() -> Iterator[None]:
    """Let Pillow refuse files that are cut off, even where a neighbour told it to be lenient.

    Pillow knows the switch only for the whole process; it is put back on leaving.
    """
    with _switch_lock:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


_switch_lock = threading.RLock()


def inspect_picture(data: bytes) -> PictureFacts:
    """Decode a whole file, as far as is needed to know that it is sound.

    Raises:
        UnreadablePictureError: the file is no picture, damaged, cut off or too large.
    """
    image = _open(data)
    size = image.size
    if image.format == "JPEG":
        # libjpeg still reads every byte, but puts out an eighth of the pixels.
        image.draft(None, (size[0] // 8, size[1] // 8))
        _load(image)
    else:
        _load(image)
        size = image.size  # TIFF turns itself upright while loading
    if _orientation(image) in (5, 6, 7, 8):
        size = size[1], size[0]
    return PictureFacts(*size, tuple(_oddities(image)))


def read_picture(path: Path, background: str = "#ffffff") -> Image.Image:
    """Read a picture as it is meant to look.

    Turned upright by its EXIF orientation (1-8), 16-bit and float samples scaled to 8 bit, palettes
    resolved, transparency laid over `background`, colours taken into sRGB by the embedded ICC profile,
    the first frame of an animation.

    Args:
        path: the file; its ending does not matter.
        background: colour behind transparent pixels, `#rrggbb` or a CSS colour name.

    Returns:
        A picture of mode RGB.

    Raises:
        UnreadablePictureError: the file is no picture, damaged, cut off or too large.
    """
    return decode_picture(read_bytes(path), background)


def read_bytes(path: Path) -> bytes:
    """The bytes of a file of reasonable size.

    Raises:
        UnreadablePictureError: the file is gone, may not be read, or is over 1 GiB.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UnreadablePictureError(f"cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise UnreadablePictureError("is larger than 1 GiB")
    return data


def decode_picture(data: bytes, background: str = "#ffffff") -> Image.Image:
    """`read_picture` for the bytes of a file."""
    return _converted(data, lambda upright: _to_srgb(upright, background))


def decode_alpha(data: bytes) -> Image.Image | None:
    """The opacity of a picture's upright pixels, mode L, 255 = opaque; None where it has no alpha channel.

    Raises:
        UnreadablePictureError: the file is no picture, damaged, cut off or too large.
    """
    return _converted(data, lambda upright: _split_alpha(_eight_bit(upright))[1])


def decode_mask(data: bytes) -> Image.Image:
    """The upright brightness of a picture that is a mask, mode L, 255 = white; transparent parts are black.

    Colour profiles are left aside: a mask's levels are weights, not colours.

    Raises:
        UnreadablePictureError: the file is no picture, damaged, cut off or too large.
    """
    return _converted(data, _levels)


def _levels(image: Image.Image) -> Image.Image:
    color, alpha = _split_alpha(_eight_bit(image))
    levels = color.convert("L")
    return levels if alpha is None else Image.composite(levels, Image.new("L", levels.size), alpha)


def _converted(data: bytes, convert: Callable[[Image.Image], _Converted]) -> _Converted:
    image = _open(data)
    _load(image)
    try:
        return convert(ImageOps.exif_transpose(image) if _orientation(image) > 1 else image)
    except _DECODER_ERRORS as error:
        raise UnreadablePictureError(f"cannot be converted from mode {image.mode}: {error}") from error


def _open(data: bytes) -> Image.Image:
    if not data:
        raise UnreadablePictureError("is empty (0 bytes)")
    Image.init()
    try:
        image = Image.open(BytesIO(data), formats=[f for f in _FORMATS if f in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise UnreadablePictureError(f"has more than {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise UnreadablePictureError(_what_else(data)) from error
    except _DECODER_ERRORS as error:
        raise UnreadablePictureError(f"is damaged: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise UnreadablePictureError(
            f"is {image.width}x{image.height}, more than {MAX_PIXELS:,} pixels: make it smaller"
        )
    return image


def _what_else(data: bytes) -> str:
    """Name a file that is no picture for what it is."""
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<svg")):
        return "is a web page or an SVG drawing, not a picture"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return "is HEIC, which cannot be read here: save it as JPEG or PNG"
    return "is no picture of a known format, or its first bytes are damaged"


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except _DECODER_ERRORS as error:
        raise UnreadablePictureError(f"is damaged or cut off: {error}") from error


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except _DECODER_ERRORS:
        return 1  # unreadable EXIF is no reason to lose the picture
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _oddities(image: Image.Image) -> Iterator[str]:
    if image.mode[0] not in "IF" and image.has_transparency_data:
        highest_alpha = image.convert("RGBA").getchannel("A").getextrema()[1]
        if highest_alpha == 0:
            yield "is fully transparent: only the background colour is left of it"
    if image.mode == "F":
        low, high = image.getextrema()
        if not 0 <= low <= high <= 1:
            yield f"has float values from {low:g} to {high:g}, which were scaled to 0-255"
    if image.format != "MPO" and getattr(image, "is_animated", False):
        yield "is animated or has several pages: only the first is used"
    profile = image.info.get("icc_profile")
    if profile and _profile_transform(profile, _icc_mode(image.mode)) is None:
        yield "has a colour profile that does not fit it; its colours are taken as sRGB"


def _to_srgb(image: Image.Image, background: str) -> Image.Image:
    profile = image.info.get("icc_profile")
    color, alpha = _split_alpha(_eight_bit(image))
    color = _apply_profile(color, profile)
    if alpha is None:
        return color
    return Image.composite(color, Image.new("RGB", color.size, background), alpha)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale integer and float samples to 8-bit grey; Pillow's own convert clips them instead."""
    if image.mode[0] not in "IF":
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and low >= 0 and high <= 1:
        scaled = values * 255
    elif image.mode == "F" and low >= 0 and high <= 255:
        scaled = values
    elif low >= 0 and high <= 65535:
        scaled = values * (255 / 65535)
    else:
        scaled = (values - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(np.round(scaled).astype(np.uint8))


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if not image.has_transparency_data:
        return image, None
    rgba = image.convert("RGBA")
    color = image.getchannel("L") if image.mode == "LA" else rgba.convert("RGB")
    return color, rgba.getchannel("A")


def _icc_mode(mode: str) -> str:
    """The mode in which colours of `mode` go through a profile: L, CMYK, LAB or RGB."""
    if mode in ("L", "LA", "1") or mode[0] in "IF":
        return "L"
    return mode if mode in ("CMYK", "LAB") else "RGB"


def _apply_profile(color: Image.Image, profile: bytes | None) -> Image.Image:
    mode = _icc_mode(color.mode)
    transform = _profile_transform(profile, mode) if profile or mode == "LAB" else None
    if transform is None or transform == "identity":
        return color.convert("RGB")
    return ImageCms.applyTransform(color.convert(mode) if color.mode != mode else color, transform)


@lru_cache(maxsize=32)
def _profile_transform(profile: bytes | None, mode: str) -> "ImageCms.ImageCmsTransform | str | None":
    """The way from a profile to sRGB: "identity" when there is none to go, None when it does not fit."""
    try:
        if profile is None:
            source = ImageCms.createProfile(mode)
        else:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            space = source.profile.xcolor_space.strip()
            if "sRGB" in (source.profile.profile_description or "") and space == "RGB":
                return "identity"
            if space != {"L": "GRAY", "LAB": "Lab"}.get(mode, mode):
                return None
        return ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
