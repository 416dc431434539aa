"""A chart as numbers: panels over a common axis of steps, their series, scales with round ticks, marks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SeriesKind = Literal["raw", "smooth", "held_out", "base", "best", "rate"]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """The values from `low` to `high`, and those that are written beside it."""

    low: float
    high: float
    ticks: Sequence[float]

    @classmethod
    def around(cls, values: Sequence[float], most: int = 6) -> "Axis":
        """The axis that holds the values and ends at round numbers; for equal values it has some room."""
        low, high = min(values), max(values)
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            room = abs(high) / 2 or 1.0
            low, high = low - room, high + room
        step = _round_step((high - low) / (most - 1))
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        return cls(low, high, nice_ticks(low, high, most + 1))

    @classmethod
    def of_steps(cls, last: int, most: int = 9) -> "Axis":
        """From 0 to the last step of a run, with whole numbers."""
        return cls(0, max(1, last), [tick for tick in nice_ticks(0, max(1, last), most) if tick % 1 == 0])


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` numbers from `low` to `high`, all multiples of 1, 2 or 5 times a power of ten."""
    if not high > low or most < 2:
        return [low]
    step = _round_step((high - low) / (most - 1))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _round_step(least: float) -> float:
    """The smallest 1, 2 or 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= least * (1 - 1e-9))


@dataclass(frozen=True, slots=True)
class Series:
    """Points (step, value) in order of their steps; drawn as dots, as a line, or as both.

    `titles` are a text for each point, or none at all.
    """

    kind: SeriesKind
    label: str
    points: Sequence[Point]
    has_line: bool = True
    has_dots: bool = False
    titles: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """Series over the left axis, `right_series` over the right one; `height` in pixels of 800 wide."""

    series: Sequence[Series]
    axis: Axis
    height: int
    right_series: Sequence[Series] = ()
    right_axis: Axis | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """An upright line through all panels."""

    step: int
    title: str
    label: str = ""
    is_proposed: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """All there is to draw."""

    panels: Sequence[Panel]
    steps: Axis
    marks: Sequence[Mark] = ()


def smoothed(points: Sequence[Point], reach: float) -> list[Point]:
    """The points under a mean that looks as far back as ahead, so that no bend is drawn too late.

    Args:
        points: evenly spread.
        reach: distance in points at which a neighbour counts 1/e.
    """
    decay = math.exp(-1 / reach)
    forward = _running([value for _, value in points], decay)
    backward = _running([value for _, value in reversed(points)], decay)[::-1]
    result = []
    for (step, value), (sum_before, weight_before), (sum_after, weight_after) in zip(
        points, forward, backward, strict=True
    ):
        # the point itself is in both
        result.append((step, (sum_before + sum_after - value) / (weight_before + weight_after - 1)))
    return result


def _running(values: Sequence[float], decay: float) -> list[tuple[float, float]]:
    """(decayed sum, decayed count) up to each value."""
    total = weight = 0.0
    sums = []
    for value in values:
        total, weight = total * decay + value, weight * decay + 1
        sums.append((total, weight))
    return sums
