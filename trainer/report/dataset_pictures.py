"""Pictures of a dataset as a report shows them: cropped, small, with their captions."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..data.contact_sheet import as_cropped
from ..data.dataset import TrainingSet
from ..errors import InputError
from .thumbnails import Thumbnail, evenly_chosen

MOST_PICTURES = 60
BUDGET = 1_000_000
"""Bytes of all thumbnails together."""
_SIDE = 240


@dataclass(frozen=True, slots=True)
class ShownPicture:
    """`size` is (width, height) of its bucket, pixels."""

    thumbnail: Thumbnail
    name: str
    caption: str
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ShownPictures:
    """An even choice of a dataset; `num_pictures` counts all. `failures` are sentences."""

    pictures: Sequence[ShownPicture] = ()
    num_pictures: int = 0
    trigger_words: str = ""
    failures: list[str] = field(default_factory=list)


def read_pictures(dataset: TrainingSet) -> ShownPictures:
    """Read at most `MOST_PICTURES` pictures, one at a time; those that are gone are told of."""
    chosen = evenly_chosen(len(dataset.pictures), MOST_PICTURES)
    shown: list[ShownPicture] = []
    missing: list[str] = []
    for index in chosen:
        picture = dataset.pictures[index]
        try:
            cropped = as_cropped(dataset, index)
        except InputError as error:
            missing.append(f"{_one_line(picture.name)} is not shown in the report: {error}")
            continue
        thumbnail = Thumbnail.of(cropped, _SIDE, BUDGET // len(chosen))
        caption = picture.shown_captions[0]
        shown.append(ShownPicture(thumbnail, _one_line(picture.name), caption, cropped.size))
    return ShownPictures(shown, len(dataset.pictures), dataset.trigger_words, missing)


def _one_line(name: str) -> str:
    return " ".join(name.split())
