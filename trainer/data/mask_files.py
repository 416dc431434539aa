"""Masks in files of their own: `cat-masklabel.png` beside `cat.jpg` is its mask (OneTrainer's convention)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from .caption_tables import same_name

MASK_ENDING = "-masklabel"


@dataclass(frozen=True, slots=True)
class PairedFiles:
    """The picture files of one folder: `pictures`, `masks[picture]`, and (file, why) of masks without use."""

    pictures: tuple[str, ...]
    masks: dict[str, str]
    unused: tuple[tuple[str, str], ...]


def pair_masks(files: Sequence[str]) -> PairedFiles:
    """Tell pictures and their masks apart, by the names of all picture files in one folder.

    A mask is named after its picture, with or without the picture's ending: `cat-masklabel.png` or
    `cat.jpg-masklabel.png`; where there are both, the one with the ending, and a PNG before the others.
    """
    masks: dict[str, list[str]] = {}
    for file in sorted(files, key=lambda file: (PurePosixPath(file).suffix.lower() != ".png", file)):
        if is_mask_file(file):
            stem = PurePosixPath(file).stem
            masks.setdefault(same_name(stem[: -len(MASK_ENDING)]), []).append(file)
    pictures = tuple(file for file in files if not is_mask_file(file))
    pairs = {
        picture: masks[key][0]
        for picture in pictures
        if (key := next((key for key in _keys(picture) if key in masks), None)) is not None
    }
    return PairedFiles(pictures, pairs, tuple(_unused(pictures, masks, set(pairs.values()))))


def is_mask_file(file: str) -> bool:
    """Whether a file's name, without its ending, ends in -masklabel."""
    return PurePosixPath(file).stem.lower().endswith(MASK_ENDING)


def _keys(picture: str) -> tuple[str, str]:
    full = same_name(picture)
    return full, PurePosixPath(full).stem


def _unused(
    pictures: Sequence[str], masks: dict[str, list[str]], used: set[str]
) -> Iterator[tuple[str, str]]:
    keys = {key for picture in pictures for key in _keys(picture)}
    for key, files in masks.items():
        for file in files:
            if file in used:
                continue
            if key in keys:
                yield file, "is a second mask of its picture and is not used"
            else:
                yield file, "is a mask by its name, but its picture is not beside it: rename it if it is one"
