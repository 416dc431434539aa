import random

import pytest
from sdxl_trainer.trainer.data.buckets import bucket_sizes, place, random_crops


def test_at_1024_there_are_the_41_sizes_of_sdxl():
    sizes = bucket_sizes(1024, 64)
    assert len(sizes) == len(set(sizes)) == 41
    named = {(832, 1216), (896, 1152), (1216, 832), (1344, 768), (1536, 640), (1024, 1024)}
    assert named <= set(sizes)
    assert {(height, width) for width, height in sizes} == set(sizes)


@pytest.mark.parametrize("resolution", [64, 100, 128, 512, 768, 1024, 1500, 4096])
@pytest.mark.parametrize("step", [32, 64, 128])
def test_every_size_is_a_multiple_of_the_step_and_within_the_area(resolution, step):
    for width, height in bucket_sizes(resolution, step):
        assert width % step == 0 and height % step == 0
        assert min(width, height) >= step
        assert width * height <= max(resolution, step) ** 2


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((1024, 1024), (1024, 1024)),
        ((832, 1216), (832, 1216)),
        ((4000, 3000), (1152, 896)),
        ((3000, 4000), (896, 1152)),
        ((6000, 4000), (1216, 832)),
        ((1920, 1080), (1344, 768)),
        ((5000, 2083), (1536, 640)),
    ],
)
def test_a_picture_goes_to_the_nearest_aspect_ratio(size, bucket):
    assert place(*size, 1024, 64, False).bucket == bucket


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((300, 300), (256, 256)),
        ((1000, 1000), (960, 960)),
        ((640, 480), (640, 448)),
        ((63, 63), (64, 64)),  # at least one step
        ((63, 300), (64, 256)),
        ((300, 30), (640, 64)),
    ],
)
def test_a_small_picture_gets_a_small_bucket_of_its_own(size, bucket):  # cases 26, 27
    placement = place(*size, 1024, 64, False)
    assert placement.bucket == bucket
    if min(size) >= 64:
        assert placement.scaled_width <= size[0] and placement.scaled_height <= size[1]


def test_a_small_picture_is_enlarged_when_asked_to():
    assert place(300, 300, 1024, 64, True).bucket == (1024, 1024)


@pytest.mark.parametrize("size", [(10_000, 1000), (1000, 10_000), (300, 3000), (20_000, 20), (16, 5000)])
@pytest.mark.parametrize("upscale", [False, True])
def test_extreme_aspect_ratios_clamp_without_an_empty_side(size, upscale):  # case 28
    placement = place(*size, 1024, 64, upscale)
    assert min(placement.bucket) >= 64 and max(placement.bucket) <= 2048
    assert placement.bucket_width * placement.bucket_height <= 1024 * 1024
    assert (placement.bucket_width > placement.bucket_height) == (size[0] > size[1])


def test_whatever_the_size_the_crop_lies_within_the_picture():
    chance = random.Random(0)
    for _ in range(10_000):
        size = [round(2 ** chance.uniform(4, 14)) for _ in range(2)]
        resolution, step = chance.choice([64, 128, 500, 768, 1024]), chance.choice([32, 64, 128])
        upscale = chance.random() < 0.5
        placement = place(*size, resolution, step, upscale)
        digest = chance.randbytes(8).hex()
        for crop in [placement, *random_crops(placement, digest)]:
            assert crop.bucket_width % step == 0 and crop.bucket_height % step == 0
            assert min(crop.bucket) >= step
            assert 0 <= crop.crop_left <= crop.scaled_width - crop.bucket_width
            assert 0 <= crop.crop_top <= crop.scaled_height - crop.bucket_height
            # scaled to cover: one side fits, and the shape is kept to half a pixel
            assert crop.scaled_width == crop.bucket_width or crop.scaled_height == crop.bucket_height
            scale = max(crop.bucket_width / size[0], crop.bucket_height / size[1])
            assert abs(crop.scaled_width - size[0] * scale) <= 0.5 + 1e-6
            assert abs(crop.scaled_height - size[1] * scale) <= 0.5 + 1e-6
            if not upscale and min(size) >= step:
                assert scale <= 1 + 1e-9, (size, crop)
        assert placement.bucket_width * placement.bucket_height <= max(resolution, step) ** 2


def test_the_centre_crop_leaves_the_same_on_both_sides():
    placement = place(1228, 1024, 1024, 64, True)  # aspect 1.2
    assert placement.bucket == (1088, 960)
    left = placement.crop_left
    assert placement.scaled_width - placement.bucket_width - 2 * left in (0, 1)
    assert left > 0 and placement.crop_top == 0
    upright = place(1024, 1228, 1024, 64, True)
    assert (upright.crop_top, upright.crop_left) == (left, 0)


def test_random_crops_are_four_fixed_by_the_digest():
    placement = place(1500, 1000, 512, 128, False)
    crops = random_crops(placement, "aa")
    assert len(crops) == 4 and crops == random_crops(placement, "aa")
    assert crops != random_crops(placement, "bb")
    assert len({crop.crop_top for crop in crops}) == 4


def test_crops_differ_wherever_there_is_room_for_four():
    for number in range(300):
        assert len(random_crops(place(134, 128, 128, 128, False), str(number))) == 4
        assert len(random_crops(place(129, 128, 128, 128, False), str(number))) <= 2


def test_a_picture_that_fits_exactly_has_one_crop():
    assert len(random_crops(place(1024, 1024, 1024, 64, False), "aa")) == 1
