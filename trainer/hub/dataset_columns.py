"""Which columns of a hub dataset hold the pictures and the captions, and what stands in a cell of them.

Columns are told apart by the names of their types in the `datasets` library, which is not imported here.
Source of the types: https://huggingface.co/docs/datasets/package_reference/main_classes (Features).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ..data.pictures import UnreadablePictureError, inspect_picture
from ..data.training_set import some
from ..errors import InputError
from ..settings.hub_config import HubConfig

CAPTION_NAMES = (
    *("text", "caption", "captions", "prompt", "prompts", "txt", "description", "sentence", "sentences"),
    *("sentences_raw", "blip_caption", "short_caption", "long_caption", "en_text"),
)
NO_CAPTION_WORDS = ("id", "url", "uri", "path", "file", "filename", "hash", "md5", "sha", "sha256", "key")
PICTURE_KINDS = ("picture", "array", "bytes")
CAPTION_KINDS = ("text", "texts", "class", "number")

_SUFFIXES = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
}
_SUFFIXES |= {"AVIF": "avif", "HEIF": "heic", "JPEG2000": "jp2"}
_MAX_LISTED = 30


@dataclass(frozen=True, slots=True)
class Columns:
    """The chosen columns; `caption` is empty where there are no captions, and `note` says why.

    `class_names` are the words for the numbers of a class column.
    """

    image: str
    caption: str
    class_names: tuple[str, ...] = ()
    note: str = ""


def choose_columns(features: Mapping[str, Any], config: HubConfig) -> Columns:
    """The columns that the settings name, else the obvious ones.

    Args:
        features: column -> its type, as `datasets` has them.
        config: the settings.

    Raises:
        InputError: a column that is not there or holds something else, no picture column, or several.
    """
    kinds = {name: _kind(feature) for name, feature in features.items()}
    image = _image_column(kinds, config)
    caption, note = _caption_column({n: k for n, k in kinds.items() if n != image}, config)
    names = tuple(features[caption].names) if caption and kinds[caption] == "class" else ()
    return Columns(image, caption, names, note)


def _kind(feature: Any) -> str:
    """What a column holds: one of PICTURE_KINDS and CAPTION_KINDS, or "other"."""
    kind = type(feature).__name__
    if kind == "Image":
        return "picture"
    if kind == "ClassLabel":
        return "class"
    if kind == "Value":
        if feature.dtype in ("string", "large_string"):
            return "text"
        return "bytes" if "binary" in feature.dtype else "number"
    if kind in ("Array2D", "Array3D"):
        return "array"
    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    if inner is None:
        return "other"
    if _kind(inner) == "text":
        return "texts"
    depth = 1
    while (deeper := getattr(inner, "feature", None)) is not None:
        inner, depth = deeper, depth + 1
    return "array" if depth in (2, 3) and _kind(inner) == "number" else "other"


def _image_column(kinds: Mapping[str, str], config: HubConfig) -> str:
    asked, there = config.image_column, f"its columns are {_listed(kinds)}"
    if asked:
        if asked not in kinds:
            raise InputError(f"{config.repository} has no column '{asked}' for image_column; {there}")
        if kinds[asked] not in PICTURE_KINDS:
            raise InputError(f"image_column is '{asked}', which holds {kinds[asked]}, no pictures; {there}")
        return asked
    for kind in PICTURE_KINDS[:2]:
        found = [name for name in kinds if kinds[name] == kind]
        if len(found) == 1 or "image" in found:
            return "image" if "image" in found else found[0]
        if found:
            raise InputError(
                f"{config.repository} has several columns of pictures: name one of {_names(found)} in "
                "image_column"
            )
    raise InputError(f"{config.repository} has no column of pictures; {there}: choose another dataset")


def _caption_column(kinds: Mapping[str, str], config: HubConfig) -> tuple[str, str]:
    """The column, or an empty string and a note."""
    asked = config.caption_column
    usable = {name: kind for name, kind in kinds.items() if kind in CAPTION_KINDS}
    if asked:
        if asked not in usable:
            what = f"which holds {kinds[asked]}" if asked in kinds else "which is not there"
            there = f"captions may come from {_names(list(usable))}" if usable else "no column holds captions"
            raise InputError(f"caption_column is '{asked}', {what}: in {config.repository} {there}")
        return asked, ""
    texts = [name for name, kind in kinds.items() if kind in ("text", "texts")]
    lower = {name.lower(): name for name in reversed(texts)}
    known = [lower[name] for name in CAPTION_NAMES if name in lower]
    if known:
        return known[0], ""
    telling = [n for n in texts if not set(n.lower().replace("-", "_").split("_")) & set(NO_CAPTION_WORDS)]
    if len(telling) == 1:
        return telling[0], ""
    if usable:
        note = f"no captions were taken: name one of the columns {_names(list(usable))} in caption_column"
        return "", f"{note}, or give a prompt or a trigger"
    return "", "the dataset has no captions"


def _listed(kinds: Mapping[str, str]) -> str:
    return some([f"'{name}' ({kind})" for name, kind in kinds.items()], _MAX_LISTED) or "none"


def _names(columns: list[str]) -> str:
    return some([f"'{name}'" for name in columns], _MAX_LISTED)


def caption_in(value: Any, columns: Columns) -> str | list[str]:
    """The caption or captions in a cell; "" where it is empty."""
    if isinstance(value, list | tuple):
        return [str(text) for text in value if text is not None]
    if value is None:
        return ""
    if columns.class_names:
        named = isinstance(value, int) and 0 <= value < len(columns.class_names)
        return columns.class_names[value] if named else ""
    return str(value)


def picture_in(value: Any, read: Callable[[str], bytes]) -> tuple[bytes, str]:
    """The bytes of the picture in a cell, and the ending that fits them.

    A picture file keeps its own bytes; pixels become PNG, and so do formats that have no ending here.

    Args:
        value: `{"bytes", "path"}` (`Image(decode=False)`), bytes, a PIL picture, or an array (H, W),
            (H, W, C) or (C, H, W) of integers from 0 to 255 or floats from 0 to 1.
        read: gives the bytes of a path that stands in a cell.

    Raises:
        UnreadablePictureError: there is no whole picture in it.
    """
    if isinstance(value, Mapping):
        path = value.get("path")
        value = value.get("bytes") if value.get("bytes") is not None else path and read(path)
    if value is None or isinstance(value, str):
        raise UnreadablePictureError("holds no picture")
    if not isinstance(value, bytes | bytearray):
        return _png(value if isinstance(value, Image.Image) else _from_array(value)), "png"
    data = bytes(value)
    inspect_picture(data)
    with Image.open(BytesIO(data)) as image:
        suffix = _SUFFIXES.get(image.format or "")
        return (data, suffix) if suffix else (_png(image), "png")


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    try:
        image.save(buffer, "PNG")
    except OSError:
        buffer = BytesIO()
        image.convert("RGB").save(buffer, "PNG")  # CMYK and the like
    return buffer.getvalue()


def _from_array(value: Any) -> Image.Image:
    try:
        pixels = np.asarray(value)
        fitting = pixels.ndim in (2, 3) and pixels.size > 0 and pixels.dtype.kind in "uifb"
    except ValueError:
        fitting = False  # rows of different lengths
    if not fitting:
        raise UnreadablePictureError("holds no picture, but values of another shape")
    if pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and pixels.shape[-1] not in (3, 4):
        raise UnreadablePictureError(f"holds an array {pixels.shape}, which is no picture")
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind in "fb" and low >= 0 and high <= 1:
        pixels = np.round(pixels * np.float32(255))
    elif not (low >= 0 and high <= 255):
        raise UnreadablePictureError(f"holds values from {low:g} to {high:g}, but pixels go from 0 to 255")
    return Image.fromarray(np.ascontiguousarray(pixels.astype(np.uint8)))


def shown_path(path: str) -> str:
    """The name of a file without where it lies."""
    return PurePosixPath(path.replace("\\", "/")).name[:80]
