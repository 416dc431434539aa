"""A drawn chart as inline SVG: its colours are the page's, by the kinds as classes."""

from collections.abc import Iterator, Sequence

from .chart import Point
from .chart_drawing import WIDTH, Dots, Drawing, Letters, Shape, Stroke
from .markup import Markup, element


def to_svg(drawing: Drawing, description: str) -> Markup:
    """The `<svg>` element.

    Args:
        drawing: what to paint.
        description: what a screen reader says in its place.
    """
    parts = [part for shape in drawing.shapes for part in _parts(shape)]
    size = f"0 0 {WIDTH} {drawing.height}"
    return element(
        "svg",
        element("title", description),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=size,
        role="img",
        class_="chart",
    )


def _parts(shape: Shape) -> Iterator[Markup]:
    if isinstance(shape, Letters):
        x, y = shape.place
        yield element(
            "text", shape.text, class_=shape.kind, x=_number(x), y=_number(y), text_anchor=shape.anchor
        )
    elif isinstance(shape, Stroke):
        yield element("path", *_title(shape.title), class_=shape.kind, d=_path(shape.points))
    elif shape.titles:
        for (x, y), title in zip(shape.points, shape.titles, strict=True):
            disc = {"class_": f"{shape.kind}-dot", "cx": _number(x), "cy": _number(y), "r": shape.radius}
            yield element("circle", *_title(title), **disc)
    else:
        yield _many_dots(shape)


def _many_dots(dots: Dots) -> Markup:
    """Thousands of dots as one path: strokes of no length with round ends."""
    path = "".join(f"M{_number(x)} {_number(y)}h0" for x, y in dots.points)
    return element("path", class_=f"{dots.kind}-dots", d=path, stroke_width=2 * dots.radius)


def _title(text: str) -> list[Markup]:
    return [element("title", text)] if text else []


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
