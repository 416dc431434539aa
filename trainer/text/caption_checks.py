"""New tokens against what they stand in: captions that lack the word, and words that CLIP knows already."""

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from ..data.training_set import Picture, TrainingSet, derived_fingerprint, some
from ..errors import InputError
from ..sdxl.token_windows import TOKENIZER_FOLDER, CaptionTokenizer
from ..settings.text_config import PivotalConfig
from .new_tokens import NewTokens, initial_words

MAX_NAMED = 3
WORD_END = "</w>"
FIRST_RARE = 25_000
"""CLIP's tokens are numbered by how often they were met: cat is 2368, TOK 27010, sks 48136."""
SHORT_WORD, WORD_PIECE = 4, 3
"""Letters: up to the first a rare token may be nobody's word; pieces of the second and more read as words."""


def with_token(dataset: TrainingSet, new_tokens: NewTokens, add_token: bool) -> tuple[TrainingSet, list[str]]:
    """The pictures to learn the new tokens from, and what is odd about their captions.

    Args:
        dataset: all pictures; class images stay as they are.
        new_tokens: the words and how many tokens each stands for.
        add_token: put the first word in front of captions that hold none of them.

    Returns:
        The set, with captions changed where add_token asks for it, and sentences for the report.

    Raises:
        InputError: a word that no caption holds.
    """
    notes: list[str] = []
    names = " or ".join(new_tokens.names)
    captions = [caption for picture in dataset.pictures for caption in picture.shown_captions]
    lacking = [
        picture.name
        for picture in dataset.pictures
        for caption in picture.shown_captions
        if not new_tokens.holds(caption)
    ]
    lost = _lost_by_variants(dataset, new_tokens)
    if (lacking or lost) and add_token:
        first = new_tokens.words[0][0]
        pictures = tuple(_with_word(picture, first, new_tokens) for picture in dataset.pictures)
        fingerprint = derived_fingerprint("token", first, dataset.fingerprint)
        dataset = replace(dataset, pictures=pictures, fingerprint=fingerprint)
        notes += [f"{first} was put in front of {len(lacking)} of {len(captions)} captions"] * bool(lacking)
        notes += [f"{first} was put in front of {len(lost)} variants that had lost it"] * bool(lost)
    _require_words(dataset, new_tokens)
    if lacking and not add_token:
        notes.append(
            f"{len(lacking)} of {len(captions)} captions hold no {names}, and teach it nothing: "
            f"{some(list(dict.fromkeys(lacking)), MAX_NAMED)}; write it into them, or set add_token to on"
        )
    if lost and not add_token:
        notes.append(
            f"{len(lost)} variants of captions have lost {names}, and teach it nothing: "
            f"{some(list(dict.fromkeys(lost)), MAX_NAMED)}; write it into never_drop of Caption Variants, "
            "and into every choice that is to have it"
        )
    return dataset, [*notes, *_class_notes(dataset, new_tokens)]


def _lost_by_variants(dataset: TrainingSet, new_tokens: NewTokens) -> list[str]:
    """The picture of each variant that lacks the words, though its caption holds one."""
    lost = []
    for picture in dataset.pictures:
        each = len(picture.captions) // max(1, len(picture.plain_captions))
        for number, plain in enumerate(picture.plain_captions):
            variants = picture.captions[number * each : (number + 1) * each]
            if new_tokens.holds(plain):
                lost += [picture.name] * sum(not new_tokens.holds(variant) for variant in variants)
    return lost


def _with_word(picture: Picture, word: str, new_tokens: NewTokens) -> Picture:
    def added(captions: Iterable[str]) -> tuple[str, ...]:
        return tuple(
            caption if new_tokens.holds(caption) else f"{word}, {caption}" if caption else word
            for caption in captions
        )

    return replace(picture, captions=added(picture.captions), plain_captions=added(picture.plain_captions))


def _require_words(dataset: TrainingSet, new_tokens: NewTokens) -> None:
    absent = _absent(dataset, new_tokens)
    if absent:
        way_out = "write it into the captions where the subject is"
        if absent[0] == new_tokens.words[0][0]:
            way_out += ", or set add_token to on, which puts it in front"
        raise InputError(
            f"token {_quoted(absent)} stands in none of the dataset's captions, so nothing would learn it: "
            f"{way_out}"
        )


def require_words(trained: TrainingSet, new_tokens: NewTokens) -> None:
    """Hold the pictures that are left to train on against the words, once others have been held out.

    Args:
        trained: what `with_token` gave, without the held-out pictures.
        new_tokens: the words.

    Raises:
        InputError: a word that only held-out pictures have in their captions.
    """
    absent = _absent(trained, new_tokens)
    if not absent:
        return
    way_out = "lower validation_share, or write it into more captions"
    captions = [caption for picture in trained.pictures for caption in picture.captions]
    if absent[0] == new_tokens.words[0][0] and not all(map(new_tokens.holds, captions)):
        way_out = "lower validation_share, or set add_token to on, which puts it in front of the others"
    raise InputError(
        f"the captions with token {_quoted(absent)} are all among the held-out pictures, so nothing would "
        f"learn it: {way_out}"
    )


def _absent(dataset: TrainingSet, new_tokens: NewTokens) -> list[str]:
    """The words that no caption of the dataset holds, in the order of the settings."""
    held = {
        tuple(piece)
        for picture in dataset.pictures
        for caption in picture.captions
        for piece in new_tokens.pieces(caption)
        if isinstance(piece, list)
    }
    return [word for word in new_tokens.names if tuple(new_tokens.ids(word)) not in held]


def _quoted(words: Iterable[str]) -> str:
    return " and ".join(f"'{word}'" for word in words)


def _class_notes(dataset: TrainingSet, new_tokens: NewTokens) -> Iterable[str]:
    pictures = dataset.class_set.pictures if dataset.class_set else ()
    holding = sum(new_tokens.holds(caption) for picture in pictures for caption in picture.captions)
    if holding:
        names = " or ".join(new_tokens.names)
        yield f"{holding} class captions hold {names}, which calls up the subject: call the class without it"


def word_notes(config: PivotalConfig, new_tokens: NewTokens) -> list[str]:
    """Sentences on words that CLIP knows already, and on initial words that are too long.

    Raises:
        InputError: see `new_tokens.initial_words`.
    """
    tokenizer = _tokenizer()
    notes = []
    for word in new_tokens.names:
        pieces = [_text_of(token) for token in tokenizer.ids(word)]
        if is_known_word(word, tokenizer):
            notes.append(
                f"token '{word}' is one known token of CLIP ({pieces[0]}), and prompts lose what it means: "
                "choose a word nobody needs, such as TOK"
            )
        elif len(pieces) > 1 and all(len(piece) >= WORD_PIECE for piece in pieces):
            notes.append(
                f"token '{word}' splits into {' + '.join(pieces)}, and prompts lose what it means if it is a "
                "word: then choose one nobody needs, such as TOK"
            )
    for (word, count), start in zip(new_tokens.words, initial_words(config, new_tokens), strict=True):
        pieces = [_text_of(token) for token in tokenizer.ids(start)]
        if len(pieces) > count:
            left = " + ".join(pieces[count:])
            notes.append(
                f"initial_words '{start}' are {len(pieces)} tokens and {word} has {count}: {left} is left "
                f"out; raise new_tokens to {len(pieces)}, or write fewer"
            )
    return notes


def is_known_word(word: str, tokenizer: CaptionTokenizer) -> bool:
    """Whether CLIP has a token for the whole word, as something that people write."""
    ids = tokenizer.ids(word)
    return len(ids) == 1 and (ids[0] < FIRST_RARE or len(word) > SHORT_WORD)


def _text_of(token: int) -> str:
    return _vocabulary()[token].removesuffix(WORD_END)


@lru_cache(maxsize=1)
def _tokenizer() -> CaptionTokenizer:
    return CaptionTokenizer()


@lru_cache(maxsize=1)
def _vocabulary() -> dict[int, str]:
    """Token id -> its text; "</w>" ends a word."""
    ids = json.loads((TOKENIZER_FOLDER / "vocab.json").read_text("utf-8"))
    return {token: text for text, token in ids.items()}
