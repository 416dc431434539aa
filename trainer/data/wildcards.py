"""Choices in captions: {red|blue} stands for one of the two.

Choices may be empty and may hold others: {a|{b|c}|}. Doubled braces around the same text, {{text}}, are
plain ones. A brace without its partner is plain, too. Kohya's (sd-scripts, library/train_util.py,
process_caption, enable_wildcard) agree where none is inside another.
"""

from collections.abc import Callable

MAX_DEPTH = 20
"""Braces further inside are plain: a caption of nothing but braces must not exhaust Python's stack."""

Choose = Callable[[int], int]
"""Number of choices -> the place of the one that is taken."""


def pick_choices(text: str, choose: Choose) -> str:
    """The text with one choice in place of each pair of braces, drawn from left to right, outer first."""
    return _pick(text, (0, len(text)), _pairs(text), choose)


def has_choices(text: str) -> bool:
    """Whether different draws can give different texts."""
    counts: list[int] = []

    def count(number: int) -> int:
        counts.append(number)
        return 0

    pick_choices(text, count)
    return any(number > 1 for number in counts)


def has_lone_brace(text: str) -> bool:
    """Whether a brace has no partner."""
    pairs = _pairs(text)
    return sum(character in "{}" for character in text) != 2 * len(pairs)


def _pairs(text: str) -> dict[int, int]:
    """Place of each opening brace that has a partner -> the partner's place."""
    opened: list[int] = []
    pairs = {}
    for place, character in enumerate(text):
        if character == "{":
            opened.append(place)
        elif character == "}" and opened:
            start = opened.pop()
            if len(opened) < MAX_DEPTH:
                pairs[start] = place
    return pairs


def _pick(text: str, span: tuple[int, int], pairs: dict[int, int], choose: Choose) -> str:
    parts = []
    place, end = span
    while place < end:
        close = pairs.get(place)
        if close is None:
            parts.append(text[place])
            place += 1
            continue
        if pairs.get(place + 1) == close - 1:
            parts.append("{" + _pick(text, (place + 2, close - 1), pairs, choose) + "}")
        else:
            choices = _choices(text, (place + 1, close), pairs)
            parts.append(_pick(text, choices[choose(len(choices))], pairs, choose))
        place = close + 1
    return "".join(parts)


def _choices(text: str, span: tuple[int, int], pairs: dict[int, int]) -> list[tuple[int, int]]:
    """Where the choices between two braces start and end; bars of inner braces divide only those."""
    place, end = span
    spans, start = [], place
    while place < end:
        if text[place] == "|":
            spans.append((start, place))
            start = place + 1
        place = pairs.get(place, place) + 1
    return [*spans, (start, end)]
