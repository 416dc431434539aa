import math
import os
import random
import shutil
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.dataset import folder_fingerprint, load_dataset
from sdxl_trainer.trainer.errors import InputError


def picture(path, size=(96, 96), seed=0, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path, kind)
    return path


def load(root, **settings):
    return load_dataset(root, DatasetConfig(**{"resolution": 128, **settings}))


def said(dataset, kind):
    return [str(note) for note in dataset.notes if note.kind == kind]


@pytest.fixture
def folder(tmp_path):
    """Three pictures of three shapes, one with a caption."""
    root = tmp_path / "set"
    for index, size in enumerate([(128, 128), (300, 150), (150, 300)]):
        picture(root / f"{index}.png", size, seed=index)
    (root / "0.txt").write_text("a hat")
    return root


def test_an_empty_folder_is_refused(tmp_path):  # case 2
    with pytest.raises(InputError, match="there are no pictures in it: put"):
        load(tmp_path)


def test_a_folder_of_captions_only_is_refused(tmp_path):  # case 3
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.caption").write_text("x")
    with pytest.raises(InputError, match="no pictures in it, only 2 caption files"):
        load(tmp_path)


def test_a_single_picture_is_a_dataset(tmp_path):  # case 4
    picture(tmp_path / "a.png")
    dataset = load(tmp_path)
    assert dataset.num_samples == dataset.steps_per_epoch(4) == 1


def make_damaged(root):
    """Files that are cut off, empty, no pictures, or too narrow."""
    data = picture(root / "x.jpg", (200, 200), kind="JPEG").read_bytes()
    (root / "x.jpg").unlink()
    (root / "half.jpg").write_bytes(data[: len(data) // 2])
    data = picture(root / "x.png").read_bytes()
    (root / "x.png").unlink()
    (root / "half.png").write_bytes(data[: len(data) // 2])
    (root / "zero.png").write_bytes(b"")
    (root / "page.jpg").write_text("<html>404</html>")
    picture(root / "dot.png", (1, 1))
    picture(root / "line.png", (1, 5000))


def test_damaged_pictures_are_left_out_and_named(tmp_path):  # cases 5-8, 25, 29
    make_damaged(tmp_path)
    picture(tmp_path / "good.png")
    dataset = load(tmp_path)
    assert [p.name for p in dataset.pictures] == ["good.png"]
    skipped = said(dataset, "skipped")
    reasons = {
        "half.jpg": "cut off",
        "half.png": "cut off",
        "zero.png": "0 bytes",
        "page.jpg": "web page",
        "dot.png": "1x1",
        "line.png": "1x5000",
    }
    for name, reason in reasons.items():
        assert any(note.startswith(name) and reason in note for note in skipped), name
    assert len(skipped) == len(reasons)


def test_a_folder_of_damaged_pictures_is_refused_naming_each(tmp_path):  # case 10
    make_damaged(tmp_path)
    with pytest.raises(InputError) as refused:
        load(tmp_path)
    for name in ("half.jpg", "half.png", "zero.png", "page.jpg", "dot.png", "line.png"):
        assert f"- {name} is" in str(refused.value)
    assert "none of its 6 pictures can be used" in str(refused.value)


def test_all_problems_come_in_one_message_and_long_lists_end(tmp_path):
    picture(tmp_path / "0_cat" / "a.png")
    rows = [f'{{"file_name": "gone{i}.png", "text": "x"}}' for i in range(30)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    with pytest.raises(InputError) as refused:
        load(tmp_path, background="no colour")
    message = str(refused.value)
    assert "background" in message and "gone5.png" in message and "- and 12 more" in message
    assert message.count("\n- ") == 21


def test_every_picture_is_in_one_bucket_or_in_the_notes(tmp_path):
    chance = random.Random(3)
    for index in range(60):
        size = (round(2 ** chance.uniform(2, 10)), round(2 ** chance.uniform(2, 10)))
        picture(tmp_path / f"{index}.png", size, seed=index)
    dataset = load(tmp_path)
    in_buckets = [dataset.pictures[i].name for members in dataset.buckets.values() for i in members]
    left_out = [note.name for note in dataset.notes if note.kind == "skipped"]
    assert sorted(in_buckets + left_out) == sorted(f"{i}.png" for i in range(60))
    assert left_out and len(dataset.buckets) > 4


def test_pixels_are_the_crop_in_range_and_in_shape(folder):
    dataset = load(folder, flip=True)
    plain, mirrored = dataset.variants[0]
    pixels = dataset.load_pixels(plain)
    stored = torch.tensor(np.asarray(Image.open(folder / "0.png")), dtype=torch.float32)
    assert pixels.dtype == torch.float32 and pixels.shape == (3, 128, 128)
    assert torch.allclose(pixels, stored.permute(2, 0, 1) / 127.5 - 1, atol=1e-6)
    assert torch.equal(dataset.load_pixels(mirrored), pixels.flip(2))
    for variants in dataset.variants:
        width, height = variants[0].bucket
        assert dataset.load_pixels(variants[0]).shape == (3, height, width)


def test_the_crop_shown_is_the_crop_reported(tmp_path):
    values = np.zeros((128, 300, 3), dtype=np.uint8)
    values[..., 0] = np.minimum(np.arange(300), 255)[None, :]
    values[..., 1] = np.arange(128)[:, None]
    Image.fromarray(values).save(tmp_path / "a.png")
    dataset = load(tmp_path, crop="random", flip=True, resolution=128, bucket_step=128)
    assert {variant.bucket for variant in dataset.variants[0]} == {(128, 128)}
    assert len(dataset.variants[0]) == 8
    for variant in dataset.variants[0]:
        height, width, top, left, target_height, target_width = dataset.true_time_ids(variant)
        assert (height, width, target_height, target_width) == (128, 300, 128, 128)
        shown = np.asarray(dataset.crop_picture(variant))
        mirrored = values[:, ::-1] if variant.flipped else values
        assert np.array_equal(shown, mirrored[top : top + 128, left : left + 128])


def test_time_ids_hold_the_real_offset_not_a_letterbox(tmp_path):
    # facts 2.1: at aspect 1.2 in a square bucket kohya says top 85, left 0; really it is top 0, left 102
    picture(tmp_path / "a.png", (154, 128))
    dataset = load(tmp_path, bucket_step=128)
    assert dataset.true_time_ids(dataset.variants[0][0]) == (128, 154, 0, 13, 128, 128)


def test_a_size_that_is_no_multiple_of_64_is_scaled_exactly(tmp_path):  # case 30
    picture(tmp_path / "a.png", (301, 203))
    (variant,) = load(tmp_path).variants[0]
    assert variant.bucket == (128, 128) and variant.scaled == (190, 128)


def test_a_black_picture_is_finite(tmp_path):  # case 31
    Image.new("RGB", (128, 128)).save(tmp_path / "a.png")
    dataset = load(tmp_path)
    assert torch.equal(dataset.load_pixels(dataset.variants[0][0]), torch.full((3, 128, 128), -1.0))


def test_a_picture_changed_or_deleted_after_loading_is_named(folder):  # cases 32, 33
    dataset = load(folder)
    picture(folder / "1.png", (300, 150), seed=9)
    (folder / "2.png").unlink()
    with pytest.raises(InputError, match=r"1.png changed after the dataset was loaded"):
        dataset.load_pixels(dataset.variants[1][0])
    with pytest.raises(InputError, match=r"2.png cannot be read"):
        dataset.load_pixels(dataset.variants[2][0])
    dataset.load_pixels(dataset.variants[0][0])


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_picture_that_may_not_be_read_is_left_out():  # case 34
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    before = os.geteuid()
    try:
        picture(folder / "a.png")
        picture(folder / "b.png", seed=1).chmod(0)
        folder.chmod(0o755)
        if before == 0:
            os.seteuid(65534)  # root may read everything
        dataset = load(folder)
    finally:
        os.seteuid(before)
        shutil.rmtree(folder)
    assert said(dataset, "skipped") == ["b.png cannot be read: Permission denied"]


def test_duplicates_are_pointed_out(folder):  # case 46
    shutil.copy(folder / "0.png", folder / "copy.png")
    assert "0.png is byte for byte the same picture as copy.png" in said(load(folder), "warning")


def test_a_small_side_is_enlarged_with_a_warning(tmp_path):  # case 26
    picture(tmp_path / "a.png", (63, 100))
    assert any("63x100 and was enlarged to 64x102" in note for note in said(load(tmp_path), "warning"))


def test_missing_captions_are_counted_once(folder):  # case 47
    assert [p.captions for p in load(folder).pictures] == [("a hat",), ("",), ("",)]
    (note,) = [n for n in said(load(folder), "warning") if "caption" in n]
    assert note.startswith("2 of 3 pictures have no caption and train on an empty caption: 1.png, 2.png")
    assert [p.captions for p in load(folder, trigger="zorp").pictures] == [
        ("zorp, a hat",),
        ("zorp",),
        ("zorp",),
    ]
    assert any("the trigger word 'zorp' alone" in note for note in said(load(folder, trigger="zorp"), "info"))


def test_trigger_words_are_the_trigger_or_the_one_caption_of_all(folder):
    assert load(folder, trigger=" zorp ").trigger_words == "zorp"
    assert load(folder).trigger_words == ""
    (folder / "0.txt").unlink()
    assert load(folder, prompt="a zorp").trigger_words == "a zorp"


def test_repeats_of_folder_and_settings_multiply(tmp_path):
    picture(tmp_path / "3_cat" / "a.png")
    picture(tmp_path / "b.png")
    dataset = load(tmp_path, repeats=2)
    assert [p.repeats for p in dataset.pictures] == [6, 2]
    assert dataset.num_samples == 8


def test_steps_count_every_bucket_for_itself(tmp_path):
    for index in range(10):
        picture(tmp_path / f"{index}.png", (128, 128) if index < 7 else (256, 64), seed=index)
    dataset = load(tmp_path, repeats=20)
    assert dataset.batches_per_epoch(4) == 7 * 20 // 4 + 3 * 20 // 4 == 50
    assert dataset.batches_per_epoch(9) == math.ceil(140 / 9) + math.ceil(60 / 9) == 23
    assert dataset.steps_per_epoch(9, accumulation=4) == 6


def test_max_train_samples_draws_the_same_pictures_whatever_their_names(tmp_path):
    for index in range(12):
        picture(tmp_path / "one" / f"{index:02}.png", seed=index)
        picture(tmp_path / "two" / f"{11 - index:02}.png", seed=index)
    one, two = (load(tmp_path / name, max_train_samples=5) for name in ("one", "two"))
    assert len(one.pictures) == 5
    assert {p.digest for p in one.pictures} == {p.digest for p in two.pictures}
    assert [p.name for p in one.pictures] == sorted(p.name for p in one.pictures)
    assert "7 pictures left out by max_train_samples" in said(one, "info")


def test_the_fingerprint_is_the_same_decoded_or_not(folder):
    (folder / "broken.png").write_bytes(b"x")
    config = DatasetConfig(resolution=128, trigger="zorp")
    assert load_dataset(folder, config).fingerprint == folder_fingerprint(folder, config)


def test_the_fingerprint_is_the_one_that_older_runs_were_made_with(tmp_path):
    """A finished run is found again by it; the value was taken before class images and masks existed."""
    (tmp_path / "a.png").write_bytes(b"one")
    (tmp_path / "b.png").write_bytes(b"two")
    (tmp_path / "a.txt").write_text("a hat")
    found = folder_fingerprint(tmp_path, DatasetConfig(resolution=512, trigger="zorp", flip=True))
    assert found == "f40486a3e0f5e73fd165d09e0b2f78d8f9ba552370f6e96b31881a538a9b870a"


def test_the_fingerprint_stays_when_nothing_of_substance_changes(folder, tmp_path):
    config = DatasetConfig(resolution=128)
    before = folder_fingerprint(folder, config)
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    (folder / "notes.md").write_text("hello")
    (folder / ".hidden.png").write_bytes(b"x")
    assert folder_fingerprint(folder, config) == before
    (folder / "0.txt").write_bytes(b"\xef\xbb\xbfa hat\r\n")  # the same caption in other bytes
    assert folder_fingerprint(folder, config) == before
    assert folder_fingerprint(shutil.copytree(folder, tmp_path / "elsewhere"), config) == before
    (folder / "2.png").rename(folder / "3.png")  # still the last one
    assert folder_fingerprint(folder, config) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "0.txt").write_text("a cap"),
        lambda root: (root / "1.txt").write_text("new"),
        lambda root: (root / "0.txt").unlink(),
        lambda root: picture(root / "1.png", (300, 150), seed=7),
        lambda root: picture(root / "3.png", seed=7),
        lambda root: (root / "2.png").unlink(),
        lambda root: shutil.move(root / "2.png", root / "0 first.png"),
        lambda root: (root / "metadata.csv").write_text("file_name,text\n1.png,row\n"),
    ],
)
def test_the_fingerprint_changes_with_a_picture_or_a_caption(folder, change):
    config = DatasetConfig(resolution=128)
    before = folder_fingerprint(folder, config)
    change(folder)
    assert folder_fingerprint(folder, config) != before


def test_the_fingerprint_changes_with_the_repeats_of_a_folder(tmp_path):
    picture(tmp_path / "2_cat" / "a.png")
    before = folder_fingerprint(tmp_path, DatasetConfig())
    (tmp_path / "2_cat").rename(tmp_path / "3_cat")
    assert folder_fingerprint(tmp_path, DatasetConfig()) != before


def test_the_fingerprint_changes_with_every_setting(folder):
    changes = {
        "resolution": 256, "repeats": 2, "trigger": "z", "prompt": "p", "caption_column": "c",
        "crop": "random", "flip": True, "upscale": True, "bucket_step": 32, "background": "#000000",
        "max_train_samples": 2,
    }  # fmt: skip
    assert set(changes) == set(DatasetConfig.__dataclass_fields__)
    seen = {folder_fingerprint(folder, DatasetConfig(**{name: value})) for name, value in changes.items()}
    assert len(seen | {folder_fingerprint(folder, DatasetConfig())}) == len(changes) + 1


def test_progress_counts_up_and_what_it_raises_stops_the_reading(folder):
    heard = []
    config = DatasetConfig(resolution=128)
    load_dataset(folder, config, lambda done, total: heard.append((done, total)))
    assert heard == [(1, 3), (2, 3), (3, 3)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_dataset(folder, config, stop)


def test_no_user_file_is_written_or_changed(folder):
    make_damaged(folder)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    dataset = load(folder, crop="random", flip=True, trigger="zorp")
    dataset.load_pixels(dataset.variants[0][0])
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_many_files_load_without_a_cost_that_grows_with_their_square(tmp_path):  # case 37
    def seconds(num):
        root = tmp_path / str(num)
        root.mkdir()
        for index in range(num):
            buffer = BytesIO()
            Image.new("RGB", (64, 64), (index % 256, index // 256, 0)).save(buffer, "PNG", compress_level=1)
            (root / f"{index}.png").write_bytes(buffer.getvalue())
            (root / f"{index}.txt").write_text(f"caption {index}")
        start = time.process_time()
        assert len(load(root).pictures) == num
        return time.process_time() - start

    seconds(50)
    few, many = seconds(200), seconds(1600)
    assert many < 16 * few + 0.2  # 8 times the files; a square would be 64 times
    assert many < 1600 * 10 / 10_000 * 3  # 10 s for 10,000, with room for a busy machine
