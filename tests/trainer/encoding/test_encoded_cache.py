"""The cache alone: what it believes, what it refuses, and what it does where it cannot write."""

import dataclasses
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file
from sdxl_trainer.trainer.data.augmentation import Augmentation
from sdxl_trainer.trainer.data.picture import Picture, Variant
from sdxl_trainer.trainer.encoding.encoded_cache import EncodedCache, caption_key, latent_key

KEY, OTHER = caption_key("clip", "a cat"), caption_key("clip", "a dog")
CONDITION = {"prompt_embeds": torch.linspace(-1, 1, 12).view(3, 4).bfloat16(), "pooled": torch.randn(4)}


def place(folder, key=KEY):
    return folder / key[:2] / f"{key}.safetensors"


@pytest.fixture
def filled(tmp_path):
    cache = EncodedCache(tmp_path / "cache")
    cache.keep("captions", KEY, CONDITION)
    return cache


def test_tensors_come_back_bit_for_bit_in_their_types(filled):
    found = EncodedCache(filled.folder).find("captions", KEY)
    assert {name: value.dtype for name, value in found.items()} == {
        name: value.dtype for name, value in CONDITION.items()
    }
    assert all(torch.equal(found[name], value) for name, value in CONDITION.items())


def test_without_a_folder_or_a_key_nothing_is_kept(tmp_path):
    for cache, key in ((EncodedCache(), KEY), (EncodedCache(tmp_path / "cache"), "")):
        cache.keep("captions", key, CONDITION)
        assert cache.find("captions", key) is None
    assert caption_key("", "a cat") == latent_key("", PICTURE, VARIANT) == ""
    assert list(tmp_path.iterdir()) == []


PICTURE = Picture(
    path=None, name="a.png", width=9, height=8, captions=("",), caption_source="", repeats=1, digest="00"
)
VARIANT = Variant(
    picture=0, bucket=(64, 96), crop_top=1, crop_left=2, scaled=(70, 99), flipped=False, augmentation=None
)


def test_a_key_changes_with_all_that_the_pixels_hang_on_and_with_nothing_else():
    base = latent_key("vae", PICTURE, VARIANT)
    variants = {
        "bucket": (96, 64),
        "crop_top": 0,
        "crop_left": 0,
        "scaled": (71, 99),
        "flipped": True,
        "augmentation": Augmentation(),
    }
    fields = {field.name for field in dataclasses.fields(Variant)}
    assert fields == {"picture", *variants}
    keys = [
        latent_key("vae", PICTURE, dataclasses.replace(VARIANT, **{name: value}))
        for name, value in variants.items()
    ]
    keys += [latent_key("vae", PICTURE, dataclasses.replace(VARIANT, augmentation=Augmentation(hue=0.1)))]
    keys += [latent_key("other", PICTURE, VARIANT)]
    keys += [
        latent_key("vae", dataclasses.replace(PICTURE, **change), VARIANT)
        for change in ({"digest": "01"}, {"background": "#000000"})
    ]
    assert len({base, *keys, caption_key("vae", ""), caption_key("vae", "a")}) == len(keys) + 3
    renamed = dataclasses.replace(PICTURE, name="b.png", captions=("a cat",), repeats=7, loss_weight=0.5)
    assert latent_key("vae", renamed, dataclasses.replace(VARIANT, picture=5)) == base


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit_of_the_numbers(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def flip_a_bit_of_the_header(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"pooled") + 1] ^= 1
    path.write_bytes(content)


def put_another_caption_there(path):
    cache = EncodedCache(path.parent.parent)
    cache.keep("captions", OTHER, CONDITION)
    shutil.copyfile(place(cache.folder, OTHER), path)


def put_nan_there(path):
    pooled = CONDITION["pooled"].clone()
    pooled[0] = float("nan")
    EncodedCache(path.parent.parent).keep("captions", KEY, {**CONDITION, "pooled": pooled})


def put_latents_there(path):
    EncodedCache(path.parent.parent).keep("latents", KEY, {"latents": torch.zeros(4, 8, 8)})


@pytest.mark.parametrize(
    "damage",
    [
        cut_off,
        flip_a_bit_of_the_numbers,
        flip_a_bit_of_the_header,
        put_another_caption_there,
        put_nan_there,
        put_latents_there,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK no tensors at all"),
        lambda path: save_file(CONDITION, path),
        lambda path: path.unlink(),
    ],
)
def test_a_damaged_or_foreign_file_counts_as_absent_and_is_replaced(filled, damage):
    whole = place(filled.folder).read_bytes()
    damage(place(filled.folder))
    cache = EncodedCache(filled.folder)
    assert cache.find("captions", KEY) is None
    cache.keep("captions", KEY, CONDITION)
    assert place(filled.folder).read_bytes() == whole
    assert cache.find("captions", KEY) is not None


def no_folder(folder):
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file where the folder should be")


def read_only(folder):
    folder.mkdir()
    folder.chmod(0o500)


@pytest.mark.parametrize("trouble", [no_folder, read_only])
def test_where_nothing_can_be_written_it_is_said_once(tmp_path, trouble):
    folder, heard = tmp_path / "cache", []
    trouble(folder)
    if trouble is read_only and os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    cache = EncodedCache(folder, heard.append)
    for key in (KEY, OTHER):
        assert cache.find("captions", key) is None
        cache.keep("captions", key, CONDITION)
    cache.trim()
    assert len(heard) == 1 and "cannot be written (" in heard[0] and str(tmp_path) not in heard[0]
    assert cache.notes == heard


def test_a_disk_with_little_room_is_left_to_the_lora(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 3 * 2**30}))
    heard = []
    cache = EncodedCache(tmp_path, heard.append)
    cache.keep("captions", KEY, CONDITION)
    assert not place(tmp_path).exists()
    assert "less than 4 GiB of disk space are free" in heard[0]


def test_the_least_recently_used_go_first_and_nothing_foreign_ever(tmp_path):
    cache = EncodedCache(tmp_path)
    keys = [caption_key("clip", str(number)) for number in range(6)]
    for age, key in enumerate(keys):
        cache.keep("captions", key, CONDITION)
        os.utime(place(tmp_path, key), (1000 + age, 1000 + age))
    shard = place(tmp_path, keys[0]).parent
    stale, fresh = (shard / f".{'0' * 40}.{letter * 12}.part" for letter in "ab")
    foreign = [tmp_path / "cat.safetensors", shard / "cat.safetensors", tmp_path / "notes" / "0.txt"]
    for path in (stale, fresh, *foreign):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"0" * 10_000)
    os.utime(stale, (1000, 1000))
    size = place(tmp_path, keys[0]).stat().st_size

    small = EncodedCache(tmp_path, max_bytes=3 * size)
    assert small.find("captions", keys[0]) is not None  # used last now
    small.trim()
    assert all(place(tmp_path, key).exists() for key in keys)  # it grew by nothing
    small.keep("captions", KEY, CONDITION)
    small.trim()
    left = {key for key in (*keys, KEY) if place(tmp_path, key).exists()}
    assert left == {KEY, keys[0], keys[5]}
    assert all(path.exists() for path in (fresh, *foreign))
    assert not stale.exists()


def test_the_report_counts_by_kind_and_keeps_silent_about_nothing(filled):
    assert filled.notes == []
    cache = EncodedCache(filled.folder)
    cache.find("captions", KEY)
    cache.keep("captions", OTHER, CONDITION)
    assert cache.notes == ["encoded by earlier runs and read from the cache: 1 of 2 captions"]
