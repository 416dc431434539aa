import hashlib
import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.batches import BatchPlan, generator
from sdxl_trainer.trainer.data.buckets import place
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.data.training_set import Picture, TrainingSet, Variant

SIZES = [(128, 128)] * 5 + [(256, 64)] * 3 + [(64, 64)] * 2


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Ten pictures in three buckets, 3 repeats, two captions each, 8 variants where there is room."""
    root = tmp_path_factory.mktemp("set")
    rows = []
    for index, size in enumerate(SIZES):
        Image.new("RGB", (size[0] + 20, size[1] + 10), (index, 9, 9)).save(root / f"{index}.png")
        rows.append(f'{{"file_name": "{index}.png", "text": ["one {index}", "two {index}"]}}')
    (root / "metadata.jsonl").write_text("\n".join(rows))
    return load_dataset(root, DatasetConfig(resolution=128, repeats=3, crop="random", flip=True))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 100])
def test_an_epoch_holds_every_sample_once_and_no_batch_mixes_sizes(dataset, batch_size):
    plan = BatchPlan(dataset, batch_size, seed=1)
    assert plan.num_batches == dataset.batches_per_epoch(batch_size)
    for epoch in range(3):
        batches = [plan.batch(epoch * plan.num_batches + i) for i in range(plan.num_batches)]
        assert Counter(draw.picture for batch in batches for draw in batch) == dict.fromkeys(range(10), 3)
        for batch in batches:
            assert 1 <= len(batch) <= batch_size  # case 80: no empty batch, however large the size
            assert len({draw.variant.bucket for draw in batch}) == 1


def test_a_batch_depends_on_seed_and_index_alone(dataset):
    plan = BatchPlan(dataset, 2, seed=7)
    forward = [plan.batch(index) for index in range(60)]
    order = list(range(60))
    random.Random(0).shuffle(order)
    again = BatchPlan(dataset, 2, seed=7)
    assert all(again.batch(index) == forward[index] for index in order)
    assert [BatchPlan(dataset, 2, seed=8).batch(index) for index in range(60)] != forward


def test_epochs_differ_in_order_and_buckets_are_interleaved(dataset):
    plan = BatchPlan(dataset, 2, seed=3)
    epochs = [[plan.batch(e * plan.num_batches + i) for i in range(plan.num_batches)] for e in range(2)]
    assert [[d.picture for d in b] for b in epochs[0]] != [[d.picture for d in b] for b in epochs[1]]
    buckets = [batch[0].variant.bucket for batch in epochs[0]]
    assert sum(a != b for a, b in itertools.pairwise(buckets)) > len(set(buckets))


def test_every_variant_and_every_caption_gets_its_turn(dataset):
    plan = BatchPlan(dataset, 4, seed=0)
    variants, captions = Counter(), Counter()
    for index in range(plan.num_batches * 60):
        for draw in plan.batch(index):
            assert draw.variant == dataset.variants[draw.picture][draw.variant_index]
            assert draw.caption == dataset.pictures[draw.picture].captions[draw.caption_index]
            variants[draw.picture, draw.variant_index] += 1
            captions[draw.caption_index] += 1
    assert len(variants) == sum(map(len, dataset.variants)) > len(dataset.pictures)
    assert abs(captions[0] / captions.total() - 0.5) < 0.05


def test_captions_are_dropped_in_the_stated_share_and_nothing_else_changes(dataset):
    never, some, always = (BatchPlan(dataset, 4, seed=5, caption_dropout=share) for share in (0, 0.2, 1))
    dropped = total = 0
    for index in range(never.num_batches * 60):
        for plain, maybe, gone in zip(
            never.batch(index), some.batch(index), always.batch(index), strict=True
        ):
            assert plain.variant == maybe.variant == gone.variant
            assert gone.caption == "" and gone.caption_index is None
            assert plain.caption_index is not None
            dropped += maybe.caption_index is None
            total += 1
    assert abs(dropped / total - 0.2) < 0.04


@pytest.fixture(scope="module")
def many():
    """10,000 pictures of random sizes and repeats, in some five hundred buckets."""
    chance = random.Random(0)
    pictures, variants = [], []
    for index in range(10_000):
        size = [round(2 ** chance.uniform(4, 13)) for _ in range(2)]
        at = place(*size, 1024, 64, chance.random() < 0.5)
        name, repeats = f"{index}.png", chance.choice([1, 1, 1, 2, 5])
        pictures.append(Picture(Path(name), name, *size, ("",), "none", repeats, f"{index:064x}"))
        variants.append((Variant(index, at.bucket, at.crop_top, at.crop_left, at.scaled, False),))
    return TrainingSet(tuple(pictures), DatasetConfig(), (), tuple(variants), "many", "many")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_of_10000_random_sizes_each_comes_once_an_epoch_in_batches_of_one_shape(many, batch_size):
    assert sum(map(len, many.buckets.values())) == 10_000 and len(many.buckets) > 300
    assert many.num_samples == sum(many.samples_by_bucket.values())
    plan = BatchPlan(many, batch_size, seed=1)
    for epoch in range(2):
        batches = [plan.batch(epoch * plan.num_batches + i) for i in range(plan.num_batches)]
        seen = Counter(draw.picture for batch in batches for draw in batch)
        assert seen == {index: picture.repeats for index, picture in enumerate(many.pictures)}
        assert all(len({draw.variant.bucket for draw in batch}) == 1 for batch in batches)
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        # no bucket has two batches that could be one
        short = Counter(batch[0].variant.bucket for batch in batches if len(batch) < batch_size)
        assert all(number == 1 for number in short.values())


def test_the_global_generator_is_never_touched(dataset):
    before = random.getstate()
    BatchPlan(dataset, 2, seed=1).batch(5)
    assert random.getstate() == before


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_the_smallest_and_the_largest_seed_work(dataset, seed):  # case 82
    assert BatchPlan(dataset, 2, seed).batch(0)


def test_generators_differ_by_seed_purpose_and_index():
    draws = {
        generator(*key).random() for key in [(1, "a", 1), (2, "a", 1), (1, "b", 1), (1, "a", 2), (1, "a", 11)]
    }
    assert len(draws) == 5
    # a fixed value: another would silently change what a resumed run sees
    assert generator(1, "sample", 0).randrange(10**6) == 296859


def test_a_purpose_draws_independently_and_none_draws_as_ever(dataset):
    plain, named, other = (BatchPlan(dataset, 2, 7, 0.1, purpose) for purpose in ("", "class", "validation"))
    drawn = [[plan.batch(index) for index in range(40)] for plan in (plain, named, other)]
    assert drawn[0] == [BatchPlan(dataset, 2, 7, 0.1).batch(index) for index in range(40)]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]
    assert drawn[1] == [BatchPlan(dataset, 2, 7, 0.1, "class").batch(index) for index in range(40)]
    pictures = Counter(d.picture for batch in drawn[1][: named.num_batches] for d in batch)
    assert pictures == dict.fromkeys(range(10), 3)  # every epoch is whole under every purpose


def test_plain_draws_are_those_that_older_runs_were_made_with(example_folder):
    """A resumed run must see what it would have seen; the digest was taken before purposes existed."""
    dataset = load_dataset(example_folder, DatasetConfig(resolution=128, flip=True, repeats=2))
    plan = BatchPlan(dataset, 4, 42, 0.1)
    draws = [
        [(d.picture, d.variant_index, d.caption_index) for d in plan.batch(index)] for index in range(20)
    ]
    digest = hashlib.sha256(json.dumps(draws).encode()).hexdigest()
    assert digest == "f75a780c93b168e6be562697a53c4c94498821b788f3ac7c7713675fbd0066a1"
