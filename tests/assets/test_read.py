"""The ruler before what it measures: drawn pictures are read as they were drawn."""

import random
from itertools import product

import pytest
from PIL import Image, ImageChops

SIDE = 128


def drawn_zorps(draw, count):
    rng = random.Random(5)
    places = list(product(draw.SIZES, draw.PALETTE))
    scenes = [draw.Scene(size, "red", "zorp", ground) for size, ground in rng.sample(places, count)]
    return [draw.draw_scene(scene, SIDE, rng) for scene in scenes]


def test_every_drawn_scene_is_read_as_it_was_drawn(draw, read):
    rng = random.Random(17)
    scenes = [draw.random_scene(rng)._replace(shape=shape) for shape in draw.SHAPES for _ in range(2)]
    assert [read.read_scene(draw.draw_scene(scene, SIDE, rng)) for scene in scenes] == scenes


def test_a_blurred_and_dimmed_scene_is_still_read(draw, read):
    rng = random.Random(3)
    for shape in ("circle", "star", "ring"):
        scene = draw.Scene("large", "green", shape, "white")
        picture = draw.draw_scene(scene, SIDE, rng).resize((48, 48)).resize((SIDE, SIDE))
        assert read.read_scene(picture.point(lambda value: value * 0.93)) == scene


def test_zorps_score_high_and_nothing_else_does(draw, read):
    assert min(map(read.zorp_score, drawn_zorps(draw, 8))) > 0.85
    rng = random.Random(8)
    others = [draw.draw_scene(draw.random_scene(rng), SIDE, rng) for _ in range(8)]
    assert max(map(read.zorp_score, others)) < 0.05


def test_a_zorp_without_its_eye_or_upside_down_scores_less(draw, read):
    (whole,) = drawn_zorps(draw, 1)
    blind = draw.render("circle", draw.ZORP_PINK, draw.PALETTE["blue"], (0.5, 0.5, 0.35), SIDE)
    assert read.zorp_score(blind) < 0.5 < read.zorp_score(whole)
    assert read.zorp_score(whole.transpose(Image.Transpose.FLIP_TOP_BOTTOM)) < read.zorp_score(whole) - 0.1


@pytest.mark.parametrize("kind", ["one colour", "noise"])
def test_where_there_is_no_shape_none_is_read(kind, read):
    rng = random.Random(2)
    flat = Image.new("RGB", (SIDE, SIDE), (45, 92, 214))
    noise = Image.frombytes("RGB", (SIDE, SIDE), rng.randbytes(3 * SIDE * SIDE))
    picture = flat if kind == "one colour" else noise
    assert read.read_scene(picture) is None
    assert read.zorp_score(picture) < 0.2


def test_the_bundled_example_shows_what_its_captions_say(example_folder, read):
    pictures = sorted(example_folder.glob("*.png"))
    assert len(pictures) == 12
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size == (SIDE, SIDE)
            assert read.zorp_score(picture) > 0.85, path.name
            words = path.with_suffix(".txt").read_text("utf-8").split()
            ground = Image.new("RGB", (1, 1), read.PALETTE[words[-2]])
            corner = picture.convert("RGB").crop((0, 0, 1, 1))
            assert ImageChops.difference(corner, ground).getbbox() is None, path.name
        assert words[2] == "zorp"
