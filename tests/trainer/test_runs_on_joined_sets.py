"""Whole runs on class images, masks, weights and several captions: resumed as if never stopped."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sdxl_trainer.trainer.config import DatasetConfig, PriorConfig
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.data.dataset_sets import join_datasets, with_class_images, with_masks
from sdxl_trainer.trainer.errors import CancelledError


def fill(root, count, first=0, **settings):
    """Noise with two captions for each picture."""
    root.mkdir(parents=True)
    rows = []
    for index in range(first, first + count):
        values = np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(values).save(root / f"{index}.png")
        rows.append(json.dumps({"file_name": f"{index}.png", "text": [f"one {index}", f"two {index}"]}))
    (root / "metadata.jsonl").write_text("\n".join(rows))
    return load_dataset(root, DatasetConfig(resolution=64, bucket_step=32, **settings))


@pytest.fixture
def parts(tmp_path):
    return fill(tmp_path / "a", 3, flip=True), fill(tmp_path / "b", 2, 10), fill(tmp_path / "c", 4, 20)


def everything(parts):
    a, b, classes = parts
    half = torch.zeros(64, 64)
    half[:, 32:] = 1
    return with_class_images(join_datasets([(with_masks(a, half), 1.0), (b, 0.5)]), classes)


def weights(tiny_run, folder, dataset, prior="auto"):
    folder.mkdir()
    job = tiny_run.tiny_job(folder, dataset, steps=4, batch_size=2)
    job = replace(job, config=replace(job.config, prior=PriorConfig(prior_preservation=prior)))
    return load_file(tiny_run.train(job, tiny_run.TinyModel(), tiny_run.StopAfter()).lora_path)


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


def test_each_of_them_changes_what_is_learned(tiny_run, tmp_path, parts):
    a, b, classes = parts
    half = torch.zeros(64, 64)
    half[:, 32:] = 1
    sets = {
        "plain": join_datasets([(a, 1), (b, 1)]),
        "weighted": join_datasets([(a, 1), (b, 0.5)]),
        "masked": join_datasets([(with_masks(a, half), 1), (b, 1)]),
        "with class images": with_class_images(join_datasets([(a, 1), (b, 1)]), classes),
    }
    learned = {name: weights(tiny_run, tmp_path / name, dataset) for name, dataset in sets.items()}
    assert not any(same(learned["plain"], learned[name]) for name in sets if name != "plain")
    # full masks and weights of 1 are as good as none
    full = join_datasets([(with_masks(a, torch.ones(8, 8)), 1.0), (with_masks(b, torch.ones(8, 8)), 1)])
    assert same(learned["plain"], weights(tiny_run, tmp_path / "full", full))


@pytest.mark.parametrize("stop", [1, 3])
def test_a_stopped_run_goes_on_bit_for_bit(tiny_run, tmp_path, parts, stop):
    dataset = everything(parts)
    values = {"steps": 6, "batch_size": 2, "run": {"save_every": 0, "gradient_accumulation": 2}}
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = tiny_run.run_tiny(tmp_path / "whole", dataset=dataset, **values)
    with pytest.raises(CancelledError):
        tiny_run.run_tiny(tmp_path / "parts", tiny_run.StopAfter(stop), dataset=dataset, **values)
    resumed = tiny_run.run_tiny(tmp_path / "parts", dataset=dataset, **values)
    assert resumed.resumed_from == stop
    assert whole.lora_path.read_bytes() == resumed.lora_path.read_bytes()


def test_without_prior_preservation_class_images_change_nothing(tiny_run, tmp_path, parts):
    a, _, classes = parts
    plain = weights(tiny_run, tmp_path / "plain", a, "off")
    assert same(plain, weights(tiny_run, tmp_path / "kept", with_class_images(a, classes), "off"))
