"""A drawn chart as pixels."""

import itertools
import math
from collections.abc import Mapping

from PIL import Image, ImageDraw

from .chart import Point
from .chart_drawing import WIDTH, Dots, Drawing, Letters, Stroke
from .lettering import font_for

_COLORS = {
    "grid": "#e2e1da",
    "tick": "#67675f",
    "tick rate-tick": "#6d7a2e",
    "legend": "#222222",
    "raw": "#b9cee4",
    "smooth": "#2563a8",
    "rate": "#8e9c45",
    "held_out": "#b3380f",
    "base": "#8f8f86",
    "best": "#b3380f",
    "mark": "#c9c8c0",
    "proposed": "#b3380f",
    "proposed-label": "#b3380f",
}
_THICK = {"smooth": 2.2, "held_out": 2.0, "rate": 1.6, "proposed": 1.6}
_DASHES: Mapping[str, tuple[int, int]] = {"base": (6, 5), "mark": (3, 4)}
"""Of straight lines: painted, left out, in the units of the drawing."""
_FINER = 2  # painted so much larger, against jagged edges
_FONT_SIZE = 13
_PAPER = "#ffffff"


def to_picture(drawing: Drawing, width: int) -> Image.Image:
    """The chart, mode RGB, `width` pixels wide."""
    scale = width / WIDTH
    large = Image.new("RGB", (width * _FINER, round(drawing.height * scale) * _FINER), _PAPER)
    painter = ImageDraw.Draw(large)
    for shape in drawing.shapes:
        if isinstance(shape, Stroke):
            _paint_stroke(painter, shape, scale * _FINER)
        elif isinstance(shape, Dots):
            _paint_dots(painter, shape, scale * _FINER)
    chart = large.reduce(_FINER)
    painter = ImageDraw.Draw(chart)
    for shape in drawing.shapes:
        if isinstance(shape, Letters):
            _paint_letters(painter, shape, scale)
    return chart


def _paint_stroke(painter: ImageDraw.ImageDraw, stroke: Stroke, scale: float) -> None:
    points = [(x * scale, y * scale) for x, y in stroke.points]
    color, width = _COLORS[stroke.kind], max(1, round(_THICK.get(stroke.kind, 1.0) * scale))
    if stroke.kind not in _DASHES:
        painter.line(points, fill=color, width=width, joint="curve")
        return
    on, off = (length * scale for length in _DASHES[stroke.kind])
    for start, end in itertools.pairwise(points):
        length = math.dist(start, end)
        for begin in range(0, math.ceil(length), round(on + off)):
            near, far = begin / length, min(begin + on, length) / length
            painter.line([_between(start, end, near), _between(start, end, far)], fill=color, width=width)


def _between(start: Point, end: Point, share: float) -> Point:
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _paint_dots(painter: ImageDraw.ImageDraw, dots: Dots, scale: float) -> None:
    radius, color = dots.radius * scale, _COLORS[dots.kind]
    for x, y in dots.points:
        box = (x * scale - radius, y * scale - radius, x * scale + radius, y * scale + radius)
        if dots.kind == "best":
            painter.ellipse(box, fill=_PAPER, outline=color, width=round(2.5 * scale))
        else:
            painter.ellipse(box, fill=color)


def _paint_letters(painter: ImageDraw.ImageDraw, letters: Letters, scale: float) -> None:
    font = font_for(letters.text, round(_FONT_SIZE * scale))
    x, y = letters.place
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[letters.anchor]
    painter.text((x * scale, y * scale), letters.text, fill=_COLORS[letters.kind], font=font, anchor=anchor)
