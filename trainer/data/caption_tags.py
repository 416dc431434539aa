"""One caption as tags between commas: what is kept, what is shuffled and dropped, and how they are joined.

The order is that of kohya's trainer (sd-scripts, library/train_util.py, process_caption): prefix and
suffix, choices, split at the separator, shuffle, tag dropout, join, secondary separator.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ..settings.caption_variants_config import CaptionVariantsConfig
from .captions import clean_caption, holds_trigger
from .wildcards import Choose, pick_choices

JOINT = ", "


@dataclass(frozen=True, slots=True)
class TagParts:
    """The tags of a caption: those in front and at the end are kept, those between may move and go."""

    kept: list[str]
    flexible: list[str]
    ending: list[str]

    @property
    def all(self) -> list[str]:
        return [*self.kept, *self.flexible, *self.ending]


def split_tags(text: str, config: CaptionVariantsConfig) -> TagParts:
    """The tags of a text, without empty ones."""
    mark = config.keep_separator.strip()
    if mark and mark in text:
        kept, flexible, ending = [*text.split(mark, 2), ""][:3]
        return TagParts(_tags(kept, config), _tags(flexible, config), _tags(ending, config))
    tags = _tags(text, config)
    return TagParts(tags[: config.keep_tags], tags[config.keep_tags :], [])


def chosen_text(caption: str, config: CaptionVariantsConfig, choose: Choose) -> str:
    """The caption with prefix, suffix and one of each choice; marks still stand in it."""
    text = " ".join(filter(None, (config.prefix.strip(), caption, config.suffix.strip())))
    return pick_choices(text, choose) if config.wildcards else text


def first_choices(caption: str, config: CaptionVariantsConfig) -> str:
    """`chosen_text` that draws nothing."""
    return chosen_text(caption, config, lambda _: 0)


def plain_caption(caption: str, config: CaptionVariantsConfig) -> str:
    """The caption with prefix, suffix and the first of each choice, every tag in its place."""
    text = first_choices(caption, config)
    return _joined(text, split_tags(text, config).all, config)


def caption_variant(
    caption: str, config: CaptionVariantsConfig, protected: Sequence[str], chance: random.Random
) -> str:
    """The caption as one draw gives it; may be empty.

    Args:
        caption: one line.
        config: what is drawn.
        protected: words; tags that hold one of them are never dropped.
        chance: is drawn from in kohya's order: choices from left to right, the shuffle, each tag's dropout.
    """
    text = chosen_text(caption, config, lambda number: chance.choice(range(number)))
    tags = split_tags(text, config)
    flexible = tags.flexible
    if config.shuffle:
        chance.shuffle(flexible)
    if config.tag_dropout:
        # drawn for protected tags as well: protecting one changes no other's lot
        flexible = [
            tag for tag in flexible if chance.random() >= config.tag_dropout or holds_any(tag, protected)
        ]
    return _joined(text, [*tags.kept, *flexible, *tags.ending], config)


def holds_any(tag: str, words: Sequence[str]) -> bool:
    """Whether the tag has one of the words in it, in any case."""
    return any(holds_trigger(tag, word) for word in words)


def _tags(text: str, config: CaptionVariantsConfig) -> list[str]:
    return [tag for tag in (piece.strip() for piece in text.split(config.separator.strip())) if tag]


def _joined(text: str, tags: Sequence[str], config: CaptionVariantsConfig) -> str:
    """The tags as one line; where none can move or go, the text as it was written."""
    mark, group = config.keep_separator.strip(), config.secondary_separator.strip()
    if config.shuffle or config.tag_dropout or (mark and mark in text):
        text = JOINT.join(tags)
    if group:
        text = text.replace(group, f"{config.separator.strip()} ")
    return clean_caption(text)[0]
