"""What the pixels of a dataset's pictures tell: likeness and sharpness, measured once for each file."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ..data.buckets import Size
from ..data.picture import Picture
from ..data.picture_checks import Progress, in_threads
from ..data.training_set import TrainingSet
from ..data.variant_pixels import open_picture
from .picture_likeness import Likeness, look_of
from .sharpness import edge_sharpness

_Key = tuple[str, str, Size]

_known: dict[_Key, "Measures"] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class Measures:
    """The likeness of the whole upright picture; the sharpness of the part that is trained on, or None."""

    likeness: Likeness
    sharpness: float | None


def measure_pictures(dataset: TrainingSet, on_progress: Progress | None = None) -> list[Measures]:
    """The measures of every picture, each decoded once in threads and remembered by its bytes.

    Args:
        dataset: its class images are not looked at.
        on_progress: called with (done, total); what it raises, ends the work.

    Raises:
        InputError: a file is gone or has changed.
    """
    places: Sequence[tuple[Picture, Size]] = [
        (picture, ways[0].bucket) for picture, ways in zip(dataset.pictures, dataset.variants, strict=True)
    ]
    return in_threads(lambda place: _measured(*place), places, on_progress)


def covering_size(picture: Picture, bucket: Size) -> Size:
    """(width, height) of the picture scaled to cover its bucket, pixels, as it is before any augmentation."""
    scale = max(bucket[0] / picture.width, bucket[1] / picture.height)
    return max(bucket[0], round(picture.width * scale)), max(bucket[1], round(picture.height * scale))


def _measured(picture: Picture, bucket: Size) -> Measures:
    key = (picture.digest, picture.background, bucket)
    known = _known.get(key)
    if known is None:
        image = open_picture(picture)
        scaled = covering_size(picture, bucket)
        known = Measures(look_of(image), edge_sharpness(_trained_part(image, scaled, bucket)))
        with _lock:
            _known[key] = known
    return known


def _trained_part(image: Image.Image, scaled: Size, bucket: Size) -> Image.Image:
    """The middle that training cuts out of the scaled picture, but never larger than it is in the file.

    What is only small is told apart from what is blurred in this way.
    """
    scale = min(1.0, image.width / scaled[0])
    if scale == 1 and image.size != scaled:
        image = image.resize(scaled, Image.Resampling.LANCZOS, reducing_gap=3.0)
    width, height = round(bucket[0] * scale), round(bucket[1] * scale)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
