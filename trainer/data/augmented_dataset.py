"""A training set whose pictures are seen in N looks each: mirrored, cropped, turned, coloured by lot.

The looks are variants like those of random crops: encoded once before training, drawn from at each step.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, replace

from ..errors import InputError
from ..settings.augment_config import AugmentConfig
from .augmentation import Augmentation, require_kornia, turning_margin
from .batches import generator
from .folder import Note
from .picture import Picture, Variant
from .training_set import TrainingSet, derived_fingerprint, some

MAX_ENLARGEMENT = 1.1
"""Pictures that are magnified beyond their own pixels by more than this are pointed out: they blur."""


def with_augmentation(dataset: TrainingSet, config: AugmentConfig) -> TrainingSet:
    """The set with `variants_per_picture` looks of each picture in place of its variants.

    A look starts from one of the variants that the picture has, drawn by lot (random crops stay in play),
    and changes it. Mirroring of Load Dataset counts only where `flip` is 0: else the share is `flip` alone.
    With `keep_original` the first look is the first variant itself. The looks of a picture hang on the
    seed, its digest and their number alone: more variants leave the first ones as they are.

    Pictures, their order, captions, repeats and class images stay, and so do the steps of an epoch.

    Raises:
        InputError: the set is augmented already, or kornia is needed and missing.
    """
    if dataset.augment is not None or any(v.augmentation for ways in dataset.variants for v in ways):
        raise InputError(
            "the dataset is augmented already, and its changes would be changed again: use one Augment "
            "Dataset only, before or after Join Datasets"
        )
    if config.rotation or config.brightness or config.contrast or config.saturation or config.hue:
        require_kornia()
    variants = tuple(
        looks_of(picture, ways, config)
        for picture, ways in zip(dataset.pictures, dataset.variants, strict=True)
    )
    return replace(
        dataset,
        variants=variants,
        notes=(*dataset.notes, *_notes(dataset, variants, config)),
        fingerprint=derived_fingerprint("augmented", asdict(config), dataset.fingerprint),
        augment=config,
    )


def looks_of(picture: Picture, ways: Sequence[Variant], config: AugmentConfig) -> tuple[Variant, ...]:
    """The looks of one picture, drawn from (seed, digest, number); `ways` are the variants it has.

    Which are mirrored follows from one number of the picture, so that the share is kept within one look:
    look k is where the multiples of the share, counted from there, pass a whole number.
    """
    bases = [replace(way, flipped=False) for way in ways] if config.flip else ways
    start = generator(config.seed, f"side/{picture.digest}", 0).random()
    # below 1 - flip, the first look is not among the mirrored ones
    start *= 1 - config.flip if config.keep_original else 1
    passed = [math.floor(number * config.flip + start) for number in range(config.variants_per_picture + 1)]
    looks = []
    for number in range(config.variants_per_picture):
        if number == 0 and config.keep_original:
            looks.append(ways[0])
            continue
        lots = generator(config.seed, f"look/{picture.digest}", number)
        base = bases[int(lots.random() * len(bases))]
        look = _changed(base, lots, config)
        looks.append(replace(look, flipped=True) if passed[number + 1] > passed[number] else look)
    return tuple(looks)


def _changed(base: Variant, lots: random.Random, config: AugmentConfig) -> Variant:
    """All lots are drawn, used or not: a change of one setting leaves the other changes alone."""
    growth = 1 + config.crop_jitter * lots.random()
    across, down = lots.random(), lots.random()
    rotation, brightness, contrast, saturation, hue = (lots.uniform(-1, 1) for _ in range(5))
    augmentation = Augmentation(
        rotation=config.rotation * rotation,
        brightness=1 + config.brightness * brightness,
        contrast=1 + config.contrast * contrast,
        saturation=1 + config.saturation * saturation,
        hue=config.hue * hue,
    )
    moved = magnified(base, growth, augmentation.rotation, (across, down))
    return replace(moved, augmentation=augmentation)


def magnified(base: Variant, growth: float, degrees: float, place: tuple[float, float]) -> Variant:
    """The variant scaled larger, with the same bucket cut out of it at another place.

    The picture is first magnified as little as lets the crop turn by `degrees` within it (not at all
    where it reaches far enough beyond the crop), then by `growth`. The crop lies within what the base
    shows, or as near to it as its turned corners stay in the picture. `place` says where, 0 to 1 across
    and down. All in whole pixels, so that what the denoiser is told of scale and crop is what was done;
    only the turn itself has no number there: the crop told is the upright one with the same centre.

    A picture that is not larger than its bucket is magnified all the same, by `growth` at most for the
    jitter, also where Load Dataset does not enlarge.
    """
    margins = turning_margin(base.bucket, degrees)
    needed = [side + 2 * margin for side, margin in zip(base.bucket, margins, strict=True)]
    scale = growth * max(1.0, *(need / side for need, side in zip(needed, base.scaled, strict=True)))
    scaled = [round(side * scale) for side in base.scaled]
    starts = [_crop_start(base, axis, scaled[axis], margins[axis], growth, place[axis]) for axis in (0, 1)]
    return replace(base, scaled=(scaled[0], scaled[1]), crop_left=starts[0], crop_top=starts[1])


def _crop_start(base: Variant, axis: int, scaled: int, margin: int, growth: float, place: float) -> int:
    """Where the crop begins on one axis, 0 = x: `place` of the way through the room that it has."""
    side = base.bucket[axis]
    before = (base.crop_left, base.crop_top)[axis]
    centred = (before + side / 2) * scaled / base.scaled[axis] - side / 2
    reach = side * (growth - 1) / 2
    first, last = margin, scaled - side - margin
    low, high = math.ceil(max(first, centred - reach)), math.floor(min(last, centred + reach))
    if low > high:  # no whole pixel in reach: the nearest one
        return min(max(first, round(centred)), last)
    return low + min(int(place * (high - low + 1)), high - low)


def _notes(dataset: TrainingSet, variants: Sequence[Sequence[Variant]], config: AugmentConfig) -> list[Note]:
    notes = []
    enlarged = {
        picture.name: factor
        for picture, before, after in zip(dataset.pictures, dataset.variants, variants, strict=True)
        if (factor := _enlargement(picture, before, after)) > MAX_ENLARGEMENT
    }
    if enlarged:
        text = (
            f"{len(enlarged)} pictures are enlarged by up to {max(enlarged.values()):.2f} times for rotation "
            f"and crop_jitter and get soft ({some(list(enlarged))}): use larger pictures, or lower the two"
        )
        notes.append(Note("warning", "", text))
    most = max(_num_different(ways) for ways in variants)
    if most == 1 and config.variants_per_picture > 1:
        text = "augmentation changes nothing: raise flip, crop_jitter, rotation or one of the colours above 0"
        notes.append(Note("warning", "", text))
    elif most < config.variants_per_picture:
        text = (
            f"of the {config.variants_per_picture} variants of a picture at most {most} differ: set "
            f"variants_per_picture to {most}, which costs less, or raise another setting above 0"
        )
        notes.append(Note("warning", "", text))
    return notes


def _num_different(ways: Sequence[Variant]) -> int:
    plain = Augmentation()
    return len({replace(way, augmentation=way.augmentation or plain) for way in ways})


def _enlargement(picture: Picture, before: Sequence[Variant], after: Sequence[Variant]) -> float:
    """How many times as large a look is as the picture's own pixels, or as it was before if that is more."""
    own = max(picture.width, *(way.scaled[0] for way in before))
    return max(way.scaled[0] for way in after) / own
