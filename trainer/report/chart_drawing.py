"""A chart laid out in a plane 800 wide: lines, dots and texts, each of a kind that its painter colours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .chart import Axis, Chart, Panel, Point, Series

WIDTH = 800
_LEFT, _RIGHT, _HEADING, _FOOTING = 60, 62, 34, 42
_LETTER = 6.6  # usual width at the font size of 13, for the legend
_DOT_RADIUS = {"raw": 1.3, "held_out": 3.4, "best": 6.0}

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line through points."""

    kind: str
    points: Sequence[Point]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Dots:
    """Discs; `titles` are a text for each, or none at all."""

    kind: str
    points: Sequence[Point]
    radius: float
    titles: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Letters:
    """A text whose baseline is at `place`."""

    kind: str
    place: Point
    text: str
    anchor: Anchor = "start"


Shape = Stroke | Dots | Letters


@dataclass(frozen=True, slots=True)
class Scale:
    """From the values of an axis to pixels."""

    axis: Axis
    start: float
    end: float

    def place(self, value: float) -> float:
        """The pixel of a value; values off the axis stand at its end."""
        share = (value - self.axis.low) / (self.axis.high - self.axis.low)
        return self.start + min(max(share, 0), 1) * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is painted, in this order, on a plane `WIDTH` wide."""

    height: int
    shapes: Sequence[Shape]


def draw_chart(chart: Chart) -> Drawing:
    """Lay a chart out."""
    across = Scale(chart.steps, _LEFT, WIDTH - _RIGHT)
    shapes: list[Shape] = []
    top = 0
    for panel in chart.panels:
        top += _HEADING
        shapes += _panel(panel, across, top)
        shapes += _marks(chart, across, (top, top + panel.height))
        shapes += _curves(panel, across, top)
        top += panel.height
    for tick in chart.steps.ticks:
        shapes.append(Letters("tick", (across.place(tick), top + 17), f"{tick:,.0f}", "middle"))
    shapes.append(Letters("tick", (WIDTH / 2, top + 35), "steps", "middle"))
    return Drawing(top + _FOOTING, shapes)


def _panel(panel: Panel, across: Scale, top: int) -> Iterator[Shape]:
    """The grid, what stands beside it, and the legend above it."""
    left, right = across.start, across.end
    down = Scale(panel.axis, top + panel.height, top)
    for tick in panel.axis.ticks:
        yield Stroke("grid", [(left, down.place(tick)), (right, down.place(tick))])
        yield Letters("tick", (left - 8, down.place(tick) + 4), f"{tick:.4g}", "end")
    if panel.right_axis is not None:
        down = Scale(panel.right_axis, top + panel.height, top)
        for tick in panel.right_axis.ticks:
            yield Letters("tick rate-tick", (right + 8, down.place(tick) + 4), f"{tick:.3g}")
    x = left
    for series in (*panel.series, *panel.right_series):
        y = top - 14
        if series.has_line:
            yield Stroke(series.kind, [(x, y), (x + 18, y)])
        if series.has_dots:
            dots = [(x + 3, y), (x + 9, y - 3), (x + 15, y + 2)] if series.kind == "raw" else [(x + 9, y)]
            titles = () if series.kind == "raw" else (series.label,)
            yield Dots(series.kind, dots, _DOT_RADIUS.get(series.kind, 1.0), titles)
        yield Letters("legend", (x + 24, y + 4), series.label)
        x += 24 + len(series.label) * _LETTER + 22


def _marks(chart: Chart, across: Scale, ends: tuple[int, int]) -> Iterator[Shape]:
    for mark in chart.marks:
        x, kind = across.place(mark.step), "proposed" if mark.is_proposed else "mark"
        yield Stroke(kind, [(x, ends[0]), (x, ends[1])], mark.title)
        if mark.label and ends[0] == _HEADING:
            is_late = x > (across.start + across.end) / 2
            place, anchor = (x - 6, "end") if is_late else (x + 6, "start")
            yield Letters("proposed-label", (place, ends[0] + 14), mark.label, anchor)


def _curves(panel: Panel, across: Scale, top: int) -> Iterator[Shape]:
    for axis, group in ((panel.axis, panel.series), (panel.right_axis, panel.right_series)):
        if axis is None:
            continue
        down = Scale(axis, top + panel.height, top)
        for series in group:
            yield from _curve(series, [(across.place(x), down.place(y)) for x, y in series.points])


def _curve(series: Series, points: Sequence[Point]) -> Iterator[Shape]:
    if series.has_line and len(points) > 1:
        yield Stroke(series.kind, points, series.label)
    if series.has_dots:
        yield Dots(series.kind, points, _DOT_RADIUS.get(series.kind, 1.0), series.titles)
