"""Words of captions that stand for new tokens, and where they are in a text.

A word counts as a whole one and in any case: TOK is found in "a tok, sitting" and in "(TOK:1.2)", not in
"token". The new tokens of all words follow CLIP's own in one row: ids from 49408 on, which row of the
trained vectors is which.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from ..diffusion.conditioning import WINDOW_TOKENS
from ..settings.config_checks import refuse
from ..settings.text_config import PivotalConfig

FIRST_ID = 49408
MAX_NEW_TOKENS = WINDOW_TOKENS - 2

TITLE = "pivotal settings"
# a word is part of the name of its embedding file, which `embedding:` cuts at anything else; one of digits
# alone would take the weight out of "(red:1.2)"
WORD = re.compile(r"[A-Za-z0-9_-]*[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class NewTokens:
    """How many new tokens each word stands for, in the order of the settings: (("TOK", 2), ("STY", 4))."""

    words: tuple[tuple[str, int], ...]

    @classmethod
    def parse(cls, config: PivotalConfig) -> "NewTokens":
        """The words and counts of settings that name at least one.

        Raises:
            InputError: no word, one that is there twice or holds other than A-Z, digits, - and _; counts that
                are no whole numbers above 0, do not fit the words, or are more than one window holds.
        """
        words = [word for word in _entries(config.token) if word]
        counts = _entries(config.new_tokens)
        refuse(TITLE, _word_problems(words, config.token))
        refuse(TITLE, _count_problems(words, counts, config.new_tokens))
        numbers = [int(count) for count in counts] * (len(words) if len(counts) == 1 else 1)
        refuse(TITLE, [_size_problem(sum(numbers))])
        return cls(tuple(zip(words, numbers, strict=True)))

    @classmethod
    def of(cls, config: PivotalConfig) -> "NewTokens | None":
        """As `parse`; None for settings that name no word."""
        return cls.parse(config) if config.is_on else None

    @property
    def names(self) -> tuple[str, ...]:
        """The words alone."""
        return tuple(word for word, _ in self.words)

    @property
    def total(self) -> int:
        """Rows of the trained vectors."""
        return sum(count for _, count in self.words)

    def rows(self, word: str) -> range:
        """The rows of `word`, in any case, in the (total, width) tables.

        Raises:
            KeyError: there is no such word.
        """
        start = 0
        for known, count in self.words:
            if known.lower() == word.lower():
                return range(start, start + count)
            start += count
        raise KeyError(word)

    def ids(self, word: str) -> list[int]:
        """The token ids of `word`, in any case."""
        return [FIRST_ID + row for row in self.rows(word)]

    def pieces(self, text: str) -> list[str | list[int]]:
        """The text split at the words: what stands between them as text, each word as its ids, in order."""
        if not self.words:
            return [text] if text else []
        parts: list[str | list[int]] = []
        end = 0
        for found in _pattern(self._by_length).finditer(text):
            # by the number of the group, which does not ask what counts as the same letter
            parts += [text[end : found.start()], self.ids(self._by_length[(found.lastindex or 0) - 1])]
            end = found.end()
        return [part for part in [*parts, text[end:]] if part]

    def holds(self, caption: str) -> bool:
        """Whether any of the words stands in the caption."""
        return bool(self.words) and _pattern(self._by_length).search(caption) is not None

    @property
    def _by_length(self) -> tuple[str, ...]:
        """Longest first, so that TOK-2 is not read as TOK."""
        return tuple(sorted(self.names, key=len, reverse=True))


def initial_words(config: PivotalConfig, new_tokens: NewTokens) -> tuple[str, ...]:
    """What each word's vectors start as, in the order of the words; "" = random.

    Raises:
        InputError: not one entry for each word.
    """
    if not config.initial_words.strip():
        return ("",) * len(new_tokens.words)
    entries = _entries(config.initial_words)
    words = new_tokens.names
    refuse(TITLE, [_entries_problem(entries, words, config.initial_words)])
    return tuple(entries)


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",")]


@lru_cache(maxsize=16)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(whole_words(names), re.IGNORECASE)


def whole_words(names: Iterable[str]) -> str:
    """A pattern that finds the first of the names that stands alone, each in a group of its own."""
    choices = "|".join(f"({re.escape(name)})" for name in names)
    return rf"(?<!\w)(?:{choices})(?!\w)"


def word_stem(stem: str, word: str) -> str:
    """Name of the embedding file of one of several words, without ending; `stem` is that of all together."""
    return f"{stem}_{word.lower()}"


def own_stem(stem: str, word: str, num_words: int) -> str:
    """Name of the embedding file that a prompt names for one of so many words, without ending."""
    return stem if num_words == 1 else word_stem(stem, word)


def _word_problems(words: list[str], given: str) -> Iterable[str]:
    if not words:
        yield f"token is '{given}', which names no word; write one such as TOK"
    for word in words:
        if not WORD.fullmatch(word):
            yield (
                f"token has the word '{word}', but a word is made of the letters A to Z, digits, - and _, "
                "one letter at least and no spaces; write one such as TOK, and several with commas between"
            )
    lower = [word.lower() for word in words]
    for word in dict.fromkeys(lower):
        if lower.count(word) > 1:
            yield (
                f"token names '{words[lower.index(word)]}' {lower.count(word)} times, and case makes no "
                "difference; name each word once"
            )


def _count_problems(words: list[str], counts: list[str], given: str) -> Iterable[str]:
    if not all(count.isascii() and count.isdigit() and int(count) for count in counts):
        yield (
            f"new_tokens is '{given}', but must be a whole number from 1 on, or one for each word with "
            "commas between them, such as 2, 4"
        )
    elif len(counts) not in (1, len(words)):
        yield (
            f"new_tokens has {len(counts)} numbers ({', '.join(counts)}) for {len(words)} "
            f"{'word' if len(words) == 1 else 'words'} ({', '.join(words)}); write one number for all words, "
            "or one for each"
        )


def _size_problem(total: int) -> str:
    if total <= MAX_NEW_TOKENS:
        return ""
    return (
        f"new_tokens makes {total} new tokens in all, but a window of CLIP holds {MAX_NEW_TOKENS} tokens; "
        "write smaller numbers: 1 to 8 for a word is usual"
    )


def _entries_problem(entries: list[str], words: list[str], given: str) -> str:
    if len(entries) == len(words):
        return ""
    found = f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
    return (
        f"initial_words is '{given}', which has {found}, but token has {len(words)} ({', '.join(words)}); "
        "write one entry for each word, such as woman, or leave it empty"
    )
