import random

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps
from sdxl_trainer.trainer.doctor.sharpness import BLURRED, SOFT, blurred, edge_sharpness


@pytest.fixture(scope="module")
def drawings(draw):
    rng = random.Random(5)
    return [draw.draw_clutter(256, rng) for _ in range(8)]


def test_flat_drawings_are_sharp_and_their_blurred_copies_are_not(drawings):
    assert min(edge_sharpness(drawing) for drawing in drawings) > 0.45
    assert blurred([edge_sharpness(drawing) for drawing in drawings]) == []
    for drawing in drawings:
        assert edge_sharpness(drawing.filter(ImageFilter.GaussianBlur(2))) < BLURRED
    assert edge_sharpness(drawings[3].filter(ImageFilter.GaussianBlur(20))) == 0  # no edge, but contrast


def laplacian_variance(image):
    grey = np.asarray(image.convert("L"), dtype=float)
    around = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1]
    return (around - 4 * grey[1:-1, 1:-1]).var()


def test_much_texture_is_not_taken_for_sharpness(drawings):
    noise = np.random.default_rng(1).integers(0, 256, (256, 256), dtype=np.uint8)
    soft = ImageOps.autocontrast(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2.5)))
    assert edge_sharpness(soft) < BLURRED
    plain = min(drawings, key=laplacian_variance)
    assert laplacian_variance(plain) < laplacian_variance(soft)  # what is often used has them the other way
    assert edge_sharpness(plain) > SOFT


def test_contrast_does_not_count(drawings):
    pale = [drawing.point(lambda value: 60 + value // 2) for drawing in drawings]
    differences = [edge_sharpness(a) - edge_sharpness(b) for a, b in zip(drawings, pale, strict=True)]
    assert max(map(abs, differences)) < 0.15


def test_a_sharp_thing_before_a_blurred_background_is_sharp(drawings):
    image = drawings[3].filter(ImageFilter.GaussianBlur(3))
    image.paste(drawings[1].resize((60, 60)), (78, 78))
    assert edge_sharpness(image) > SOFT


def test_motion_along_one_side_is_found():
    stripes = Image.new("L", (256, 256), 20)
    for place in range(16, 256, 64):
        stripes.paste(230, (place, 0, place + 24, 256))
        stripes.paste(230, (0, place, 256, place + 24))
    assert edge_sharpness(stripes) == 1
    moved = np.mean([np.roll(np.asarray(stripes), step, axis=1) for step in range(8)], axis=0)
    assert edge_sharpness(Image.fromarray(moved.astype(np.uint8))) < BLURRED


def test_one_plain_colour_has_no_sharpness():
    assert edge_sharpness(Image.new("RGB", (64, 64), "red")) is None
    assert edge_sharpness(Image.new("RGB", (8, 64), "red")) is None


def test_what_is_soft_for_its_set_is_blurred():
    assert blurred([0.9, 0.85, 0.39, 0.9, None]) == [2]
    assert blurred([0.5, 0.45, 0.39, 0.5]) == []
    assert blurred([0.29, None]) == [0]
    assert blurred([]) == []
