import pytest
import torch
from PIL import Image
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.data.dataset_report import describe, describe_epoch
from sdxl_trainer.trainer.data.dataset_sets import join_datasets, with_class_images, with_masks


def fill(root, count, size=(128, 128), first=0):
    root.mkdir(parents=True, exist_ok=True)
    for index in range(first, first + count):
        Image.new("RGB", size, (index, 0, 0)).save(root / f"{index}.png")
    return root


def report(root, batch_size=1, **settings):
    return describe(load_dataset(root, DatasetConfig(resolution=128, **settings)), batch_size)


def test_the_arithmetic_reads_as_people_write_it(tmp_path):
    text = report(fill(tmp_path / "a", 10), 4, repeats=20)
    assert "10 pictures x 20 repeats / batch 4 = 50 steps an epoch." in text
    assert "one by one" not in text


def test_an_epoch_fits_into_one_line(tmp_path):
    fill(tmp_path / "a" / "3_cat", 2)
    fill(tmp_path / "a", 1, first=7)
    line = describe_epoch(load_dataset(tmp_path / "a", DatasetConfig(resolution=128)))
    assert line == (
        "1 picture x 1 repeat + 2 pictures x 3 repeats = 7 samples an epoch; at batch 1: 7 steps an epoch"
    )


def test_buckets_that_do_not_divide_are_counted_one_by_one(tmp_path):
    fill(tmp_path / "a", 3)
    text = report(fill(tmp_path / "a", 2, (256, 64), first=3), 4)
    assert "5 pictures x 1 repeat / batch 4 = 2 steps an epoch." in text
    assert "1 + 1 = 2 steps" not in text  # the plain sum is right here, so nothing is added
    text = report(tmp_path / "a", 2)
    assert "2 + 1 = 3 steps" not in text
    fill(tmp_path / "a", 2, (64, 256), first=5)
    assert "1 + 1 + 1 = 3 steps an epoch." in report(tmp_path / "a", 4)


def test_different_repeats_are_summed(tmp_path):
    fill(tmp_path / "a" / "3_cat", 2)
    fill(tmp_path / "a", 1, first=7)
    assert "1 picture x 1 repeat + 2 pictures x 3 repeats = 7 samples; / batch 7 = 1 step" in report(
        tmp_path / "a", 7
    )


def test_each_bucket_says_what_is_in_it(tmp_path):
    fill(tmp_path / "a", 3)
    text = report(fill(tmp_path / "a", 1, (256, 64), first=3), 2, repeats=2)
    assert " 128 x 128   3 pictures, 6 samples, 3 batches an epoch" in text
    assert " 256 x 64    1 picture, 2 samples, 1 batch an epoch" in text


def test_captions_say_where_they_come_from_with_an_example(tmp_path):
    fill(tmp_path / "a", 3)
    (tmp_path / "a" / "0.txt").write_text("a hat")
    text = report(tmp_path / "a", trigger="zorp")
    assert "1 picture: from .txt file, such as 0.png: zorp, a hat" in text
    assert "2 pictures: no caption found, such as 1.png: zorp" in text
    assert "write: zorp" in text
    assert "0 captions had it, it was put in front of 1" in text


def test_everything_left_out_is_there_with_the_reason(tmp_path):
    fill(tmp_path / "a", 1)
    (tmp_path / "a" / "bad.png").write_bytes(b"")
    text = report(tmp_path / "a")
    assert "Left out (1):\n  bad.png is empty (0 bytes)" in text


@pytest.mark.parametrize("count", [20, 23])
def test_long_lists_end_with_how_many_more(tmp_path, count):
    fill(tmp_path / "a", 1)
    for index in range(count):
        (tmp_path / "a" / f"bad{index}.png").write_bytes(b"")
    assert ("  and 3 more" in report(tmp_path / "a")) == (count == 23)
    assert f"Left out ({count}):" in report(tmp_path / "a")


def load(root, **settings):
    return load_dataset(root, DatasetConfig(resolution=128, **settings))


def test_class_images_stand_with_the_arithmetic_of_a_step(tmp_path):
    own = load(fill(tmp_path / "a", 10), repeats=20)
    kept = load(fill(tmp_path / "dogs", 3, (256, 64), first=50), prompt="a photo of a dog")
    text = describe(with_class_images(own, kept), 4)
    assert "10 pictures x 20 repeats / batch 4 = 50 steps an epoch." in text  # as without class images
    assert (
        "Class images from 'dogs': 3 pictures (3 at 256 x 64), most often with the caption: a photo" in text
    )
    assert "Each step sees as many of them as of the others: 4 + 4 = 8 samples a step" in text
    assert "200 samples an epoch / 3 class samples = each class image is seen 66.7 times an epoch" in text
    assert "Class images" not in describe(own, 4)


def test_what_is_odd_about_class_images_is_said(tmp_path):
    fill(tmp_path / "dogs", 1, first=50)
    (tmp_path / "dogs" / "bad.png").write_bytes(b"")
    text = describe(with_class_images(load(fill(tmp_path / "a", 1)), load(tmp_path / "dogs")))
    assert "bad.png is empty (0 bytes)" in text.split("Class images")[1]
    assert "1 of 1 pictures have no caption" in text.split("Class images")[1]


def test_masks_and_weights_are_counted(tmp_path):
    one, two = load(fill(tmp_path / "a", 3)), load(fill(tmp_path / "b", 1, first=9))
    plain = describe(join_datasets([(one, 1), (two, 1)]))
    assert "Masks" not in plain and "Loss weights" not in plain
    text = describe(join_datasets([(with_masks(one, torch.full((8, 8), 0.25)), 1), (two, 0.5)]))
    assert "Masks: 3 of 4 pictures; the loss counts what they show." in text
    assert "masks let in 25% of the area" in text
    assert "Loss weights: 1 picture x 0.5, 3 pictures x 1." in text


def test_held_out_pictures_are_named(tmp_path):
    training, held = load(fill(tmp_path / "a", 5)).split(0.2)
    text = describe(training)
    assert "Dataset 'a': 4 pictures in use." in text
    assert f"1 of 5 pictures are held out for validation: {held.pictures[0].name}" in text
