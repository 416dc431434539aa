"""Training sets made from others: with class images, with masks, several joined with weights of their own."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor

from ..errors import InputError
from .captions import holds_trigger
from .folder import Note
from .masks import given_masks
from .picture_checks import Progress, in_threads
from .training_set import Picture, TrainingSet, Variant, derived_fingerprint, some

MIN_LOSS_WEIGHT, MAX_LOSS_WEIGHT = 0.01, 100.0
MAX_ASPECT_ERROR = 1.05
"""A mask whose sides have another ratio than its picture's, by more than this, is pointed out."""


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
    dataset: TrainingSet, source: Literal["alpha"] | Tensor, on_progress: Progress | None = None
) -> TrainingSet:
    """The set with masks: what is black or transparent counts less in the loss, or not at all.

    Args:
        dataset: the pictures; masks they had are replaced. Class images stay without.
        source: "alpha" for each picture's own alpha channel, where one without counts in full; or masks
            (N, H, W) in [0, 1] in the order of the pictures, 1 = trained, N = 1 for all alike. A mask is
            stretched over its whole upright picture.
        on_progress: called with (done, total) as masks are read; what it raises, ends the reading.

    Raises:
        InputError: a wrong count or shape of masks, or a file that is gone or has changed.
    """
    if isinstance(source, Tensor):
        arrays = given_masks(source, len(dataset.pictures))
        pictures = [
            replace(picture, has_mask=True, given_mask=array)
            for picture, array in zip(dataset.pictures, arrays, strict=True)
        ]
        marks = [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]
        shapes = [array.shape for array in arrays]
        fingerprint = derived_fingerprint("masks", marks, shapes, dataset.fingerprint)
    else:
        pictures = [replace(picture, has_mask=True, given_mask=None) for picture in dataset.pictures]
        fingerprint = derived_fingerprint("alpha masks", dataset.fingerprint)
    masked = replace(dataset, pictures=tuple(pictures), fingerprint=fingerprint)
    shares = in_threads(lambda index: _shares(masked, index), range(len(pictures)), on_progress)
    kept = tuple(
        replace(picture, has_mask=share is not None)
        for picture, share in zip(masked.pictures, shares, strict=True)
    )
    notes = _mask_notes(kept, shares)
    return replace(masked, pictures=kept, notes=(*dataset.notes, *notes))


def _shares(dataset: TrainingSet, picture: int) -> list[float] | None:
    """What part of each of its variants a mask lets in, 0 to 1; None for a picture without a mask."""
    masks = dataset.load_masks(picture)
    return None if masks is None else [float(mask.mean()) for mask in masks]


def _mask_notes(pictures: Sequence[Picture], shares: Sequence[list[float] | None]) -> list[Note]:
    notes = []
    for picture, share in zip(pictures, shares, strict=True):
        if share is not None and max(share) == 0:
            notes.append(
                Note("warning", picture.name, "has a mask that leaves nothing in: it teaches nothing")
            )
        elif share is not None and min(share) == 0:
            notes.append(Note("warning", picture.name, "has a mask that leaves nothing in some of its crops"))
        if picture.given_mask is not None and _is_distorted(picture):
            height, width = picture.given_mask.shape
            text = f"is {picture.width}x{picture.height}, its mask {width}x{height}: the mask was stretched"
            notes.append(Note("warning", picture.name, text))
    masked = [sum(share) / len(share) for share in shares if share is not None]
    if masked:
        let_in = sum(masked) / len(masked)
        notes.append(Note("info", "", f"masks let in {let_in:.0%} of the area of their pictures on average"))
    bare = len(pictures) - len(masked)
    if bare:
        text = f"{bare} of {len(pictures)} pictures have no alpha channel and count in full"
        notes.append(Note("info" if masked else "warning", "", text))
    return notes


def _is_distorted(picture: Picture) -> bool:
    assert picture.given_mask is not None
    height, width = picture.given_mask.shape
    ratio = (width / height) / (picture.width / picture.height)
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
    )


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
        prefix, number = "" if len(dataset.roots) > 1 else f"{dataset.root_name}/", 1
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
