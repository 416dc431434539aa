"""Findings about captions: missing ones, the trigger word, all alike, longer than one window of CLIP."""

import re
from functools import lru_cache

from ..data.captions import holds_trigger
from ..data.training_set import TrainingSet
from ..sdxl.token_windows import WORDS_PER_WINDOW, CaptionTokenizer
from ..text.caption_checks import is_known_word
from .examination import Finding, Subject
from .picture_findings import counted

_WORD = re.compile(r"\w+")
WORKS_FOR_ONE = "That works for one subject. Captions that name what differs (place, clothes, light)"


def caption_findings(dataset: TrainingSet, subject: Subject) -> list[Finding]:
    """What the captions tell, as people wrote them: variants made of them are not looked at."""
    tokenizer = _tokenizer()
    return [
        *_missing(dataset),
        *_trigger(dataset, subject, tokenizer),
        *_all_alike(dataset),
        *_long(dataset, tokenizer),
    ]


@lru_cache(maxsize=1)
def _tokenizer() -> CaptionTokenizer:
    return CaptionTokenizer()


def _missing(dataset: TrainingSet) -> list[Finding]:
    wordless = tuple(i for i, picture in enumerate(dataset.pictures) if not any(picture.shown_captions))
    alone = tuple(
        i
        for i, picture in enumerate(dataset.pictures)
        if picture.caption_source == "none" and any(picture.shown_captions)
    )
    findings = []
    if wordless:
        findings.append(
            Finding(
                "no caption",
                "must",
                f"{counted(wordless, 'has', 'have')} no caption and no trigger word",
                "They train without any words, so no prompt can call up what they teach: set a trigger or "
                "a prompt in Load Dataset, or write captions (Caption Images does it for you).",
                wordless,
            )
        )
    if alone and len(alone) == len(dataset.pictures):
        findings.append(
            Finding(
                "no caption",
                "note",
                f"No picture has a caption, all train on the trigger word alone: {dataset.trigger_words}",
                f"{WORKS_FOR_ONE} keep it from being learned as part of the subject.",
            )
        )
    elif alone:
        train = "trains" if len(alone) == 1 else "train"
        findings.append(
            Finding(
                "no caption",
                "should",
                f"{counted(alone, 'has', 'have')} no caption and {train} on the trigger word alone, unlike "
                "the others",
                "What is in them besides the subject is learned as part of it: write captions for them too.",
                alone,
            )
        )
    return findings


def _trigger(dataset: TrainingSet, subject: Subject, tokenizer: CaptionTokenizer) -> list[Finding]:
    if not any(any(picture.shown_captions) for picture in dataset.pictures):
        return []
    if dataset.trigger_words:
        common = [] if subject == "style" else _common_trigger(dataset.trigger_words, tokenizer)
        return [*_trigger_missing(dataset), *common]
    if subject == "style" or _shared_rare_words(dataset, tokenizer):
        return []
    return [
        Finding(
            "no trigger",
            "should",
            "There is no trigger word, and no rare word that all captions share",
            "A prompt needs a word that stands for what you teach: set trigger in Load Dataset to one "
            "that nobody else uses, such as zorp.",
        )
    ]


def _trigger_missing(dataset: TrainingSet) -> list[Finding]:
    """Of joined sets the word of one of them is enough."""
    whole = dataset.trigger_words
    words = [whole, *(word.strip() for word in whole.split(", "))]
    lacking = tuple(
        index
        for index, picture in enumerate(dataset.pictures)
        if any(picture.shown_captions)
        and not any(holds_trigger(caption, word) for caption in picture.shown_captions for word in words)
    )
    if not lacking:
        return []
    return [
        Finding(
            "trigger missing",
            "should",
            f"{counted(lacking, 'lacks', 'lack')} the trigger word '{whole}' in the caption",
            "Without it they teach the word nothing: set trigger in Load Dataset, which puts it in "
            "front, or write it into these captions.",
            lacking,
        )
    ]


def _common_trigger(words: str, tokenizer: CaptionTokenizer) -> list[Finding]:
    known = [is_known_word(word, tokenizer) for word in _WORD.findall(words)]
    if not known or not all(known):
        return []
    return [
        Finding(
            "common trigger",
            "should",
            f"The trigger word '{words}' is made of words that the model knows already",
            "What they mean gets mixed with your subject: choose a word that nobody uses, such as zorp "
            "or ohwx, alone or before them.",
        )
    ]


def _shared_rare_words(dataset: TrainingSet, tokenizer: CaptionTokenizer) -> set[str]:
    """Words that every caption holds and CLIP does not know as one."""
    captions = [caption for picture in dataset.pictures for caption in picture.shown_captions if caption]
    shared = set(_WORD.findall(captions[0].lower()))
    for caption in captions[1:]:
        shared &= set(_WORD.findall(caption.lower()))
    return {word for word in shared if not is_known_word(word, tokenizer)}


def _all_alike(dataset: TrainingSet) -> list[Finding]:
    captions = {caption for picture in dataset.pictures for caption in picture.shown_captions}
    (caption,) = captions if len(captions) == 1 else ("",)
    if len(dataset.pictures) == 1 or not caption or dataset.pictures[0].caption_source == "none":
        return []
    shown = caption if len(caption) <= 60 else caption[:57].rstrip() + "..."
    return [
        Finding(
            "same caption",
            "note",
            f"All pictures have the same caption: {shown}",
            f"{WORKS_FOR_ONE} let a prompt change it later.",
        )
    ]


def _long(dataset: TrainingSet, tokenizer: CaptionTokenizer) -> list[Finding]:
    windows = [max(_num_windows(c, tokenizer) for c in p.shown_captions) for p in dataset.pictures]
    long = tuple(index for index, number in enumerate(windows) if number > 1)
    if not long:
        return []
    return [
        Finding(
            "long captions",
            "note",
            f"{counted(long, 'has a caption', 'have captions')} of more than {WORDS_PER_WINDOW} tokens",
            "Nothing is cut off: a long caption is read in several windows, as ComfyUI reads a long "
            "prompt. What matters most stands best at its start.",
            long,
            tuple(f"{windows[index]} windows" for index in long),
        )
    ]


def _num_windows(caption: str, tokenizer: CaptionTokenizer) -> int:
    if len(caption.encode()) <= WORDS_PER_WINDOW:  # no token is shorter than a byte
        return 1
    return len(tokenizer.tokenize(caption).clip_l)
