"""Pictures that a graph hands over, without files: checked, copied and placed as those of a folder are.

IMAGE of ComfyUI is (B, H, W, C) in [0, 1], sRGB; here each picture comes alone, (H, W, C).
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..config import DatasetConfig
from ..errors import InputError
from .captions import clean_caption
from .dataset import place_pictures, require_usable
from .dataset_sets import with_masks
from .folder import FoundPicture, Note
from .masks import single_masks
from .picture_checks import MIN_SIDE, CheckedPicture, Progress
from .pictures import MAX_PIXELS, PictureFacts
from .training_set import TrainingSet, some

ROOT_NAME = "images"
CAPTION_SOURCE = "graph"
NOTABLE = 1 / 255
"""Values beyond [0, 1] by less than a level of 8 bit are rounding, of a resize or of a VAE."""


@dataclass(frozen=True, slots=True)
class _GivenPicture:
    """Pixels (H, W, 3) uint8 of the wired picture at `place`, and what is known of it."""

    checked: CheckedPicture
    pixels: np.ndarray
    place: int
    has_transparency: bool


def given_dataset(
    pictures: Sequence[Tensor],
    captions: Sequence[str],
    config: DatasetConfig,
    masks: Sequence[Tensor] = (),
    on_progress: Progress | None = None,
) -> TrainingSet:
    """The set of pictures without files, which keeps copies of their pixels.

    The fingerprint hangs on pixels, captions and settings, so that a run on the same pictures resumes.

    Args:
        pictures: each (H, W, C) or (H, W), sRGB in [0, 1]; C is 1 (grey), 3, or 4 (with alpha).
        captions: one for each picture, one for all, or none.
        config: the dataset settings; `prompt` stands in for an empty caption.
        masks: as `with_masks` takes them, one for each of `pictures` or one for all; empty for none.
        on_progress: called with (done, total) as pictures are copied; what it raises, ends the work.

    Raises:
        InputError: no usable picture, a shape or values that are no picture's, or a count of captions or
            masks that fits no picture.
    """
    require_usable(config)
    if not pictures:
        raise InputError("images holds no picture: wire at least one IMAGE")
    texts = _captions(captions, len(pictures), config)
    apart = _masks(masks, len(pictures))
    usable: list[_GivenPicture] = []
    notes = list(_caption_notes(captions, len(pictures)))
    for place, tensor in enumerate(pictures):
        made = _given_picture(place, tensor, texts[place], config.background)
        if isinstance(made, Note):
            notes.append(made)
        else:
            usable.append(made)
        if on_progress is not None:
            on_progress(place + 1, len(pictures))
    if not usable:
        raise InputError(f"none of the {len(pictures)} pictures can be used: {notes[-1]}")
    if not apart:
        return _placed(usable, [*notes, *_transparency_notes(usable, config)], config)
    dataset = _placed(usable, notes, config)
    places = {item.checked.found.name: item.place for item in usable}
    return with_masks(dataset, [apart[places[picture.name]] for picture in dataset.pictures])


def name_of(place: int) -> str:
    """What messages call the picture at a place, counted from 0."""
    return f"image {place + 1:04d}"


def _captions(captions: Sequence[str], count: int, config: DatasetConfig) -> list[tuple[str, str]]:
    """(caption, where it is from) of each picture; empty where it has none."""
    for text in captions:
        if not isinstance(text, str):
            raise InputError(f"captions holds {type(text).__name__}, but must hold texts: wire a STRING")
    if len(captions) not in (0, 1, count):
        raise InputError(
            f"captions holds {len(captions)} texts, but there are {count} pictures: wire one text for all, "
            "or a list with one for each"
        )
    cleaned = [clean_caption(text)[0] for text in captions] or [""]
    cleaned = cleaned * count if len(cleaned) == 1 else cleaned
    prompt = clean_caption(config.prompt)[0]
    instead = (prompt, "prompt" if prompt else "none")
    return [(text, CAPTION_SOURCE) if text else instead for text in cleaned]


def _caption_notes(captions: Sequence[str], count: int) -> Iterator[Note]:
    for place, text in enumerate(captions):
        if warning := clean_caption(text)[1]:
            yield Note("warning", name_of(place) if len(captions) == count else "", warning)
    if len(captions) == 1 and count > 1:
        lines = [line for line in captions[0].splitlines() if line.strip()]
        if len(lines) == count:
            text = f"captions is one text of {count} lines, and each of the {count} pictures has it whole"
            yield Note("warning", "", f"{text}: wire a list of texts to give each a line of its own")


def _masks(masks: Sequence[Tensor], count: int) -> list[Tensor]:
    """One mask (H, W) for each picture; none at all for none."""
    apart = single_masks(masks)
    if len(apart) not in (0, 1, count):
        raise InputError(
            f"mask holds {len(apart)} masks, but there are {count} pictures: wire one mask for all, or one "
            "for each"
        )
    return apart * count if len(apart) == 1 else apart


def _transparency_notes(usable: Sequence[_GivenPicture], config: DatasetConfig) -> Iterator[Note]:
    names = [item.checked.found.name for item in usable if item.has_transparency]
    if names:
        text = f"{len(names)} pictures have transparent parts, which lie on {config.background}"
        yield Note("info", "", f"{text}; wire a mask to leave them out of the loss: {some(names)}")


def _given_picture(
    place: int, tensor: Tensor, text: tuple[str, str], background: str
) -> _GivenPicture | Note:
    """The picture with its caption and where that is from, or the note that says why it is left out."""
    name = name_of(place)
    values = _values(name, tensor)
    height, width, channels = values.shape
    if min(width, height) < MIN_SIDE:
        text = f"is {width}x{height}, but the shorter side must be at least {MIN_SIDE} pixels"
        return Note("skipped", name, text)
    if width * height > MAX_PIXELS:
        return Note("skipped", name, f"is {width}x{height}, more than {MAX_PIXELS:,} pixels: make it smaller")
    warnings = []
    low, high = float(values.min()), float(values.max())
    if low < -NOTABLE or high > 1 + NOTABLE:
        warnings.append(f"has values from {low:g} to {high:g}, which were cut to 0-1")
    levels = np.round(values.clip(0, 1) * 255).astype(np.uint8)
    alpha = levels[..., 3:]
    if channels == 4 and alpha.max() == 0:
        warnings.append("is fully transparent: only the background colour is left of it")
    pixels = _rgb(levels, background)
    digest = hashlib.sha256(json.dumps(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    found = FoundPicture(Path(), name, tuple(filter(None, text[:1])), text[1], 1)
    checked = CheckedPicture(found, digest, PictureFacts(width, height, tuple(warnings)))
    return _GivenPicture(checked, pixels, place, channels == 4 and int(alpha.min()) < 255)


def _values(name: str, tensor: Tensor) -> np.ndarray:
    """The picture as float32 (H, W, C); ComfyUI's tensors may be half precision and of inference mode."""
    if tensor.ndim == 2:
        tensor = tensor[..., None]
    if tensor.ndim != 3 or tensor.shape[-1] not in (1, 3, 4) or 0 in tensor.shape:
        raise InputError(
            f"{name} has the shape {tuple(tensor.shape)}, but must be (height, width, channels) with 1, 3 or "
            "4 channels: wire an IMAGE"
        )
    values = tensor.detach().float().cpu().numpy()
    if not np.isfinite(values).all():
        raise InputError(
            f"{name} holds NaN or infinite values: look at the node that made it, such as a VAE in half "
            "precision"
        )
    return values


def _rgb(levels: np.ndarray, background: str) -> np.ndarray:
    """(H, W, 3) of 1, 3 or 4 channels of 8 bit; what is transparent lies on the background, as in a file."""
    if levels.shape[-1] == 1:
        return np.repeat(levels, 3, axis=-1)
    if levels.shape[-1] == 3:
        return levels
    color = Image.fromarray(np.ascontiguousarray(levels[..., :3]))
    alpha = Image.fromarray(np.ascontiguousarray(levels[..., 3]))
    return np.array(Image.composite(color, Image.new("RGB", color.size, background), alpha))


def _placed(usable: Sequence[_GivenPicture], notes: Sequence[Note], config: DatasetConfig) -> TrainingSet:
    dataset = place_pictures([item.checked for item in usable], config, ROOT_NAME)
    pixels = {item.checked.found.name: item.pixels for item in usable}
    pictures = tuple(replace(picture, given_pixels=pixels[picture.name]) for picture in dataset.pictures)
    return replace(dataset, pictures=pictures, notes=(*notes, *dataset.notes))
