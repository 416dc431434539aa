"""Variants of captions with shuffled and dropped tags, made before a run, so that encoded text can be kept.

Kohya's trainer draws anew at each step, and refuses to keep encoded text then; here each caption becomes a
fixed number of variants, and batches draw of these.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from ..diffusion.conditioning import WINDOW_TOKENS
from ..errors import InputError
from ..settings.caption_variants_config import CaptionVariantsConfig
from .batches import generator
from .caption_tags import (
    JOINT,
    TagParts,
    caption_variant,
    first_choices,
    holds_any,
    plain_caption,
    split_tags,
)
from .captions import holds_trigger
from .folder import Note
from .training_set import Picture, TrainingSet, derived_fingerprint, some
from .wildcards import has_choices, has_lone_brace

WINDOW_KIB = 310
"""What one window of 75 tokens costs once it is encoded, in half precision: 77 x 2048 values and 1280."""


def with_caption_variants(dataset: TrainingSet, config: CaptionVariantsConfig) -> TrainingSet:
    """The set with `config.num_variants` variants in place of each caption.

    A variant hangs on the seed, the picture's digest, the caption and its number alone. Equal ones stay, so
    that batches draw each caption, order and tag in its share; a picture none of whose variants differ keeps
    one of each caption. `plain_captions` are the captions with prefix and suffix, the first of each choice
    and every tag in its place. Class images stay as they are.

    A trigger that stands in front stays there with `keep_tags` from 1 on; a prefix comes before it. Tags that
    hold the trigger or a word of `never_drop` are never dropped; kohya's trainer drops a trigger that is not
    among the kept tags.

    Raises:
        InputError: the captions are variants already.
    """
    if any(picture.plain_captions for picture in dataset.pictures):
        raise InputError(
            "the captions of this dataset are variants already, and variants of variants would not keep "
            "their shares: make them once, by one Caption Variants node"
        )
    trigger = _trigger_tags(dataset, config)
    named = [word.strip() for word in config.never_drop.split(",")]
    protected = [*trigger, *filter(None, named)]
    return replace(
        dataset,
        pictures=tuple(_varied(picture, config, protected) for picture in dataset.pictures),
        notes=(
            *dataset.notes,
            *_notes(dataset, config, protected),
            *_trigger_notes(dataset, config, trigger),
        ),
        fingerprint=derived_fingerprint("caption variants", asdict(config), dataset.fingerprint),
        caption_variants=config,
    )


def caption_variants_report(varied: TrainingSet, notes: Sequence[Note]) -> str:
    """How many captions there are to encode, what memory they take, and what to check.

    Args:
        varied: what `with_caption_variants` gave.
        notes: those it added.
    """
    # its tokenizer is loaded here and not for every dataset
    from ..sdxl.token_windows import CaptionTokenizer

    tokenizer = CaptionTokenizer()
    windows_of: dict[str, int] = {}
    for picture in varied.pictures:
        each = len(picture.captions) // len(picture.plain_captions)
        for number, plain in enumerate(picture.plain_captions):
            windows = max(1, math.ceil(len(tokenizer.ids(plain)) / (WINDOW_TOKENS - 2)))
            windows_of |= dict.fromkeys(picture.captions[number * each : (number + 1) * each], windows)
    num_plain = sum(len(picture.plain_captions) for picture in varied.pictures)
    mib = sum(windows_of.values()) * WINDOW_KIB / 1024
    lines = [
        f"{len(varied.pictures):,} pictures, {num_plain:,} captions, {len(windows_of):,} different variants.",
        f"Encoded once before training, they take about {mib:,.1f} MiB in half precision.",
    ]
    return "\n".join([*lines, *(f"{note}." for note in notes)])


def shown_variants(varied: TrainingSet, most: int = 4) -> str:
    """The captions of the first pictures as training reads them, each different one once."""
    paragraphs = [
        "\n".join([picture.name, *(f"  {text or '(empty)'}" for text in dict.fromkeys(picture.captions))])
        for picture in varied.pictures[:most]
    ]
    return "\n\n".join(paragraphs)


def _trigger_tags(dataset: TrainingSet, config: CaptionVariantsConfig) -> list[str]:
    """The trigger, tag by tag. A caption that all pictures share is one only if it is a single tag."""
    tags = split_tags(dataset.trigger_words, config).all
    is_named = dataset.fixed_trigger_words is not None or bool(dataset.config.trigger.strip())
    return tags if is_named or len(tags) == 1 else []


def _varied(picture: Picture, config: CaptionVariantsConfig, protected: Sequence[str]) -> Picture:
    variants = [_variants(picture.digest, caption, config, protected) for caption in picture.captions]
    if all(len(set(texts)) == 1 for texts in variants):
        variants = [texts[:1] for texts in variants]
    return replace(
        picture,
        captions=tuple(text for texts in variants for text in texts),
        plain_captions=tuple(plain_caption(caption, config) for caption in picture.captions),
    )


def _variants(
    digest: str, caption: str, config: CaptionVariantsConfig, protected: Sequence[str]
) -> list[str]:
    purpose = f"caption variant/{digest}/{caption}"
    return [
        caption_variant(caption, config, protected, generator(config.seed, purpose, number))
        for number in range(config.num_variants)
    ]


def _notes(dataset: TrainingSet, config: CaptionVariantsConfig, protected: Sequence[str]) -> Iterator[Note]:
    """What the settings do not reach, and what may surprise."""
    captions = [(picture.name, caption) for picture in dataset.pictures for caption in picture.captions]
    parts = _all_parts(dataset, config)
    if config.shuffle and not any(len(tags.flexible) > 1 for tags in parts):
        yield Note("info", "", f"{_too_few(parts, config)}: nothing to shuffle")
    if config.tag_dropout:
        loose = (tag for tags in parts for tag in tags.flexible)
        if all(holds_any(tag, protected) for tag in loose):
            yield Note("info", "", f"{_too_few(parts, config)}: nothing to drop")
    yield from _mark_notes(captions, config)


def _all_parts(dataset: TrainingSet, config: CaptionVariantsConfig) -> list[TagParts]:
    captions = (caption for picture in dataset.pictures for caption in picture.captions)
    return [split_tags(first_choices(caption, config), config) for caption in captions]


def _too_few(parts: Sequence[TagParts], config: CaptionVariantsConfig) -> str:
    if all(len(tags.all) < 2 for tags in parts):
        mark = config.separator.strip()
        return f"no caption has a {'comma' if mark == ',' else repr(mark)}"
    return "no caption has enough tags that are not kept"


def _mark_notes(captions: Sequence[tuple[str, str]], config: CaptionVariantsConfig) -> Iterator[Note]:
    """On braces and marks that are missing or alone."""
    if config.wildcards:
        framed = [(name, f"{config.prefix} {caption} {config.suffix}") for name, caption in captions]
        if not any(has_choices(text) for _, text in framed):
            yield Note("info", "", "no caption has a choice such as {red|blue}: wildcards change nothing")
        alone = [name for name, text in framed if has_lone_brace(text)]
        if alone:
            text = f"{len(alone)} captions have a brace without its partner, which is kept: {some(alone)}"
            yield Note("warning", "", text)
    mark = config.keep_separator.strip()
    bare = [name for name, caption in captions if mark not in caption]
    if bare and mark not in f"{config.prefix} {config.suffix}":
        text = f"{len(bare)} of {len(captions)} captions have no {mark}: keep_tags counts there"
        yield Note("info", "", f"{text}: {some(bare)}")


def _trigger_notes(
    dataset: TrainingSet, config: CaptionVariantsConfig, trigger: Sequence[str]
) -> Iterator[Note]:
    """On a trigger that is shuffled away from its place, or whose tags are torn apart."""
    words = JOINT.join(trigger)
    parts = _all_parts(dataset, config)
    moved = [
        tags
        for tags in parts
        if holds_trigger(JOINT.join(tags.all), words)
        and not holds_trigger(JOINT.join(tags.kept), words)
        and len(tags.flexible) > 1
    ]
    if config.shuffle and moved:
        text = f"in {len(moved)} of {len(parts)} captions the trigger '{words}' is not among the kept tags"
        yield Note("info", "", f"{text} and is shuffled with the others: raise keep_tags to keep it in place")
