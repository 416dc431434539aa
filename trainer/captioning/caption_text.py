"""From what a captioner says to the caption that is trained on. Nothing here reads or writes a file."""

import re
from collections.abc import Sequence

from ..data.captions import clean_caption, with_trigger
from ..data.picture import Picture
from ..settings.caption_config import CaptionConfig

SOURCES_OF_ALL = ("none", "prompt", "folder name")
"""Captions from there are not of the picture itself, but of many."""

_JOINTS = ",;:"
_ENDS = " ,.;"


def caption_from(raw: str, config: CaptionConfig) -> str:
    """The words of a captioner as one line: phrases cut off, prefix and suffix put on; "" where none is left.

    A space goes between prefix, words and suffix unless there is one, or the suffix begins with a comma
    or the like (kohya_ss puts its prefix so; the notebook of diffusers types its comma: 'a photo of TOK, ').
    """
    words = without_phrases(clean_caption(raw)[0], config.phrases)
    if not words.strip(_ENDS):
        return ""
    suffix = config.suffix.strip()
    if suffix.startswith((".", "!", "?", *_JOINTS)):
        words, suffix = words.rstrip(_ENDS) + suffix, ""
    return clean_caption(f"{config.prefix} {words} {suffix}")[0]


def without_phrases(text: str, phrases: Sequence[str]) -> str:
    """`text` without the phrases that it begins with, one after the other; the longest that fits first."""
    patterns = [
        re.compile(r"\s+".join(map(re.escape, phrase.split())) + r"(?!\w)", re.IGNORECASE)
        for phrase in sorted(phrases, key=len, reverse=True)
    ]
    while True:
        fits = (pattern.match(text) for pattern in patterns)
        found = next((match for match in fits if match), None)
        if found is None:
            return text
        text = text[found.end() :].lstrip(" ,:;")


def own_captions(picture: Picture, trigger: str) -> tuple[str, ...]:
    """The captions that belong to the picture itself: not its folder's words, a prompt or a lone trigger."""
    if picture.caption_source in SOURCES_OF_ALL:
        return ()
    return tuple(caption for caption in picture.shown_captions if without_trigger(caption, trigger))


def without_trigger(caption: str, trigger: str) -> str:
    """`caption` without the trigger in front of it."""
    words = r"\s+".join(map(re.escape, trigger.split()))
    return re.sub(rf"^{words}(?:\s*,\s*|$)", "", caption, flags=re.IGNORECASE) if words else caption


def joined_captions(
    existing: Sequence[str], new: str, config: CaptionConfig, trigger: str
) -> tuple[str, ...]:
    """The captions of a picture after captioning, with the trigger in front of those that lack it.

    Overwriting leaves `new` alone; appending and prepending add it to every existing caption, unless it is
    there from before. A full stop between the two becomes a comma.

    Args:
        existing: captions of the picture itself, with the trigger in front where they did not hold it.
        new: from `caption_from`, not empty.
        config: says how to join; "skip" leaves existing captions as they are.
        trigger: the dataset's, one clean line.
    """
    if existing and config.if_exists == "skip":
        return tuple(existing)
    if existing and config.if_exists == "append":
        captions = [_append(caption, without_trigger(new, trigger) or new) for caption in existing]
    elif existing and config.if_exists == "prepend":
        captions = [_prepend(caption, without_trigger(caption, trigger), new) for caption in existing]
    else:
        captions = [new]
    finished = (clean_caption(with_trigger(clean_caption(caption)[0], trigger))[0] for caption in captions)
    return tuple(dict.fromkeys(finished))


def _append(caption: str, new: str) -> str:
    there = caption == new or caption.endswith(f", {new}")
    return caption if there else f"{caption.rstrip(_ENDS)}, {new}"


def _prepend(caption: str, bare: str, new: str) -> str:
    """`new, bare`, or the caption where it, with the trigger or `bare` of it, begins with `new` already."""
    start = new.rstrip(_ENDS)
    there = any(text == new or text.startswith(f"{start}, ") for text in (caption, bare))
    return caption if there else f"{start}, {bare}"
