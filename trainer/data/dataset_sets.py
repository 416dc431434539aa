"""Training sets made from others: with class images, with masks, several joined with weights of their own."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from torch import Tensor

from ..errors import InputError
from .buckets import Size
from .captions import holds_trigger
from .folder import Note
from .masks import given_masks, latent_mask
from .picture import Picture, Variant
from .picture_checks import Progress, digests_of, in_threads
from .training_set import TrainingSet, derived_fingerprint, some
from .variant_pixels import cut_mask, open_mask

MIN_LOSS_WEIGHT, MAX_LOSS_WEIGHT = 0.01, 100.0
MAX_ASPECT_ERROR = 1.05
"""A mask whose sides have another ratio than its picture's, by more than this, is pointed out."""
NEARLY_BLACK = 0.005
"""A mask that lets in less is one of the levels 0 and 1, made for a program that reads labels."""

MaskSource = Literal["alpha", "masklabel"]

_Value = TypeVar("_Value")


def with_class_images(dataset: TrainingSet, class_set: TrainingSet) -> TrainingSet:
    """The set with the pictures of `class_set` as its class images (DreamBooth, arXiv 2208.12242, 3.3).

    Class images stay in buckets, captions and repeats of their own; what they replace is gone.

    Raises:
        InputError: a picture is in both sets, and could not be learned and kept at once.
    """
    own = {picture.digest: picture.name for picture in dataset.pictures}
    both = [f"{own[p.digest]} = {p.name}" for p in class_set.pictures if p.digest in own]
    if both:
        raise InputError(
            f"{len(both)} class images are also pictures of the dataset ({some(both)}): choose a folder that "
            "holds pictures of the class only, such as other dogs than yours"
        )
    notes = (*class_set.notes, *_trigger_notes(dataset.trigger_words, class_set))
    return replace(
        dataset,
        class_set=replace(class_set, class_set=None, notes=notes),
        fingerprint=derived_fingerprint("class images", dataset.fingerprint, class_set.fingerprint),
    )


def _trigger_notes(words: str, class_set: TrainingSet) -> list[Note]:
    captions = [caption for picture in class_set.pictures for caption in picture.captions]
    holding = sum(bool(words) and holds_trigger(caption, words) for caption in captions)
    if not holding:
        return []
    text = f"{holding} class captions hold '{words}', which calls up the subject: call the class without it"
    return [Note("warning", "", text)]


def with_repeats(dataset: TrainingSet, repeats: int) -> TrainingSet:
    """Every picture so many times as often in an epoch; class images stay as they are."""
    if repeats == 1:
        return dataset
    fingerprint = hashlib.sha256(f"{dataset.fingerprint} x {repeats}".encode()).hexdigest()
    pictures = tuple(replace(picture, repeats=picture.repeats * repeats) for picture in dataset.pictures)
    return replace(dataset, pictures=pictures, fingerprint=fingerprint)


def with_masks(
    dataset: TrainingSet, source: MaskSource | Tensor | Sequence[Tensor], on_progress: Progress | None = None
) -> TrainingSet:
    """The set with masks: what is black or transparent counts less in the loss, or not at all.

    Args:
        dataset: the pictures; masks they had are replaced. Class images stay without.
        source: "alpha" for each picture's own alpha channel, "masklabel" for the -masklabel file beside it,
            where one without counts in full; or masks (N, H, W) in [0, 1] in the order of the pictures,
            1 = trained, one for all alike, in one tensor or several of any sizes. A mask is stretched over
            its whole upright picture.
        on_progress: called with (done, total) as masks are read; what it raises, ends the reading.

    Raises:
        InputError: a wrong count or shape of masks, or a file that is damaged, is gone or has changed.
    """
    masked = _marked(dataset, source)
    found = in_threads(lambda index: _read_mask(masked, index), range(len(masked.pictures)), on_progress)
    kept = tuple(
        replace(picture, has_mask=mask is not None, mask_digest=picture.mask_digest if mask else "")
        for picture, mask in zip(masked.pictures, found, strict=True)
    )
    missing = "-masklabel file" if isinstance(source, str) and source == "masklabel" else "alpha channel"
    notes = (*_mask_notes(kept, found), *_missing_notes(found, missing))
    return replace(masked, pictures=kept, notes=(*dataset.notes, *notes))


def _marked(dataset: TrainingSet, source: MaskSource | Tensor | Sequence[Tensor]) -> TrainingSet:
    """The set whose pictures say where their masks are to be looked for."""
    count = len(dataset.pictures)
    arrays: Sequence[np.ndarray | None] = [None] * count
    digests = [""] * count
    parts: tuple[object, ...]
    by_file = isinstance(source, str) and source == "masklabel"
    if by_file:
        places = {at: p.mask_path for at, p in enumerate(dataset.pictures) if p.mask_path is not None}
        for at, digest in zip(places, digests_of(list(places.values())), strict=True):
            digests[at] = digest or "unreadable"
        parts = ("masklabel masks", digests)
    elif isinstance(source, str):
        parts = ("alpha masks",)
    else:
        arrays = given_masks(source, count)
        marks = [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]
        parts = ("masks", marks, [array.shape for array in arrays])
    pictures = tuple(
        replace(
            picture,
            has_mask=not by_file or bool(digest),
            given_mask=array,
            mask_digest=digest,
        )
        for picture, array, digest in zip(dataset.pictures, arrays, digests, strict=True)
    )
    return replace(dataset, pictures=pictures, fingerprint=derived_fingerprint(*parts, dataset.fingerprint))


@dataclass(frozen=True, slots=True)
class _ReadMask:
    """Size (width, height) of a mask before it is scaled, and the share of each variant that it lets in."""

    size: Size
    shares: list[float]


def _read_mask(dataset: TrainingSet, picture: int) -> _ReadMask | None:
    """None for a picture without a mask."""
    mask = open_mask(dataset.pictures[picture])
    if mask is None:
        return None
    shares = [float(latent_mask(cut_mask(mask, variant)).mean()) for variant in dataset.variants[picture]]
    return _ReadMask(mask.size, shares)


def _mask_notes(pictures: Sequence[Picture], found: Sequence[_ReadMask | None]) -> Iterator[Note]:
    for picture, mask in zip(pictures, found, strict=True):
        if mask is None:
            continue
        if max(mask.shares) == 0:
            yield Note("warning", picture.name, "has a mask that leaves nothing in: it teaches nothing")
        elif max(mask.shares) <= NEARLY_BLACK:
            text = "has a mask that is nearly black all over: white (255) is what is learned"
            yield Note("warning", picture.name, text)
        elif min(mask.shares) == 0:
            yield Note("warning", picture.name, "has a mask that leaves nothing in some of its crops")
        if _is_distorted(picture, mask.size):
            size = f"{mask.size[0]}x{mask.size[1]}"
            text = f"is {picture.width}x{picture.height}, its mask {size}: the mask was stretched"
            yield Note("warning", picture.name, text)


def _missing_notes(found: Sequence[_ReadMask | None], missing: str) -> Iterator[Note]:
    """How much the masks let in, and how many pictures lack the `missing` thing."""
    let_in = [sum(mask.shares) / len(mask.shares) for mask in found if mask is not None]
    if let_in:
        text = f"masks let in {sum(let_in) / len(let_in):.0%} of the area of their pictures on average"
        yield Note("info", "", text)
    bare = len(found) - len(let_in)
    if bare:
        text = f"{bare} of {len(found)} pictures have no {missing} and count in full"
        yield Note("info" if let_in else "warning", "", text)


def _is_distorted(picture: Picture, size: Size) -> bool:
    """Whether a mask of this (width, height) has another shape than its picture."""
    ratio = (size[0] / size[1]) / (picture.width / picture.height)
    return not 1 / MAX_ASPECT_ERROR <= ratio <= MAX_ASPECT_ERROR


def join_datasets(parts: Sequence[tuple[TrainingSet, float]]) -> TrainingSet:
    """Several sets as one, each with a loss weight of its own; their settings may differ.

    Pictures are named after their folder. Weights multiply those that a part already has, class images
    are joined with their own, and a class set that two parts share is taken once.

    Args:
        parts: at least one (set, loss weight); weights from 0.01 to 100.

    Raises:
        InputError: a weight out of range.
    """
    problems = [
        f"loss_weight_{number} is {weight:g}, but must be from {MIN_LOSS_WEIGHT:g} to {MAX_LOSS_WEIGHT:g}"
        for number, (_, weight) in enumerate(parts, 1)
        if not MIN_LOSS_WEIGHT <= weight <= MAX_LOSS_WEIGHT
    ]
    if problems:
        raise InputError("; ".join(problems))
    named = _named_apart([dataset for dataset, _ in parts])
    pictures: list[Picture] = []
    variants: list[tuple[Variant, ...]] = []
    for dataset, (_, weight) in zip(named, parts, strict=True):
        for picture, ways in zip(dataset.pictures, dataset.variants, strict=True):
            variants.append(tuple(replace(way, picture=len(pictures)) for way in ways))
            pictures.append(replace(picture, loss_weight=picture.loss_weight * weight))
    words = dict.fromkeys(dataset.trigger_words for dataset in named)
    return TrainingSet(
        pictures=tuple(pictures),
        config=max((dataset.config for dataset in named), key=lambda config: config.resolution),
        notes=(*(note for dataset in named for note in dataset.notes), *_shared_pictures(named)),
        variants=tuple(variants),
        fingerprint=derived_fingerprint("joined", [[d.fingerprint, float(weight)] for d, weight in parts]),
        root_name=" + ".join(dict.fromkeys(dataset.root_name for dataset in named)),
        class_set=_joined_class_set([dataset.class_set for dataset in named if dataset.class_set]),
        fixed_trigger_words=", ".join(filter(None, words)),
        roots=tuple(root for dataset in named for root in dataset.roots),
        augment=_common([dataset.augment for dataset in named]),
        caption_variants=_common([dataset.caption_variants for dataset in named]),
    )


def _common(values: Sequence[_Value]) -> _Value | None:
    """What all parts have alike; None where they differ."""
    return values[0] if all(value == values[0] for value in values) else None


def _joined_class_set(class_sets: Sequence[TrainingSet]) -> TrainingSet | None:
    distinct = list({class_set.fingerprint: class_set for class_set in class_sets}.values())
    if len(distinct) < 2:
        return distinct[0] if distinct else None
    return join_datasets([(class_set, 1.0) for class_set in distinct])


def _named_apart(datasets: Sequence[TrainingSet]) -> list[TrainingSet]:
    """Each set with its folder's name before the names of its pictures, so that no two share one.

    Sets that are joined already have names of that kind.
    """
    taken: set[str] = set()
    named = []
    for dataset in datasets:
        is_joined = dataset.fixed_trigger_words is not None
        prefix, number = "" if is_joined else f"{dataset.root_name}/", 1
        while any(prefix + picture.name in taken for picture in dataset.pictures):
            number += 1
            prefix = f"{dataset.root_name}-{number}/"
        taken |= {prefix + picture.name for picture in dataset.pictures}
        named.append(
            replace(
                dataset,
                pictures=tuple(replace(p, name=prefix + p.name) for p in dataset.pictures),
                notes=tuple(replace(n, name=n.name and prefix + n.name) for n in dataset.notes),
            )
        )
    return named


def _shared_pictures(datasets: Sequence[TrainingSet]) -> list[Note]:
    """A note on pictures of which several parts hold the very bytes."""
    holders: dict[str, set[int]] = {}
    names: dict[str, str] = {}
    for number, dataset in enumerate(datasets):
        for picture in dataset.pictures:
            holders.setdefault(picture.digest, set()).add(number)
            names.setdefault(picture.digest, picture.name)
    shared = [names[digest] for digest, numbers in holders.items() if len(numbers) > 1]
    return (
        [Note("info", "", f"{len(shared)} pictures are in both datasets: {some(shared)}")] if shared else []
    )
