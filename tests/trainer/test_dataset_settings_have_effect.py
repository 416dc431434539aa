"""Every setting of a dataset changes what it should, and nothing else; as test_settings_have_effect.py."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.dataset import load_dataset

NUMBERS = {"weights", "file"}
PIXELS = {"noisy latents", *NUMBERS}
SIZES = {"sizes", *PIXELS}
# other buckets make other batches
BATCHES = {"timesteps", "captions", *SIZES}
GIVEN = {"resolution": 64, "bucket_step": 32}
RUN = {"batch_size": 8, "objective.caption_dropout": 0.0}

# setting -> its other value, what must differ, and what is set in both runs
CASES = {
    "resolution": (96, BATCHES, {}),
    "repeats": (2, BATCHES, {}),
    "trigger": ("zyx", {"captions", *NUMBERS}, {}),
    "prompt": ("a thing", {"captions", *NUMBERS}, {}),
    "caption_column": ("long", {"captions", *NUMBERS}, {}),
    "crop": ("random", PIXELS, {}),
    "flip": (True, PIXELS, {}),
    "upscale": (True, BATCHES, {}),
    "bucket_step": (64, SIZES, {"resolution": 128}),
    "background": ("#000000", PIXELS, {}),
    "max_train_samples": (3, BATCHES, {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six pictures: one wide, one small, one half transparent, and two captions in a table."""
    root = tmp_path_factory.mktemp("pictures")
    chance = np.random.default_rng(1)
    sizes = [(128, 128), (128, 128), (200, 120), (40, 40), (128, 128), (128, 128)]
    for index, (width, height) in enumerate(sizes):
        values = chance.integers(0, 255, (height, width, 4), dtype=np.uint8)
        values[..., 3] = np.where(np.arange(width) < width // 2, 0, 255) if index == 4 else 255
        Image.fromarray(values).save(root / f"{index}.png")
    rows = [
        {"file_name": f"{index}.png", "text": f"short {index}", "long": f"a long one {index}"}
        for index in range(2)
    ]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.fixture(scope="module")
def shown(watched_run, folder, tmp_path_factory):
    finished = {}

    def run(settings):
        key = tuple(sorted(settings.items()))
        if key not in finished:
            dataset = load_dataset(folder, DatasetConfig(**settings))
            finished[key] = watched_run.run_watched(tmp_path_factory.mktemp("run"), dataset, RUN)
        return finished[key]

    return run


@pytest.mark.parametrize("name", CASES)
def test_a_setting_changes_what_it_should_and_nothing_else(watched_run, shown, name):
    value, changes, given = CASES[name]
    before = shown({**GIVEN, **given})
    after = shown({**GIVEN, **given, name: value})
    assert watched_run.differences(before, after) == changes


def test_every_setting_has_a_case():
    assert {field.name for field in dataclasses.fields(DatasetConfig)} == set(CASES)
