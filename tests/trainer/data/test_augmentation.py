"""Pixels of augmentation: turned exactly about the crop's centre, coloured as PIL and colorsys do."""

import cmath
import colorsys
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from sdxl_trainer.trainer.data.augmentation import (
    Augmentation,
    coloured,
    coloured_pixels,
    cut_turned,
    turning_margin,
)
from sdxl_trainer.trainer.data.picture import Variant
from sdxl_trainer.trainer.data.variant_pixels import cut_mask, cut_picture
from sdxl_trainer.trainer.errors import InputError


def waves(x, y):
    """A smooth picture whose value is known at any point, 0 to 1."""
    return 0.5 + 0.25 * np.sin(x / 6) + 0.25 * np.cos(y / 9)


def wave_picture(width, height):
    """Pixel (i, j) has the value of its centre, (i + 0.5, j + 0.5)."""
    y, x = np.mgrid[:height, :width] + 0.5
    return Image.fromarray(np.round(waves(x, y) * 255).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize("degrees", [10.0, -33.3, 45.0, 0.5])
@pytest.mark.parametrize("place", ["middle", "corner"])
def test_a_turned_crop_shows_each_point_where_it_belongs(degrees, place):
    bucket = width, height = 96, 64
    across, down = turning_margin(bucket, degrees)
    left, top = (across, down) if place == "corner" else (across + 13, down + 7)
    image = wave_picture(left + width + across, top + height + down)
    found = np.asarray(cut_turned(image, (left, top), bucket, degrees), dtype=float)[..., 0] / 255
    for column, row in ((0, 0), (95, 0), (0, 63), (95, 63), (40, 20), (48, 32)):
        # y points up in the complex plane, and turning by t is multiplying with e^(it)
        seen = complex(column + 0.5 - width / 2, height / 2 - row - 0.5)
        source = seen * cmath.exp(-1j * math.radians(degrees))
        expected = waves(left + width / 2 + source.real, top + height / 2 - source.imag)
        assert abs(found[row, column] - expected) < 1.5 / 255, (column, row)


def test_straight_lines_stay_straight_and_lean_counter_clockwise():
    values = np.full((160, 160, 3), 255, dtype=np.uint8)
    values[:, 78:82] = 0
    turned = cut_turned(Image.fromarray(values), (30, 30), (100, 100), 10.0)
    darkness = 255 - np.asarray(turned, dtype=float)[..., 0]
    rows = np.arange(100) + 0.5
    centres = (darkness * (np.arange(100) + 0.5)).sum(1) / darkness.sum(1)
    expected = 50 + (rows - 50) * math.tan(math.radians(10))
    assert np.abs(centres - expected).max() < 0.05
    assert darkness.sum(1).std() / darkness.sum(1).mean() < 0.01


def test_the_picture_stays_sharper_than_bilinear_sampling_would_leave_it():
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    grey = Image.fromarray(noise)
    rough, smooth = (
        np.asarray(cut_turned(image, (32, 32), (64, 64), 7.0).convert("L"), dtype=float).std()
        for image in (grey.convert("RGB"), grey)
    )
    assert rough > 1.15 * smooth


def variant(**values):
    plain = Variant(picture=0, bucket=(64, 96), crop_top=40, crop_left=50, scaled=(220, 200), flipped=False)
    return replace(plain, **values)


@pytest.mark.parametrize("flipped", [False, True])
def test_a_mask_lies_on_its_picture(flipped):
    image = wave_picture(440, 400)
    way = variant(flipped=flipped, augmentation=Augmentation(rotation=17.0))
    picture = np.asarray(cut_picture(image, way), dtype=float)[..., 0]
    mask = np.asarray(cut_mask(image.convert("L"), way), dtype=float)
    assert mask.shape == picture.shape == (96, 64)
    assert np.abs(mask - picture).max() <= 6  # a quarter of a pixel; they are scaled by other filters
    other = np.asarray(cut_mask(image.convert("L"), replace(way, flipped=not flipped)), dtype=float)
    assert np.abs(other - picture).max() > 20
    assert np.array_equal(other, mask[:, ::-1])


def test_a_picture_is_scaled_turned_about_its_crop_mirrored_and_coloured():
    image, look = wave_picture(440, 400), Augmentation(rotation=17.0, contrast=1.5, saturation=0.5)
    turned = cut_turned(image.resize((220, 200), Image.Resampling.LANCZOS), (50, 40), (64, 96), 17.0)
    expected = coloured(turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT), look)
    assert np.array_equal(cut_picture(image, variant(flipped=True, augmentation=look)), expected)
    for part in (replace(look, rotation=0.0), Augmentation(rotation=17.0)):
        other = cut_picture(image, variant(flipped=True, augmentation=part))
        assert np.abs(np.asarray(other, dtype=int) - np.asarray(expected, dtype=int)).max() > 20


def test_a_mask_is_not_coloured_and_no_look_leaves_pixels_alone():
    image, look = wave_picture(220, 200), Augmentation(brightness=0.5, contrast=1.5, hue=0.2)
    mask = cut_mask(image.convert("L"), variant(augmentation=look))
    assert np.array_equal(mask, cut_mask(image.convert("L"), variant()))
    assert np.array_equal(
        cut_picture(image, variant(augmentation=Augmentation())), cut_picture(image, variant())
    )


PHOTO = Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 50, 3), dtype=np.uint8))


@pytest.mark.parametrize("factor", [0.6, 1.3])
@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_factors_are_those_of_pil(name, enhance, factor):
    found = np.asarray(coloured(PHOTO, Augmentation(**{name: factor})), dtype=int)
    expected = np.asarray(enhance(PHOTO).enhance(factor), dtype=int)
    assert np.abs(found - expected).max() <= 1
    assert np.abs(found - np.asarray(PHOTO, dtype=int)).max() > 20


@pytest.mark.parametrize("hue", [0.1, -0.25, 0.5])
def test_hue_turns_the_wheel_as_colorsys_does(hue):
    found = np.asarray(coloured(PHOTO, Augmentation(hue=hue)), dtype=int)
    for row, column in ((0, 0), (7, 31), (39, 49), (20, 10)):
        h, s, v = colorsys.rgb_to_hsv(*(np.asarray(PHOTO)[row, column] / 255))
        expected = np.array(colorsys.hsv_to_rgb((h + hue) % 1, s, v)) * 255
        assert np.abs(found[row, column] - expected).max() <= 1


def test_colours_change_in_the_order_that_is_written():
    pixels = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    before = pixels.clone()
    steps = {"brightness": 1.2, "contrast": 0.7, "saturation": 1.4, "hue": 0.1}
    at_once = coloured_pixels(pixels, Augmentation(**steps))
    one_by_one = pixels
    for name, value in steps.items():
        one_by_one = coloured_pixels(one_by_one, Augmentation(**{name: value}))
    assert torch.equal(at_once, one_by_one) and torch.equal(pixels, before)
    assert at_once.min() >= 0 and at_once.max() <= 1
    backwards = coloured_pixels(
        coloured_pixels(pixels, Augmentation(contrast=0.7)), Augmentation(brightness=1.2)
    )
    assert not torch.allclose(backwards, coloured_pixels(pixels, Augmentation(brightness=1.2, contrast=0.7)))


def test_a_missing_kornia_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.enhance", None)
    with pytest.raises(
        InputError, match=r"need the package kornia, .*'pip install kornia'.* crop_jitter alone$"
    ):
        coloured(PHOTO, Augmentation(hue=0.1))
    assert coloured(PHOTO, Augmentation(rotation=3.0)) is PHOTO


def test_kornia_is_imported_only_where_a_look_needs_it():
    source = Path(sys.modules[cut_turned.__module__].__file__).read_text("utf-8")
    assert "import kornia" not in source and "from kornia" not in source
