"""Augmented sets: which looks are drawn, where they are cut, what the denoiser is told of them."""

import math
import random
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.augmentation import Augmentation
from sdxl_trainer.trainer.data.augmentation_report import (
    augmentation_sheet,
    describe_augmentation,
    look_in_words,
)
from sdxl_trainer.trainer.data.augmented_dataset import looks_of, with_augmentation
from sdxl_trainer.trainer.data.batches import BatchPlan
from sdxl_trainer.trainer.data.buckets import place, random_crops
from sdxl_trainer.trainer.data.dataset import Picture, Variant, load_dataset
from sdxl_trainer.trainer.data.dataset_report import describe
from sdxl_trainer.trainer.data.dataset_sets import join_datasets, with_class_images
from sdxl_trainer.trainer.encoding.encoded_dataset import Encoding, encode_dataset
from sdxl_trainer.trainer.errors import CancelledError, InputError
from sdxl_trainer.trainer.events import SilentListener
from sdxl_trainer.trainer.settings.augment_config import AugmentConfig

EVERYTHING = {
    "flip": 0.5, "crop_jitter": 0.1, "rotation": 20.0, "brightness": 0.2, "contrast": 0.2,
    "saturation": 0.2, "hue": 0.05,
}  # fmt: skip


def fill(root, count, size=(150, 130), first=0):
    root.mkdir(parents=True, exist_ok=True)
    for index in range(first, first + count):
        values = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).save(root / f"{index:02}.png")
    return root


def load(root, **settings):
    return load_dataset(root, DatasetConfig(**{"resolution": 128, "trigger": "zorp", **settings}))


def augment(dataset, **settings):
    return with_augmentation(dataset, AugmentConfig(**settings))


@pytest.fixture
def dataset(tmp_path):
    return load(fill(tmp_path / "pictures", 6))


def sized(width, height):
    return Picture(
        path=Path(), name="", width=width, height=height, captions=("",), caption_source="none", repeats=1,
        digest=f"{width}x{height}",
    )  # fmt: skip


def ways_of(placements, flips=(False,)):
    return [
        Variant(
            picture=0, bucket=p.bucket, crop_top=p.crop_top, crop_left=p.crop_left, scaled=p.scaled,
            flipped=flipped,
        )
        for p in placements
        for flipped in flips
    ]  # fmt: skip


def turned_corners(look):
    """x and y of the four corners of the crop, turned about its centre, in the scaled picture."""
    (width, height), angle = look.bucket, math.radians(look.augmentation.rotation)
    middle = complex(look.crop_left + width / 2, look.crop_top + height / 2)
    turn = complex(math.cos(angle), -math.sin(angle))
    return [middle + complex(x * width / 2, y * height / 2) * turn for x in (-1, 1) for y in (-1, 1)]


def test_a_thousand_sizes_are_cut_inside_the_picture_and_never_show_a_corner():
    chance = random.Random(7)
    config = AugmentConfig(
        variants_per_picture=3, keep_original=False, flip=0.5, crop_jitter=0.2, rotation=45.0
    )
    for _ in range(1000):
        width, height = (round(math.exp(chance.uniform(math.log(16), math.log(6000)))) for _ in range(2))
        placement = place(width, height, chance.choice((256, 512, 1024)), 64, chance.random() < 0.5)
        crops = random_crops(placement, "x") if chance.random() < 0.5 else [placement]
        ways = ways_of(crops, (False, True) if chance.random() < 0.5 else (False,))
        for look in looks_of(sized(width, height), ways, config):
            assert look.bucket == placement.bucket
            numbers = (*look.scaled, look.crop_left, look.crop_top)
            assert all(type(number) is int for number in numbers)
            assert 0 <= look.crop_left <= look.scaled[0] - look.bucket[0]
            assert 0 <= look.crop_top <= look.scaled[1] - look.bucket[1]
            for corner in turned_corners(look):
                assert -1e-6 <= corner.real <= look.scaled[0] + 1e-6
                assert -1e-6 <= corner.imag <= look.scaled[1] + 1e-6
            # both sides grew alike, but for rounding to whole pixels
            before = placement.scaled
            assert abs(look.scaled[0] / before[0] - look.scaled[1] / before[1]) < 1.01 / min(before)


@pytest.mark.parametrize("size", [(128, 128), (400, 130), (131, 260), (64, 67)])
def test_a_white_picture_stays_white(tmp_path, size):
    Image.new("RGB", size, "white").save(tmp_path / "white.png")
    augmented = augment(load(tmp_path), variants_per_picture=12, keep_original=False, rotation=45.0)
    for look in augmented.variants[0]:
        assert np.asarray(augmented.crop_picture(look)).min() == 255
    assert max(abs(look.augmentation.rotation) for look in augmented.variants[0]) > 20


def test_the_picture_grows_no_more_than_the_turn_and_the_jitter_need():
    (base,) = ways_of([place(1024, 1024, 1024, 64, False)])
    for look in looks_of(sized(1024, 1024), [base], AugmentConfig(rotation=10.0, crop_jitter=0.0))[1:]:
        angle = math.radians(abs(look.augmentation.rotation))
        needed = 1024 * (math.cos(angle) + math.sin(angle))
        assert needed <= look.scaled[0] < needed + 2 and look.scaled[0] == look.scaled[1]
    grown = [
        look.scaled[0] / 1024 for look in looks_of(sized(1024, 1024), [base], AugmentConfig(crop_jitter=0.1))
    ]
    assert grown[0] == 1 and all(1 <= factor <= 1.1 for factor in grown) and max(grown) > 1.02
    # where the picture reaches far beyond its crop, it turns without being magnified
    roomy = Variant(picture=0, bucket=(64, 64), crop_top=30, crop_left=30, scaled=(124, 124), flipped=False)
    looks = looks_of(sized(124, 124), [roomy], AugmentConfig(rotation=45.0, crop_jitter=0.0))
    assert {look.scaled for look in looks} == {(124, 124)} and {look.crop_left for look in looks} == {30}


def test_jitter_stays_within_what_the_base_shows_and_uses_all_of_it():
    base = Variant(picture=0, bucket=(640, 320), crop_top=100, crop_left=60, scaled=(900, 700), flipped=False)
    config = AugmentConfig(variants_per_picture=64, keep_original=False, crop_jitter=0.1)
    starts = []
    for look in looks_of(sized(900, 700), [base], config):
        scale = look.scaled[0] / 900
        for start, before, side in ((look.crop_left, 60, 640), (look.crop_top, 100, 320)):
            assert before - 2 <= start / scale and (start + side) / scale <= before + side + 2
        starts.append((look.crop_left / scale - 60) / (640 - 640 / scale) if scale > 1.02 else 0.5)
    assert min(starts) < 0.1 and max(starts) > 0.9


@pytest.mark.parametrize("flipped", [False, True])
def test_time_ids_tell_where_the_pixels_came_from(tmp_path, flipped):
    """Red grows from left to right, green from top to bottom: colours tell the place."""
    y, x = np.mgrid[:240, :240]
    Image.fromarray(np.stack([x, y, 0 * x], 2).astype(np.uint8)).save(tmp_path / "place.png")
    settings = {"keep_original": False, "crop_jitter": 0.3, "flip": float(flipped), "variants_per_picture": 8}
    augmented = augment(load(tmp_path), **settings)
    for look in augmented.variants[0]:
        height, width, top, left, target_height, target_width = augmented.true_time_ids(look)
        assert (height, width, target_height, target_width) == (240, 240, 128, 128)
        colours = np.asarray(augmented.crop_picture(look), dtype=float).mean((0, 1))
        scale = look.scaled[0] / 240
        # the middle of the crop, in pixels of the scaled and perhaps mirrored picture
        middle_x = (240 - colours[0] - 0.5 if flipped else colours[0] + 0.5) * scale
        assert abs(left + 64 - middle_x) < 0.5 and abs(top + 64 - (colours[1] + 0.5) * scale) < 0.5
    assert len({augmented.true_time_ids(look) for look in augmented.variants[0]}) > 6


def test_a_picture_gets_the_same_looks_whatever_stands_beside_it(tmp_path):
    first = augment(load(fill(tmp_path / "a", 5)), **EVERYTHING)
    fill(tmp_path / "b", 1, size=(128, 256), first=70)
    fill(tmp_path / "b", 2, first=3)
    other = augment(load(tmp_path / "b"), **EVERYTHING)
    for picture, ways in zip(other.pictures[:2], other.variants[:2], strict=True):
        index = [p.digest for p in first.pictures].index(picture.digest)
        assert [replace(way, picture=index) for way in ways] == list(first.variants[index])
    assert len({way.augmentation for ways in first.variants for way in ways}) == 1 + 5 * 3


def test_more_variants_or_another_setting_leave_the_other_draws_alone(dataset):
    few, many = (augment(dataset, variants_per_picture=n, **EVERYTHING) for n in (3, 9))
    assert [ways[:3] for ways in many.variants] == list(few.variants)
    again = augment(dataset, variants_per_picture=3, **EVERYTHING)
    assert (again.variants, again.fingerprint) == (few.variants, few.fingerprint)
    grey = augment(dataset, variants_per_picture=3, **{**EVERYTHING, "saturation": 0.0})
    looks = [replace(look.augmentation, saturation=1.0) for ways in few.variants for look in ways[1:]]
    assert [look.augmentation for ways in grey.variants for look in ways[1:]] == looks
    reseeded = augment(dataset, variants_per_picture=3, seed=1, **EVERYTHING)
    assert not set(reseeded.variants) & set(few.variants)


@pytest.mark.parametrize("mirrored_too", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_the_share_of_mirrored_variants_is_that_of_the_setting(tmp_path, keep, mirrored_too):
    dataset = load(fill(tmp_path, 40, size=(64, 64)), flip=mirrored_too, resolution=64)
    for flip in (0.25, 0.5, 1.0):
        augmented = augment(dataset, flip=flip, keep_original=keep, variants_per_picture=8)
        counts = [sum(way.flipped for way in ways) for ways in augmented.variants]
        assert set(counts) == {8 * flip - (keep and flip == 1)}
    uneven = augment(dataset, flip=0.3, keep_original=keep, variants_per_picture=4)
    assert sum(way.flipped for ways in uneven.variants for way in ways) == pytest.approx(48, abs=8)
    plain = augment(dataset, variants_per_picture=8)
    assert any(way.flipped for ways in plain.variants for way in ways) == mirrored_too


def test_batches_draw_the_variants_evenly(tmp_path):
    dataset = load(fill(tmp_path, 8, size=(64, 64)), resolution=64)
    augmented = augment(dataset, flip=0.5, variants_per_picture=4)
    plan = BatchPlan(augmented, 2, seed=3)
    draws = [draw for index in range(100 * plan.num_batches) for draw in plan.batch(index)]
    assert len(draws) == 800
    assert sum(draw.variant.flipped for draw in draws) / 800 == pytest.approx(0.5, abs=0.05)
    assert sum(draw.variant.augmentation is None for draw in draws) / 800 == pytest.approx(0.25, abs=0.05)
    assert set(Counter(draw.picture for draw in draws).values()) == {100}


def test_looks_start_from_every_variant_the_picture_had(tmp_path):
    dataset = load(fill(tmp_path, 1, size=(300, 130)), crop="random", flip=True)
    augmented = augment(dataset, crop_jitter=0.0, variants_per_picture=64)
    (before,), (looks,) = dataset.variants, augmented.variants
    assert looks[0] == before[0] and len(before) == 8
    assert {replace(look, augmentation=None) for look in looks} == set(before)
    assert {look.augmentation for look in looks[1:]} == {Augmentation()}


def test_everything_but_the_variants_stays(tmp_path):
    own = load(fill(tmp_path / "own", 5), repeats=3)
    whole = with_class_images(own, load(fill(tmp_path / "class", 3, first=50), trigger=""))
    augmented = augment(whole, **EVERYTHING)
    kept = {"pictures", "config", "root_name", "class_set", "roots", "caption_variants", "trigger_words"}
    assert {name for name in kept if getattr(augmented, name) != getattr(whole, name)} == set()
    assert augmented.steps_per_epoch(2) == whole.steps_per_epoch(2)
    assert augmented.augment == AugmentConfig(**EVERYTHING)
    assert {way.picture for way in augmented.variants[4]} == {4}
    held = augmented.split(0.2)[1]
    assert [way.augmentation for ways in held.variants for way in ways] == [None]


def test_each_setting_changes_the_fingerprint(dataset):
    changes = {**EVERYTHING, "variants_per_picture": 5, "keep_original": False, "seed": 1}
    assert set(changes) == set(asdict(AugmentConfig()))
    prints = {augment(dataset, **{name: value}).fingerprint for name, value in changes.items()}
    assert len(prints | {augment(dataset).fingerprint, dataset.fingerprint}) == len(changes) + 2


def test_augmenting_twice_is_refused_also_after_joining(dataset):
    once = augment(dataset)
    joined = join_datasets([(once, 1.0), (augment(dataset, seed=2), 0.5)])
    assert [len(ways) for ways in joined.variants] == [4] * 12
    for augmented in (once, joined):
        with pytest.raises(InputError, match=r"^the dataset is augmented already, .* one Augment Dataset"):
            augment(augmented)


def test_what_is_encoded_in_vain_is_pointed_out(dataset):
    def warnings(**settings):
        found = augment(dataset, **settings).notes
        return [str(note) for note in found if note not in dataset.notes]

    (nothing,) = warnings(crop_jitter=0.0)
    assert nothing.startswith("augmentation changes nothing: raise flip")
    (two,) = warnings(crop_jitter=0.0, flip=0.5)
    assert "of the 4 variants of a picture at most 2 differ: set variants_per_picture to 2" in two
    assert warnings() == warnings(crop_jitter=0.0, flip=0.5, variants_per_picture=2) == []


def test_pictures_that_get_soft_are_named(tmp_path):
    fill(tmp_path, 1, size=(128, 128))
    fill(tmp_path, 1, size=(512, 512), first=1)
    dataset = load(tmp_path)
    (note,) = augment(dataset, rotation=20.0).notes[len(dataset.notes) :]
    assert note.kind == "warning"
    assert "1 pictures are enlarged by up to 1." in str(note) and "(00.png)" in str(note)
    assert augment(dataset, crop_jitter=0.1).notes == dataset.notes


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"variants_per_picture": 0}, "variants_per_picture is 0, but must be from 1 to 64"),
        ({"flip": 1.5}, "flip is 1.5, but must be from 0 to 1"),
        ({"rotation": -3.0, "hue": 0.6}, "rotation is -3, but must be from 0 to 45; hue is 0.6, but"),
        ({"brightness": float("nan")}, "brightness is nan, but must be a number from 0 to 0.9"),
    ],
)
def test_settings_out_of_range_are_refused(values, words):
    with pytest.raises(InputError, match=words):
        AugmentConfig(**values)


@pytest.mark.parametrize("told", ["true", "inference"])
def test_every_variant_is_encoded_and_told_as_it_was_cut(tiny_run, tmp_path, told):
    dataset = augment(tiny_run.tiny_dataset(tmp_path), variants_per_picture=3, **EVERYTHING)
    model = tiny_run.TinyModel()
    encoded = encode_dataset(dataset, Encoding(model, SilentListener(), lambda: None), told)
    assert model.encoded_pictures == 15 and [len(latents) for latents in encoded.latents] == [3] * 5
    for picture, ways in enumerate(dataset.variants):
        for number, way in enumerate(ways):
            latents = model.encode_pixels(dataset.load_pixels(way)[None])[0]
            assert torch.equal(encoded.latents[picture][number], latents)
            ids = tuple(encoded.time_ids[picture][number].int().tolist())
            assert ids == (
                dataset.true_time_ids(way) if told == "true" else (*way.bucket[::-1], 0, 0, *way.bucket[::-1])
            )
    assert not torch.equal(encoded.latents[0][0], encoded.latents[0][1])


def test_a_stopped_run_on_variants_goes_on_to_the_same_bytes(tiny_run, tmp_path):
    dataset = augment(tiny_run.tiny_dataset(tmp_path), **EVERYTHING)

    def run(folder, listener):
        values = {"steps": 8, "batch_size": 2, "objective": {"size_conditioning": "true"}}
        job = tiny_run.tiny_job(tmp_path / folder, dataset, **values)
        return tiny_run.train(job, tiny_run.TinyModel(), listener)

    whole = run("whole", tiny_run.StopAfter())
    with pytest.raises(CancelledError):
        run("parts", tiny_run.StopAfter(3))
    resumed = run("parts", tiny_run.StopAfter())
    assert resumed.resumed_from == 3
    assert resumed.lora_path.read_bytes() == whole.lora_path.read_bytes()


def test_the_sheet_shows_pictures_in_rows_and_their_looks_in_columns(dataset):
    augmented = augment(dataset, variants_per_picture=9, **EVERYTHING)
    sheet = augmentation_sheet(augmented, max_pictures=2, max_looks=3)
    taller = augmentation_sheet(augmented, max_pictures=4, max_looks=3)
    wider = augmentation_sheet(augmented, max_pictures=2, max_looks=6)
    assert sheet.height < taller.height and sheet.width == taller.width
    assert sheet.width < wider.width and sheet.height == wider.height
    look = Variant(
        picture=0, bucket=(64, 64), crop_top=0, crop_left=0, scaled=(110, 110), flipped=True,
        augmentation=Augmentation(rotation=-3.0, contrast=1.1, hue=-0.05),
    )  # fmt: skip
    first = replace(look, scaled=(100, 100), flipped=False, augmentation=None)
    assert look_in_words(look, first) == "mirrored, x1.10, turned +3.0°, contrast 1.10, hue -18°"
    assert look_in_words(first, first) == "as it is"


def test_the_report_counts_passes_memory_and_steps(tmp_path):
    dataset = load(fill(tmp_path, 2, size=(1024, 1024)), resolution=1024, repeats=5)
    text = describe_augmentation(augment(dataset, variants_per_picture=8))
    assert "2 pictures x 8 variants; the first is the picture as it is." in text
    assert "16 passes of the VAE before training instead of 2, and 4.0 MiB of latents" in text
    assert "Each picture is seen in up to 8 ways (as augmented)" in describe(
        augment(dataset, variants_per_picture=8)
    )
    assert "(up to 256 KiB each)" in text and "Steps: 10 an epoch at batch 1, as without" in text
