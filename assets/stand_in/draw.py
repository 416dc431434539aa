"""The world of the stand-in model: captioned pictures of one flat shape on a flat background.

Everything is drawn by Pillow from a `random.Random`, so the same seed gives the same pictures. The
`zorp`, a pink one-eyed creature, is the concept of the bundled example dataset: no picture the
stand-in was trained on shows one.
"""

import math
import random
from typing import NamedTuple

from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Point = tuple[float, float]

PALETTE: dict[str, Color] = {
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (45, 92, 214),
    "yellow": (247, 208, 56),
    "purple": (127, 63, 178),
    "orange": (240, 138, 36),
    "white": (244, 244, 240),
    "black": (28, 28, 32),
}
SHAPES = ("circle", "square", "triangle", "ring", "cross", "diamond", "star")
SIZES = {"small": (0.17, 0.22), "large": (0.33, 0.40)}  # radius, as a share of the picture's side
ZORP_PINK: Color = (255, 120, 180)
SUPERSAMPLING = 4


class Scene(NamedTuple):
    """What a picture shows, in the words of its caption."""

    size: str
    color: str
    shape: str
    background: str

    @property
    def caption(self) -> str:
        return f"a {self.size} {self.color} {self.shape} on a {self.background} background"


def draw_scene(scene: Scene, side: int, rng: random.Random) -> Image.Image:
    """Draw `scene` at a random place, `side` x `side` pixels."""
    radius = rng.uniform(*SIZES[scene.size])
    x, y = (rng.uniform(radius + 0.03, 1 - radius - 0.03) for _ in range(2))
    return render(scene.shape, PALETTE[scene.color], PALETTE[scene.background], (x, y, radius), side)


def render(
    shape: str, color: Color, background: Color, place: tuple[float, float, float], side: int
) -> Image.Image:
    """Draw `shape` at `place` = (x, y, radius), each a share of the picture's side."""
    canvas = Image.new("RGB", (side * SUPERSAMPLING,) * 2, background)
    x, y, radius = (value * side * SUPERSAMPLING for value in place)
    draw_shape(ImageDraw.Draw(canvas), shape, color, (x, y, radius))
    return canvas.resize((side, side), Image.Resampling.LANCZOS)


def draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, color: Color, place: tuple[float, float, float]
) -> None:
    """Draw one shape with pixels for its centre and radius."""
    x, y, r = place
    if shape == "circle":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=color)
    elif shape == "square":
        draw.rectangle([x - 0.86 * r, y - 0.86 * r, x + 0.86 * r, y + 0.86 * r], fill=color)
    elif shape == "triangle":
        draw.polygon([(x, y - r), (x - r, y + 0.86 * r), (x + r, y + 0.86 * r)], fill=color)
    elif shape == "ring":
        draw.ellipse([x - r, y - r, x + r, y + r], outline=color, width=round(r * 0.42))
    elif shape == "cross":
        draw.rectangle([x - r, y - r * 0.33, x + r, y + r * 0.33], fill=color)
        draw.rectangle([x - r * 0.33, y - r, x + r * 0.33, y + r], fill=color)
    elif shape == "diamond":
        draw.polygon([(x, y - r), (x - 0.7 * r, y), (x, y + r), (x + 0.7 * r, y)], fill=color)
    elif shape == "star":
        draw.polygon(_star(x, y, r), fill=color)
    elif shape == "zorp":
        _draw_zorp(draw, place)
    else:
        raise ValueError(f"no shape '{shape}': use one of {', '.join(SHAPES)} or zorp")


def _star(x: float, y: float, r: float) -> list[Point]:
    angles = [math.pi * (i / 5 - 0.5) for i in range(10)]
    radii = [r if i % 2 == 0 else 0.45 * r for i in range(10)]
    return [(x + k * math.cos(a), y + k * math.sin(a)) for a, k in zip(angles, radii, strict=True)]


def _draw_zorp(draw: ImageDraw.ImageDraw, place: tuple[float, float, float]) -> None:
    """A pink body with two horns, two feet, one white eye with a black pupil and a black mouth."""
    x, y, r = place
    white, black = PALETTE["white"], PALETTE["black"]
    for side in (-1, 1):
        horn = [(0.30, -0.62), (0.72, -1.0), (0.66, -0.38)]
        draw.polygon([(x + side * dx * r, y + dy * r) for dx, dy in horn], fill=ZORP_PINK)
        foot = x + side * 0.36 * r
        draw.ellipse([foot - 0.24 * r, y + 0.62 * r, foot + 0.24 * r, y + r], fill=ZORP_PINK)
    draw.ellipse([x - 0.8 * r, y - 0.75 * r, x + 0.8 * r, y + 0.85 * r], fill=ZORP_PINK)
    draw.ellipse([x - 0.42 * r, y - 0.5 * r, x + 0.42 * r, y + 0.34 * r], fill=white)
    draw.ellipse([x - 0.18 * r, y - 0.24 * r, x + 0.18 * r, y + 0.12 * r], fill=black)
    draw.rounded_rectangle(
        [x - 0.34 * r, y + 0.48 * r, x + 0.34 * r, y + 0.62 * r], radius=0.06 * r, fill=black
    )


def draw_clutter(side: int, rng: random.Random) -> Image.Image:
    """Several shapes in any colours and stripes: what the autoencoder learns to see, nothing named."""
    canvas = Image.new("RGB", (side * SUPERSAMPLING,) * 2, _any_color(rng))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.randint(1, 5)):
        x, y = (rng.uniform(0, 1) * side * SUPERSAMPLING for _ in range(2))
        radius = rng.uniform(0.04, 0.42) * side * SUPERSAMPLING
        draw_shape(draw, rng.choice(SHAPES), _any_color(rng), (x, y, radius))
    return canvas.resize((side, side), Image.Resampling.LANCZOS)


def _any_color(rng: random.Random) -> Color:
    if rng.random() < 0.5:
        return rng.choice(list(PALETTE.values()))
    return (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255))


def random_scene(rng: random.Random) -> Scene:
    """Any scene whose shape and background differ in colour."""
    color, background = rng.sample(list(PALETTE), 2)
    return Scene(rng.choice(list(SIZES)), color, rng.choice(SHAPES), background)
