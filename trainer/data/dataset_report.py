"""A dataset in words that a newcomer understands: buckets, captions, what was left out, the arithmetic."""

import math
from collections import Counter
from collections.abc import Sequence

from .folder import Note
from .training_set import TrainingSet

MAX_LISTED_NOTES = 20


def describe(dataset: TrainingSet, batch_size: int = 1) -> str:
    """The report of a dataset, several paragraphs of plain text.

    Args:
        dataset: what to describe.
        batch_size: pictures in a step, for the arithmetic.
    """
    paragraphs = [
        [f"Dataset '{dataset.root_name}': {_count(len(dataset.pictures), 'picture')} in use."],
        _buckets(dataset, batch_size),
        _captions(dataset),
        _masks_and_weights(dataset),
        _arithmetic(dataset, batch_size),
        _class_images(dataset, batch_size),
        _notes("Left out", [note for note in dataset.notes if note.kind == "skipped"]),
        _notes("Please check", [note for note in dataset.notes if note.kind == "warning"]),
        _notes("Good to know", [note for note in dataset.notes if note.kind == "info"]),
    ]
    return "\n\n".join("\n".join(lines) for lines in paragraphs if lines)


def describe_epoch(dataset: TrainingSet) -> str:
    """An epoch in one line: "3 pictures x 2 repeats = 6 samples an epoch; at batch 1: 6 steps an epoch"."""
    samples, steps = _count(dataset.num_samples, "sample"), _count(dataset.batches_per_epoch(1), "step")
    return f"{' + '.join(_terms(dataset))} = {samples} an epoch; at batch 1: {steps} an epoch"


def _count(number: int, word: str) -> str:
    plural = word + ("es" if word.endswith("h") else "s")
    return f"{number:,} {word if number == 1 else plural}"


def _buckets(dataset: TrainingSet, batch_size: int) -> list[str]:
    area = f"{dataset.config.resolution}x{dataset.config.resolution}"
    lines = [f"Sizes trained at (width x height; each at most about the area of {area} pixels):"]
    samples_in = dataset.samples_by_bucket
    for (width, height), pictures in dataset.buckets.items():
        samples = samples_in[width, height]
        batches = math.ceil(samples / batch_size)
        lines.append(
            f"  {width:>4} x {height:<4}  {_count(len(pictures), 'picture')}, "
            f"{_count(samples, 'sample')}, {_count(batches, 'batch')} an epoch"
        )
    ways = max(len(variants) for variants in dataset.variants)
    if ways > 1:
        kinds = _kinds_of_ways(dataset)
        lines.append(f"  Each picture is seen in up to {ways} ways ({kinds}), drawn at each step.")
    return lines


def _kinds_of_ways(dataset: TrainingSet) -> str:
    is_augmented = any(way.augmentation for ways in dataset.variants for way in ways)
    return "as augmented" if is_augmented else "crops, mirrored"


def _captions(dataset: TrainingSet) -> list[str]:
    sources = Counter(picture.caption_source for picture in dataset.pictures)
    lines = ["Captions:"]
    for source, number in sorted(sources.items(), key=lambda item: (-item[1], item[0])):
        example = next(p for p in dataset.pictures if p.caption_source == source)
        where = "no caption found" if source == "none" else f"from {source}"
        shown = example.shown_captions[0] or "(empty)"
        lines.append(f"  {_count(number, 'picture')}: {where}, such as {example.name}: {_shorten(shown)}")
    several = sum(len(picture.shown_captions) > 1 for picture in dataset.pictures)
    if several:
        lines.append(f"  {_count(several, 'picture')} with several captions: one is drawn at each step.")
    ways = max(len(p.captions) // len(p.shown_captions) for p in dataset.pictures)
    if ways > 1:
        lines.append(f"  Each caption is read in up to {ways} variants: one is drawn at each step.")
    if dataset.trigger_words:
        lines.append(f"  To call it up in a prompt, write: {_shorten(dataset.trigger_words)}")
    return lines


def _shorten(text: str, most: int = 120) -> str:
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."


def _terms(dataset: TrainingSet) -> list[str]:
    groups = Counter(picture.repeats for picture in dataset.pictures)
    return [
        f"{_count(number, 'picture')} x {_count(times, 'repeat')}" for times, number in sorted(groups.items())
    ]


def _arithmetic(dataset: TrainingSet, batch_size: int) -> list[str]:
    terms = _terms(dataset)
    batches = dataset.batches_per_epoch(batch_size)
    plain = math.ceil(dataset.num_samples / batch_size)
    if len(terms) == 1:
        lines = [f"{terms[0]} / batch {batch_size} = {_count(plain, 'step')} an epoch."]
    else:
        lines = [
            f"{' + '.join(terms)} = {_count(dataset.num_samples, 'sample')}; "
            f"/ batch {batch_size} = {_count(plain, 'step')} an epoch."
        ]
    if batches != plain:
        parts = " + ".join(str(math.ceil(n / batch_size)) for n in dataset.samples_by_bucket.values())
        lines.append(
            f"A batch holds pictures of one size only, so the sizes are counted one by one: "
            f"{parts} = {_count(batches, 'step')} an epoch."
        )
    return lines


def _masks_and_weights(dataset: TrainingSet) -> list[str]:
    lines = []
    masked = sum(picture.has_mask for picture in dataset.pictures)
    if masked:
        lines.append(
            f"Masks: {masked} of {_count(len(dataset.pictures), 'picture')}; the loss counts what they show."
        )
    weights = Counter(picture.loss_weight for picture in dataset.pictures)
    if set(weights) != {1}:
        terms = [f"{_count(number, 'picture')} x {weight:g}" for weight, number in sorted(weights.items())]
        lines.append(f"Loss weights: {', '.join(terms)}.")
    return lines


def _class_images(dataset: TrainingSet, batch_size: int) -> list[str]:
    """A step takes one batch of each kind, so class images make a step longer, not an epoch."""
    kept = dataset.class_set
    if kept is None:
        return []
    captions = Counter(caption for picture in kept.pictures for caption in picture.captions)
    example = captions.most_common(1)[0][0] or "(empty)"
    sizes = ", ".join(f"{len(p)} at {width} x {height}" for (width, height), p in kept.buckets.items())
    seen = dataset.num_samples / kept.num_samples
    return [
        f"Class images from '{kept.root_name}': {_count(len(kept.pictures), 'picture')} ({sizes}), most "
        f"often with the caption: {_shorten(example)}",
        f"  Each step sees as many of them as of the others: {batch_size} + {batch_size} = "
        f"{_count(2 * batch_size, 'sample')} a step; the steps of an epoch stay the same.",
        f"  {_count(dataset.num_samples, 'sample')} an epoch / {_count(kept.num_samples, 'class sample')} = "
        f"each class image is seen {seen:.3g} times an epoch.",
        *(f"  {_one_line(str(note))}" for note in kept.notes[:MAX_LISTED_NOTES]),
    ]


def _notes(title: str, notes: Sequence[Note]) -> list[str]:
    if not notes:
        return []
    lines = [f"{title} ({len(notes)}):", *(f"  {_one_line(str(note))}" for note in notes[:MAX_LISTED_NOTES])]
    if len(notes) > MAX_LISTED_NOTES:
        lines.append(f"  and {len(notes) - MAX_LISTED_NOTES} more")
    return lines


def _one_line(text: str) -> str:
    """File names may hold line breaks."""
    return " ".join(text.split())
