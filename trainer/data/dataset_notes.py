"""What is worth knowing about a dataset: duplicates, missing captions, the trigger word, odd sizes."""

from collections.abc import Iterator, Sequence

from ..config import DatasetConfig
from .buckets import Placement
from .captions import clean_caption, holds_trigger
from .folder import Note
from .picture_checks import CheckedPicture
from .training_set import some


def dataset_notes(
    pictures: Sequence[CheckedPicture], placements: Sequence[Placement], config: DatasetConfig
) -> list[Note]:
    """Notes about the pictures in use; `placements[i]` is where `pictures[i]` goes."""
    notes = [Note("warning", item.found.name, text) for item in pictures for text in item.facts.warnings]
    notes.extend(_duplicates(pictures))
    notes.extend(_captions(pictures, config))
    notes.extend(_enlarged(pictures, placements, config))
    return notes


def _duplicates(pictures: Sequence[CheckedPicture]) -> Iterator[Note]:
    names: dict[str, list[str]] = {}
    for item in pictures:
        names.setdefault(item.digest, []).append(item.found.name)
    for same in names.values():
        if len(same) > 1:
            yield Note("warning", same[0], f"is byte for byte the same picture as {some(same[1:])}")


def _captions(pictures: Sequence[CheckedPicture], config: DatasetConfig) -> Iterator[Note]:
    bare = [item.found.name for item in pictures if not item.found.captions]
    trigger, cut = clean_caption(config.trigger)
    if cut:
        yield Note("warning", "", f"the trigger word is too long: {cut}")
    if bare:
        instead = f"the trigger word '{trigger}' alone" if trigger else "an empty caption"
        yield Note(
            "info" if trigger else "warning",
            "",
            f"{len(bare)} of {len(pictures)} pictures have no caption and train on {instead}: {some(bare)}",
        )
    if trigger:
        captions = [caption for item in pictures for caption in item.found.captions]
        holding = sum(holds_trigger(caption, trigger) for caption in captions)
        yield Note(
            "info",
            "",
            f"trigger word '{trigger}': {holding} captions had it, "
            f"it was put in front of {len(captions) - holding}",
        )


def _enlarged(
    pictures: Sequence[CheckedPicture], placements: Sequence[Placement], config: DatasetConfig
) -> Iterator[Note]:
    small = f", because a side is shorter than a bucket step of {config.bucket_step}"
    for item, placement in zip(pictures, placements, strict=True):
        size, scaled = (item.facts.width, item.facts.height), placement.scaled
        if scaled[0] > size[0] or scaled[1] > size[1]:
            enlarged = f"is {size[0]}x{size[1]} and was enlarged to {scaled[0]}x{scaled[1]}"
            yield Note("warning", item.found.name, enlarged + ("" if config.upscale else small))
