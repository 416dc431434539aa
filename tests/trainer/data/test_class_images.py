"""Class images in a folder: counted, numbered, written once and never over another."""

import os

import numpy as np
import pytest
from PIL import Image
from sdxl_trainer.trainer.config import MAX_SEED, DatasetConfig
from sdxl_trainer.trainer.data.class_images import (
    class_dataset_config,
    class_image_seed,
    class_image_size,
    missing_class_images,
    next_class_image,
    require_apart,
    save_class_image,
)
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.errors import InputError


def picture(seed=0, size=(64, 64)):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_every_usable_picture_counts_real_or_drawn(tmp_path):
    assert missing_class_images(tmp_path / "new", 5) == 5
    (tmp_path / "real").mkdir()
    picture(1).save(tmp_path / "real" / "photo.jpg")
    save_class_image(tmp_path / "real", 0, picture(2))
    (tmp_path / "real" / "broken.png").write_bytes(b"x")
    assert [missing_class_images(tmp_path / "real", n) for n in (0, 1, 2, 5)] == [0, 0, 0, 3]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        missing_class_images(tmp_path / "file", 5)


def test_the_name_tells_index_and_pixels_and_the_file_is_a_lossless_png(tmp_path):
    path = save_class_image(tmp_path / "new", 7, picture(3))
    assert path.name.startswith("00007-") and len(path.name) == len("00007-0123456789ab.png")
    with Image.open(path) as read:
        assert read.format == "PNG" and np.array_equal(read, picture(3))
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing temporary stays


def test_nothing_is_written_over(tmp_path):
    path = save_class_image(tmp_path, 0, picture(3))
    path.write_bytes(b"the user's own")
    assert save_class_image(tmp_path, 0, picture(3)) == path
    assert path.read_bytes() == b"the user's own"
    assert save_class_image(tmp_path, 0, picture(4)) != path


def test_indices_go_on_after_the_last_one_so_that_a_deleted_picture_stays_away(tmp_path):
    assert next_class_image(tmp_path / "new") == 0
    paths = [save_class_image(tmp_path, index, picture(index)) for index in range(3)]
    picture(9).save(tmp_path / "99999.png")
    picture(9).save(tmp_path / "00042-not a digest.png")
    assert next_class_image(tmp_path) == 3
    paths[1].unlink()
    assert next_class_image(tmp_path) == 3


def test_seeds_count_up_and_stay_in_range():
    assert [class_image_seed(5, index) for index in range(3)] == [5, 6, 7]
    assert class_image_seed(MAX_SEED, 1) == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a folder that may not be written")
def test_a_folder_that_may_not_be_written_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        save_class_image(tmp_path, 0, picture())


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot be written into folder 'below': .*choose another folder"):
        save_class_image(tmp_path / "file" / "below", 0, picture())


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "own" / "10_zorp"
    root.mkdir(parents=True)
    for index, size in enumerate([(512, 128)] * 2 + [(256, 256)]):
        picture(index, size).save(root / f"{index}.png")
    settings = {"resolution": 256, "trigger": "zorp", "prompt": "a zorp", "repeats": 3, "flip": True}
    return load_dataset(tmp_path / "own", DatasetConfig(**settings, background="#123456"))


def test_the_class_is_read_at_the_datasets_sizes_without_its_trigger_and_repeats(dataset):
    config = class_dataset_config(dataset, "a dog")
    assert config == DatasetConfig(resolution=256, prompt="a dog", flip=True, background="#123456")


def test_class_images_are_drawn_at_the_most_frequent_full_size(dataset, tmp_path):
    assert class_image_size(dataset) == (512, 128)
    (tmp_path / "small").mkdir()
    picture(0, (64, 64)).save(tmp_path / "small" / "a.png")
    small = load_dataset(tmp_path / "small", DatasetConfig(resolution=256))
    assert list(small.buckets) == [(64, 64)] and class_image_size(small) == (256, 256)


def test_what_was_drawn_lands_in_the_bucket_it_was_drawn_at(dataset, tmp_path):
    save_class_image(tmp_path / "class", 0, picture(1, class_image_size(dataset)))
    kept = load_dataset(tmp_path / "class", class_dataset_config(dataset, "a dog"))
    assert list(kept.buckets) == [(512, 128)] and kept.pictures[0].captions == ("a dog",)


def test_a_class_folder_in_around_or_at_the_dataset_is_refused(dataset, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "own")
    for place in ("own", "own/class", "own/10_zorp", "", "link"):
        with pytest.raises(InputError, match="lie in one another"):
            require_apart(dataset, tmp_path / place)
    require_apart(dataset, tmp_path / "own_class")
