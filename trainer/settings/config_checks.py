"""How settings check themselves: every problem of one object in one sentence."""

import math
from collections.abc import Iterable

from ..errors import InputError

MAX_SEED = 2**64 - 1


def refuse(title: str, problems: Iterable[str]) -> None:
    """Raise one InputError that lists all problems, if there are any."""
    found = [p for p in problems if p]
    if found:
        raise InputError(f"{title}: " + "; ".join(found))


def between(name: str, value: float, low: float, high: float) -> str:
    """A sentence when `value` is no finite number in [low, high], else an empty one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return f"{name} is {value!r}, but must be a number from {low:g} to {high:g}"
    if not low <= value <= high:
        return f"{name} is {value:g}, but must be from {low:g} to {high:g}"
    return ""


def one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    return "" if value in choices else f"{name} is '{value}', but must be one of {', '.join(choices)}"
