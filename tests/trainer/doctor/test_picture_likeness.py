import random
import time
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sdxl_trainer.trainer.doctor.picture_likeness import Likeness, close_pairs, look_of, near_duplicates


@pytest.fixture(scope="module")
def drawings(draw):
    rng = random.Random(12)
    return [draw.draw_clutter(128, rng) for _ in range(30)]


def saved_as_jpeg(image):
    file = BytesIO()
    image.save(file, "JPEG", quality=50)
    return Image.open(file).convert("RGB")


ALTERED = {
    "jpeg": saved_as_jpeg,
    "half": lambda image: image.resize((64, 64)),
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "cropped": lambda image: image.crop((1, 1, 127, 127)),
}


@pytest.mark.parametrize("change", ALTERED)
def test_altered_copies_are_found_and_nothing_else(drawings, change):
    looks = [look_of(image) for image in [*drawings, *map(ALTERED[change], drawings)]]
    found = near_duplicates(looks)
    assert [(copy.index, copy.of, copy.mirrored) for copy in found] == [
        (index + 30, index, False) for index in range(30)
    ]


def test_mirrored_copies_are_found_and_named_so(drawings):
    looks = [look_of(image) for image in [*drawings[:5], *map(ImageOps.mirror, drawings[:5])]]
    assert [(copy.index, copy.of) for copy in near_duplicates(looks)] == [(i + 5, i) for i in range(5)]
    assert all(copy.mirrored for copy in near_duplicates(looks))


def test_the_example_pictures_are_all_different(example_folder):
    looks = [look_of(Image.open(file).convert("RGB")) for file in sorted(example_folder.glob("*.png"))]
    assert len(looks) == 12
    assert near_duplicates(looks) == []


def test_a_group_has_one_original(drawings):
    same = [drawings[0], drawings[1], saved_as_jpeg(drawings[0]), ALTERED["dark"](drawings[0])]
    assert [(c.index, c.of) for c in near_duplicates([look_of(image) for image in same])] == [(2, 0), (3, 0)]


def test_two_that_are_like_a_third_are_of_one_group():
    draw = np.random.default_rng(7)
    middle, way = draw.integers(60, 190, (16, 16, 3)), draw.integers(-16, 17, (16, 16, 3))
    bits = draw.random(64) < 0.5
    one, two, third = (
        Likeness(bits, ~bits, np.asarray(thumb, dtype=np.uint8))
        for thumb in (middle + way, middle - way, middle)
    )
    assert near_duplicates([one, two]) == []
    assert [(copy.index, copy.of) for copy in near_duplicates([one, two, third])] == [(1, 0), (2, 0)]


def test_plain_colours_are_like_nothing():
    faint = Image.linear_gradient("L").point(lambda value: 100 + value // 50).convert("RGB")
    plain = [Image.new("RGB", (64, 64), color) for color in ("red", "blue", "red")]
    looks = [look_of(image) for image in [*plain, faint, faint]]
    assert all(look.is_plain for look in looks)
    assert near_duplicates(looks) == []
    assert near_duplicates(looks[:1]) == near_duplicates([]) == []


def test_pairs_of_2000_hashes_equal_those_of_brute_force_and_take_no_time():
    draw = np.random.default_rng(3)
    bits = draw.random((2000, 64)) < 0.5
    for copy in range(300):  # with 0 to 24 places changed
        bits[1700 + copy] = bits[copy]
        bits[1700 + copy, draw.choice(64, copy % 25, replace=False)] ^= True
    words = [int("".join("1" if bit else "0" for bit in row), 2) for row in bits]
    expected = {
        (i, j)
        for i, one in enumerate(words)
        for j, two in enumerate(words[i + 1 :], i + 1)
        if (one ^ two).bit_count() <= 12
    }
    started = time.perf_counter()
    found = [
        pair for i, j in close_pairs(bits, bits, 12) for pair in zip(i.tolist(), j.tolist(), strict=True)
    ]
    assert time.perf_counter() - started < 2
    assert len(expected) >= 150
    assert len(found) == len(set(found))
    assert set(found) == expected
