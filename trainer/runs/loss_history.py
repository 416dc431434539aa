"""The course of a run of any length in at most 2,000 points: what a chart draws, live and from the log."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_POINTS = 2000
DIGITS = 6  # that a chart can tell apart
END_BYTES = 16 * 1024  # of a log, whose last lines tell where the run stands


@dataclass(slots=True)
class _Point:
    """The steps from one to another, in one."""

    num_steps: int = 0
    num_counted: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    last_step: int = 0
    learning_rate: float = math.nan

    def add(self, later: "_Point") -> None:
        self.num_steps += later.num_steps
        self.num_counted += later.num_counted
        self.total += later.total
        self.low = min(self.low, later.low)
        self.high = max(self.high, later.high)
        self.last_step, self.learning_rate = later.last_step, later.learning_rate

    @property
    def mean(self) -> float:
        return self.total / self.num_counted if self.num_counted else math.nan


class LossHistory:
    """Takes one step after another; when its points are used up, neighbours become one.

    A point tells the mean, the lowest and the highest loss of its steps, the last of them and its rate. A
    skipped step (NaN) counts in none of them; a point of nothing else has no loss.
    """

    def __init__(self, most_points: int = MOST_POINTS) -> None:
        self._most_points = most_points
        self._points: list[_Point] = []
        self._steps_in_a_point = 1

    def __len__(self) -> int:
        return len(self._points)

    @property
    def last_step(self) -> int:
        """0 when there was none yet."""
        return self._points[-1].last_step if self._points else 0

    def add(self, step: int, loss: float, learning_rate: float) -> None:
        """Take in a step that comes after all before it."""
        new = _Point(num_steps=1, last_step=step, learning_rate=learning_rate)
        if math.isfinite(loss):
            new.num_counted, new.total, new.low, new.high = 1, loss, loss, loss
        is_full = not self._points or self._points[-1].num_steps >= self._steps_in_a_point
        if is_full and len(self._points) >= self._most_points:
            self._merge_pairs()
            is_full = self._points[-1].num_steps >= self._steps_in_a_point
        if is_full:
            self._points.append(new)
        else:
            self._points[-1].add(new)

    def _merge_pairs(self) -> None:
        for earlier, later in zip(self._points[::2], self._points[1::2], strict=False):
            earlier.add(later)
        self._points = self._points[::2]
        self._steps_in_a_point *= 2

    def columns(self) -> dict[str, list[Any]]:
        """One list for each of step, loss, low, high and learning_rate; None where there is no figure."""
        points = self._points
        return {
            "step": [point.last_step for point in points],
            "loss": [rounded(point.mean) for point in points],
            "low": [rounded(point.low) for point in points],
            "high": [rounded(point.high) for point in points],
            "learning_rate": [rounded(point.learning_rate) for point in points],
        }


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """What the log of a run tells of its course."""

    losses: LossHistory = field(default_factory=LossHistory)
    validation: list[tuple[int, float | None]] = field(default_factory=list)
    """(step, loss on the held-out pictures); None where it was not finite."""
    step_seconds: list[float] = field(default_factory=list)
    """Time of each step whose time is known."""

    @property
    def seconds(self) -> float:
        """Time of all steps together."""
        return sum(self.step_seconds)


def read_history(path: Path, until: float = math.inf) -> LoggedRun:
    """Read metrics.jsonl up to the step `until`; lines that cannot be read, or no file, are no error."""
    return _logged(_lines(path), until)


def read_end(path: Path) -> LoggedRun:
    """Read the last lines of metrics.jsonl, however long it is; no file is no error."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - END_BYTES))
            texts = file.read(END_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        texts = []
    return _logged(_parsed(texts), math.inf)


def _logged(lines: Iterable[Mapping[str, Any]], until: float) -> LoggedRun:
    run = LoggedRun()
    for line in lines:
        step = line.get("step")
        if not is_whole(step) or step > until:
            continue
        if "validation_loss" in line:
            run.validation.append((step, rounded(_number(line["validation_loss"]))))
        elif step > run.losses.last_step:
            run.losses.add(step, _number(line.get("loss")), _number(line.get("learning_rate")))
            seconds = _number(line.get("seconds"))
            run.step_seconds.extend([seconds] if math.isfinite(seconds) else [])
    return run


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from _parsed(file)
    except OSError:
        return


def _parsed(texts: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    for text in texts:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue  # cut off by a crash
        if isinstance(line, dict):
            yield line


def is_whole(value: Any) -> bool:
    """Whether a value of JSON is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> float:
    """NaN for what is no number a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def rounded(value: float | None) -> float | None:
    """To as many digits as a chart can show; None for what JSON has no number for."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")
