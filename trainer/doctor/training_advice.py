"""How many pictures a subject wants and how long to train on those there are, in sentences.

Pictures: what the four presets are made for; faces do with 6 to 10 good ones ("LoRA training scripts of the
world, unite!", Hugging Face, 2024: "less is more: pick your best pictures"). Steps: those of the presets;
that post tried 75, 100 and 120 a picture for faces and found 120 best where the pictures are varied. Class
images: it took 100 and 150 for 6 to 10 faces, so that each was seen at most 12 times.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..data.training_set import TrainingSet
from ..settings.recipes import PRESETS, Length
from .examination import Finding, Subject

MOST_CLASS_VIEWS = 12


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Pictures that a subject wants, from and to, what they should show, and the preset that trains it."""

    least: int
    most: int
    variety: str
    preset: str


_WANTED: Mapping[Subject, _Wanted] = {
    "face": _Wanted(
        6, 25, "close-ups and some of the whole body, in different light, clothes and places", "face"
    ),
    "character": _Wanted(15, 40, "different poses, views, expressions and backgrounds", "character"),
    "object": _Wanted(8, 20, "different sides, distances, light and surroundings", "object"),
    "style": _Wanted(20, 100, "as many different things as possible, all in the style", "style"),
}


def count_findings(dataset: TrainingSet, subject: Subject) -> list[Finding]:
    """Too few or very many pictures, class images that are seen too often, mirrored faces."""
    return [
        *_count(dataset, subject),
        *_class_images(dataset, subject),
        *_mirrored(dataset, subject),
    ]


def training_advice(dataset: TrainingSet, batch_size: int, subject: Subject) -> tuple[str, ...]:
    """Sentences: how many pictures are usual, how many steps, and what these are in epochs."""
    wanted = _WANTED[subject]
    length, number = PRESETS[wanted.preset].length, len(dataset.pictures)
    steps = recommended_steps(number, batch_size, subject)
    at_batch_1 = recommended_steps(number, 1, subject)
    plain = number * length.steps_per_picture
    arithmetic = f"{number} x {length.steps_per_picture} steps a picture = {plain:,}"
    if plain != at_batch_1:
        arithmetic += f", kept within {length.min_steps:,} to {length.max_steps:,} = {at_batch_1:,}"
    if batch_size > 1:
        arithmetic += f"; / batch {batch_size} = {steps:,}"
    epochs = max(1, steps / dataset.steps_per_epoch(batch_size))
    lines = [
        f"Usual for {subject}s: {wanted.least} to {wanted.most} pictures, with {wanted.variety}. Yours: "
        f"{number}.",
        f"About {steps:,} steps ({arithmetic}), which preset {wanted.preset} takes where steps and epochs "
        "are 0.",
    ]
    if length.also_tried:
        others = " or ".join(
            f"{math.ceil(number * factor / batch_size):,} ({factor} a picture)"
            for factor in length.also_tried
        )
        lines.append(f"If it looks stiff or copies the pictures, take less: {others}.")
    lines.append(
        f"An epoch is {dataset.num_samples:,} samples, {dataset.steps_per_epoch(batch_size):,} steps at "
        f"batch {batch_size}; so that is {epochs:,.0f} epochs, and each picture is seen about "
        f"{steps * batch_size / number:,.0f} times."
    )
    return tuple(lines)


def recommended_steps(number: int, batch_size: int, subject: Subject) -> int:
    """Optimizer steps for so many pictures; a larger batch takes fewer steps over as many views."""
    length: Length = PRESETS[_WANTED[subject].preset].length
    wanted = number * length.steps_per_picture
    return math.ceil(min(max(wanted, length.min_steps), length.max_steps or wanted) / batch_size)


def _count(dataset: TrainingSet, subject: Subject) -> list[Finding]:
    wanted, number = _WANTED[subject], len(dataset.pictures)
    there = "There is 1 picture" if number == 1 else f"There are {number:,} pictures"
    message = f"{there}, and {wanted.least} to {wanted.most} are usual for {subject}s"
    if number < wanted.least:
        return [
            Finding(
                "few pictures",
                "should" if 2 * number < wanted.least else "note",
                message,
                f"Few pictures are learned by heart, background and all: add some, with {wanted.variety}.",
            )
        ]
    if number > 2 * wanted.most:
        return [
            Finding(
                "many pictures",
                "note",
                message,
                "A few good ones often teach better than many middling ones: it is worth keeping only the "
                "best.",
            )
        ]
    return []


def _class_images(dataset: TrainingSet, subject: Subject) -> list[Finding]:
    """A step sees as many class samples as others, so that few of them are seen often."""
    if dataset.class_set is None:
        return []
    number = len(dataset.class_set.pictures)
    samples = recommended_steps(len(dataset.pictures), 1, subject)
    views = samples / number
    if views <= MOST_CLASS_VIEWS:
        return []
    least = math.ceil(samples / MOST_CLASS_VIEWS)
    return [
        Finding(
            "class images",
            "should",
            f"The class images are few: a run of the usual length sees each of the {number} about "
            f"{views:.0f} times",
            "They are there to keep the class as it was, and would be learned by heart: add some, to "
            f"{least} or more; the node Class Images draws what is missing.",
        )
    ]


def _mirrored(dataset: TrainingSet, subject: Subject) -> list[Finding]:
    if subject != "face" or not any(v.flipped for variants in dataset.variants for v in variants):
        return []
    return [
        Finding(
            "mirrored",
            "note",
            "Pictures are mirrored too, and no face is the same on both sides",
            "Moles, partings and smiles change sides, and the face becomes less like itself: turn flip off.",
        )
    ]
