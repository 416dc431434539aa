"""Read back from a picture what it shows, by colour and geometry alone: the measure of the stand-in.

No model has a say here: a picture is compared with what `draw.py` would have drawn. `read_scene` names
shape, colour, size and background of a scene; `zorp_score` says how much of a zorp a picture shows.
"""

from collections.abc import Callable, Iterable

import numpy as np
from draw import PALETTE, SHAPES, ZORP_PINK, Color, Scene, render
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Mask = NDArray[np.bool_]
Pixels = NDArray[np.float32]
Place = tuple[float, float, float]

MARK = 128  # grey, neither in nor out
BORDER = 3  # pixels; every shape keeps clear of them
GREEN: Color = (0, 255, 0)  # stands for "no part of the zorp" in a drawn one
ZORP_COLORS = (ZORP_PINK, PALETTE["white"], PALETTE["black"])
MAX_COLOR_ERROR = 85.0  # RGB distance; zorp pink is 140 from the palette's nearest colour
MIN_CONTRAST = 25.0  # of a shape's edge against the background; the palette's nearest colours are 73 apart
MIN_SHAPE_MATCH = 0.6
SMALLEST_LARGE = 0.275  # radius as a share of the side: between draw.py's "small" and "large"
CLIMB_STEPS = (0.02, 0.01, 0.01, 0.004, 0.004, 0.002)  # shares of the side
# half the width, and where top and bottom lie, of a shape of radius one as draw.py draws it
EXTENT = {
    "circle": (1.0, -1.0, 1.0),
    "square": (0.86, -0.86, 0.86),
    "triangle": (1.0, -1.0, 0.86),
    "ring": (1.0, -1.0, 1.0),
    "cross": (1.0, -1.0, 1.0),
    "diamond": (0.7, -1.0, 1.0),
    "star": (0.951, -1.0, 0.809),
    "zorp": (0.8, -1.0, 1.0),
}


def read_scene(image: Image.Image) -> Scene | None:
    """The scene that `image` shows, or None where no shape of `draw.py` is to be made out."""
    pixels = _pixels(image)
    ground = np.median(_border(pixels), axis=0)
    background = _nearest_color(ground)
    contrast = _distance(pixels, ground)
    # every shape covers more than the 2 % that are left out here, so this is well inside it
    inside = float(np.quantile(contrast, 0.98))
    mask = _largest_part(_clean(contrast > max(MIN_CONTRAST, inside / 2)))
    if background is None or mask.sum() < 0.01 * mask.size:
        return None
    seen = np.median(pixels[mask], axis=0)
    color = _nearest_color(seen)
    # once both colours are known, an edge lies where they are equally near
    mask = _largest_part(_clean(_distance(pixels, seen) < _distance(pixels, ground)))
    first_look = {s: _overlap(mask, _shape_mask(s, _place_of(s, mask), mask.shape[0])) for s in SHAPES}
    likely = sorted(SHAPES, key=lambda s: first_look[s])[-3:]
    matches = {shape: _best_match(shape, mask) for shape in likely}
    shape = max(matches, key=lambda s: matches[s][0])
    match, radius = matches[shape]
    if color in (None, background) or match < MIN_SHAPE_MATCH:
        return None
    return Scene("large" if radius >= SMALLEST_LARGE else "small", color, shape, background)


def zorp_score(image: Image.Image) -> float:
    """How much of a zorp `image` shows: 0 = none, 1 = as draw.py draws it.

    Half of it is how well the pink body covers that of the best-fitting zorp, the other half how
    well the white of its eye and the black of pupil and mouth lie where that zorp has them.
    """
    pixels = _pixels(image)
    found = [_distance(pixels, np.array(color)) < MAX_COLOR_ERROR for color in ZORP_COLORS]
    body_seen = _largest_part(_clean(found[0]))
    if body_seen.sum() < 0.01 * body_seen.size:
        return 0.0

    def score(place: Place) -> float:
        drawn = _pixels(render("zorp", ZORP_PINK, GREEN, place, image.width))
        body = _distance(drawn, np.array(GREEN)) > MAX_COLOR_ERROR
        expected = [_distance(drawn, np.array(color)) < MAX_COLOR_ERROR for color in ZORP_COLORS]
        # eye and mouth count inside the body alone, where a white or black background is not in the way
        overlaps = [
            _overlap(f & body if i else f, e) for i, (f, e) in enumerate(zip(found, expected, strict=True))
        ]
        return 0.5 * overlaps[0] + 0.25 * overlaps[1] + 0.25 * overlaps[2]

    return _climb(score, _place_of("zorp", body_seen))[0]


def _pixels(image: Image.Image) -> Pixels:
    """(side, side, 3), 0 to 255."""
    return np.asarray(image.convert("RGB"), dtype=np.float32)


def _border(pixels: Pixels) -> Pixels:
    rim = np.ones(pixels.shape[:2], dtype=bool)
    rim[BORDER:-BORDER, BORDER:-BORDER] = False
    return pixels[rim]


def _distance(pixels: Pixels, color: NDArray[np.floating]) -> Pixels:
    return np.sqrt(((pixels - color) ** 2).sum(-1))


def _nearest_color(color: NDArray[np.floating]) -> str | None:
    errors = {name: float(np.linalg.norm(color - np.array(value))) for name, value in PALETTE.items()}
    nearest = min(errors, key=lambda name: errors[name])
    return nearest if errors[nearest] < MAX_COLOR_ERROR else None


def _clean(mask: Mask) -> Mask:
    """The largest connected part alone: no stray pixels, no specks."""
    image = Image.fromarray(mask).convert("L").filter(ImageFilter.MedianFilter(3))
    rest = np.asarray(image) > 0
    largest = np.zeros_like(rest)
    while rest.sum() > largest.sum():
        row, column = np.argwhere(rest)[0]
        ImageDraw.floodfill(image, (int(column), int(row)), MARK)
        part = np.asarray(image) == MARK
        if part.sum() > largest.sum():
            largest = part
        rest &= ~part
        image = Image.fromarray(rest).convert("L")
    return largest


def _largest_part(mask: Mask) -> Mask:
    """The largest connected part: a stray speck must not count as the shape's outline."""
    height, width = mask.shape
    open_pixels = set(np.flatnonzero(mask).tolist())
    largest: list[int] = []
    while len(open_pixels) > len(largest):
        part = [open_pixels.pop()]
        for index in part:
            row, column = divmod(index, width)
            for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if 0 <= r < height and 0 <= c < width and r * width + c in open_pixels:
                    open_pixels.remove(r * width + c)
                    part.append(r * width + c)
        largest = max(largest, part, key=len)
    kept = np.zeros(mask.size, dtype=bool)
    kept[largest] = True
    return kept.reshape(mask.shape)


def _shape_mask(shape: str, place: Place, side: int) -> Mask:
    return _pixels(render(shape, (255, 255, 255), (0, 0, 0), place, side))[..., 0] > 127


def _overlap(a: Mask, b: Mask) -> float:
    """Intersection over union."""
    return float((a & b).sum() / max(1, (a | b).sum()))


def _place_of(shape: str, mask: Mask) -> Place:
    """Where `shape` has to be for its extent to be that of `mask`."""
    side = mask.shape[0]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    half_width, top, bottom = EXTENT[shape]
    width, height = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    radius = (width / (2 * half_width) + height / (bottom - top)) / 2
    x = (columns[0] + columns[-1] + 1) / 2
    y = (rows[0] + rows[-1] + 1) / 2 - radius * (top + bottom) / 2
    return float(x / side), float(y / side), float(radius / side)


def _best_match(shape: str, mask: Mask) -> tuple[float, float]:
    """How well `shape` covers `mask` at its best place, and its radius there."""

    def score(place: Place) -> float:
        return _overlap(mask, _shape_mask(shape, place, mask.shape[0]))

    match, place = _climb(score, _place_of(shape, mask))
    return match, place[2]


def _climb(score: Callable[[Place], float], start: Place) -> tuple[float, Place]:
    """Best score and place near `start`, trying smaller and smaller steps in place and radius."""
    best, place = score(start), start
    for step in CLIMB_STEPS:
        for candidate in _neighbours(place, step):
            value = score(candidate)
            if value > best:
                best, place = value, candidate
    return best, place


def _neighbours(place: Place, step: float) -> Iterable[Place]:
    x, y, radius = place
    for grow in (-step, 0.0, step):
        yield x, y, max(0.02, radius + grow)
    for aside in (-step, step):
        yield x + aside, y, radius
        yield x, y + aside, radius
