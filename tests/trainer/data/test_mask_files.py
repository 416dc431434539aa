"""`-masklabel` files: found beside their pictures, and used as their masks."""

import os
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.dataset import folder_state, load_dataset
from sdxl_trainer.trainer.data.dataset_sets import join_datasets, with_masks
from sdxl_trainer.trainer.data.folder import scan_folder
from sdxl_trainer.trainer.data.mask_files import pair_masks
from sdxl_trainer.trainer.errors import InputError

CONFIG = DatasetConfig(resolution=128, bucket_step=128)


def pattern(width, height):
    """Levels of which no mirrored or shifted cut equals another."""
    return np.random.default_rng(5).integers(0, 256, (height, width), dtype=np.uint8)


def save(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


def white(path, width=32, height=32):
    save(path, np.full((height, width, 3), 255, np.uint8))


def load(root, **settings):
    return load_dataset(root, DatasetConfig(**{"resolution": 128, "bucket_step": 128, **settings}))


def masked(root):
    return with_masks(load(root), "masklabel")


def found(root):
    return {p.name: p.mask_path and p.mask_path.name for p in scan_folder(root, CONFIG).pictures}


def notes(dataset, *kinds):
    return [str(note) for note in dataset.notes if note.kind in kinds]


def test_a_masklabel_file_is_its_pictures_mask_and_no_picture(tmp_path):
    for name in (
        *("a.jpg", "a-masklabel.png", "b.png", "b.png-masklabel.webp", "c.png", "c-masklabel.tif"),
        *("3_zorp/a.png", "3_zorp/d.webp", "3_zorp/d-MASKLABEL.PNG"),
    ):
        white(tmp_path / name)
    assert found(tmp_path) == {
        "a.jpg": "a-masklabel.png",
        "b.png": "b.png-masklabel.webp",
        "c.png": "c-masklabel.tif",
        "3_zorp/a.png": None,
        "3_zorp/d.webp": "d-MASKLABEL.PNG",
    }
    text = "4 of 5 pictures have a -masklabel mask: Dataset Masks uses it with source masklabel"
    assert notes(scan_folder(tmp_path, CONFIG), "info", "warning", "skipped") == [text]


def test_pictures_of_one_stem_share_a_mask_and_the_full_name_goes_first(tmp_path):
    for name in ("a.jpg", "a.png", "a-masklabel.jpg", "a-masklabel.png", "a.jpg-masklabel.png"):
        white(tmp_path / name)
    assert found(tmp_path) == {"a.jpg": "a.jpg-masklabel.png", "a.png": "a-masklabel.png"}
    (left_out,) = notes(scan_folder(tmp_path, CONFIG), "skipped")
    assert left_out == "a-masklabel.jpg is a second mask of its picture and is not used"


def test_a_mask_without_its_picture_is_left_out_and_named(tmp_path):
    alone = ("gone-masklabel.png", "deep/a-masklabel.png", "-masklabel.png")
    for name in ("a.png", *alone):
        white(tmp_path / name)
    assert found(tmp_path) == {"a.png": None}
    why = "is a mask by its name, but its picture is not beside it: rename it if it is one"
    assert set(notes(scan_folder(tmp_path, CONFIG), "skipped")) == {f"{name} {why}" for name in alone}
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match="no pictures in it") as caught:
        load(tmp_path)
    assert f"gone-masklabel.png {why}" in str(caught.value)


def test_accents_of_either_spelling_find_their_mask():
    names = [
        unicodedata.normalize(form, name) for form, name in (("NFC", "é.png"), ("NFD", "é-masklabel.png"))
    ]
    assert pair_masks(names).masks == {names[0]: names[1]}


def test_equal_masks_are_no_duplicates_and_need_no_captions(tmp_path):
    for number in range(2):
        save(
            tmp_path / f"{number}.png",
            np.random.default_rng(number).integers(0, 256, (128, 128, 3), np.uint8),
        )
        white(tmp_path / f"{number}-masklabel.png", 128, 128)
    dataset = load(tmp_path)
    assert len(dataset.pictures) == 2
    assert notes(dataset, "warning", "skipped") == [
        "2 of 2 pictures have no caption and train on an empty caption: 0.png, 1.png"
    ]


@pytest.fixture
def labelled(tmp_path):
    """Two pictures with masks of their own, the second smaller than its picture, and one without."""
    for number, name in enumerate("abc"):
        values = np.random.default_rng(number).integers(0, 256, (128, 300, 3), dtype=np.uint8)
        save(tmp_path / f"{name}.png", values)
    save(tmp_path / "a-masklabel.png", pattern(300, 128))
    save(tmp_path / "b-masklabel.png", pattern(150, 64))
    return tmp_path


def test_they_mask_as_the_same_mask_from_a_graph_does(labelled):
    plain = load(labelled, crop="random", flip=True)
    by_file = with_masks(plain, "masklabel")
    masks = [torch.from_numpy(pattern(*size)) / 255 for size in ((300, 128), (150, 64))]
    given = with_masks(plain, [*masks, torch.ones(8, 8)])
    assert [p.has_mask for p in by_file.pictures] == [True, True, False]
    for variants in by_file.variants[:2]:
        for variant in variants:
            assert torch.equal(by_file.load_mask(variant), given.load_mask(variant))
    assert by_file.load_mask(by_file.variants[2][0]) is None
    said = notes(by_file, "info", "warning")
    assert "1 of 3 pictures have no -masklabel file and count in full" in said
    assert not any("stretched" in note for note in said)


def test_a_run_with_them_equals_one_with_the_same_masks_from_a_graph(tiny_run, tmp_path):
    own = tiny_run.tiny_dataset(tmp_path, flip=True)
    levels = [pattern(p.width, p.height) for p in own.pictures]
    for picture, mask in zip(own.pictures, levels, strict=True):
        save(picture.path.with_name(f"{picture.path.stem}-masklabel.png"), mask)
    by_file = with_masks(tiny_run.tiny_dataset(tmp_path, flip=True), "masklabel")
    given = with_masks(own, [torch.from_numpy(mask) / 255 for mask in levels])
    made = []
    for name, dataset in (("files", by_file), ("graph", given), ("none", own)):
        job = tiny_run.tiny_job(tmp_path / name, dataset, steps=3)
        made.append(tiny_run.train(job, tiny_run.TinyModel(), listener := tiny_run.StopAfter()).final_loss)
        made.append(tuple(listener.losses))
    assert made[:2] == made[2:4] and made[:2] != made[4:]


def test_alpha_stays_what_it_was_beside_them(labelled):
    assert not with_masks(load(labelled), "alpha").has_masks
    again = with_masks(masked(labelled), "alpha")
    assert not again.has_masks and not any(p.mask_digest for p in again.pictures)
    assert all(
        p.given_mask is None for p in with_masks(with_masks(again, torch.ones(8, 8)), "masklabel").pictures
    )


@pytest.mark.parametrize("kind", ["16 bit", "one bit", "palette", "colour", "on nothing", "turned"])
def test_levels_are_read_whatever_the_file_is(tmp_path, kind):
    white(tmp_path / "a.png", 128, 128)
    path, levels = tmp_path / "a-masklabel.png", pattern(128, 128)
    if kind == "16 bit":
        save(path, levels.astype(np.uint16) * 257)
    elif kind == "one bit":
        levels = np.where(levels > 127, 255, 0).astype(np.uint8)
        Image.fromarray(levels).convert("1").save(path)
    elif kind == "palette":
        Image.fromarray(levels).convert("P").save(path)
    elif kind == "colour":
        save(path, np.repeat(levels[..., None], 3, axis=-1))
    elif kind == "on nothing":
        opacity = np.full((128, 128, 4), 255, np.uint8)
        opacity[..., 3] = levels
        save(path, opacity)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6  # stored lying on its side
        save(path, np.rot90(levels), exif=exif)
    dataset = masked(tmp_path)
    assert np.array_equal(np.asarray(dataset.crop_mask(dataset.variants[0][0])), levels)


def test_a_changed_mask_is_another_dataset_and_another_state_of_the_folder(labelled):
    def fingerprints():
        return load(labelled).fingerprint, folder_state(labelled, CONFIG), masked(labelled).fingerprint

    seen = [fingerprints(), fingerprints()]
    save(labelled / "b-masklabel.png", 255 - pattern(150, 64))
    seen.append(fingerprints())
    os.rename(labelled / "b-masklabel.png", labelled / "c-masklabel.png")
    seen.append(fingerprints())
    plain, states, with_files = map(set, zip(*seen, strict=True))
    # a run without the masks goes on as before
    assert (len(plain), len(states), len(with_files)) == (1, 3, 3)


def test_files_that_are_damaged_or_changed_are_named(labelled):
    dataset = masked(labelled)
    save(labelled / "a-masklabel.png", pattern(128, 128))
    with pytest.raises(InputError, match=r"the mask of a\.png changed after the dataset was loaded"):
        dataset.load_mask(dataset.variants[0][0])
    stretched = "a.png is 300x128, its mask 128x128: the mask was stretched"
    assert stretched in notes(masked(labelled), "warning")
    loaded, path = load(labelled), labelled / "b-masklabel.png"
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(InputError, match=r"the mask of b\.png is damaged"):
        masked(labelled)
    path.unlink()
    with pytest.raises(InputError, match=r"the mask of b\.png cannot be read"):
        with_masks(loaded, "masklabel")


def test_labels_of_0_and_1_are_pointed_out(labelled):
    save(labelled / "a-masklabel.png", (pattern(300, 128) > 99).astype(np.uint8))
    text = "a.png has a mask that is nearly black all over: white (255) is what is learned"
    assert text in notes(masked(labelled), "warning")


def test_they_go_along_through_joins_and_splits(labelled):
    joined = join_datasets([(masked(labelled), 1), (load(labelled), 0.5)])
    assert [p.has_mask for p in joined.pictures] == [True, True, False] + [False] * 3
    parts = joined.split(0.4)
    assert sum(p.has_mask for part in parts for p in part.pictures) == 2
    for part in parts:
        for picture, variants in zip(part.pictures, part.variants, strict=True):
            assert (part.load_mask(variants[0]) is None) != picture.has_mask


def test_without_any_the_dataset_says_that_masks_change_nothing(tmp_path):
    white(tmp_path / "plain.png")
    warned = notes(masked(tmp_path), "warning")
    assert warned[-1] == "1 of 1 pictures have no -masklabel file and count in full"
