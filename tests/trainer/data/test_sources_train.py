"""Every layout of a folder and every source of pictures trains, under the captions and masks it gives."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.augmented_dataset import with_augmentation
from sdxl_trainer.trainer.data.caption_variants import with_caption_variants
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.data.dataset_report import describe
from sdxl_trainer.trainer.data.dataset_sets import join_datasets, with_class_images, with_masks
from sdxl_trainer.trainer.data.given_pictures import given_dataset
from sdxl_trainer.trainer.settings.augment_config import AugmentConfig
from sdxl_trainer.trainer.settings.caption_variants_config import CaptionVariantsConfig

STEPS = 2


def picture(path, seed=0, size=(64, 64), channels=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def fill(root, count=3, suffix="", captions=(), first=0):
    """Noise, with a caption file for each caption."""
    for index in range(count):
        picture(root / f"{index}.png", first + index)
    for index, caption in enumerate(captions):
        (root / f"{index}{suffix}").write_text(caption)
    return root


def load(root, **settings):
    return load_dataset(root, DatasetConfig(**{"resolution": 64, "bucket_step": 32, **settings}))


def prompt(root):
    return load(fill(root), prompt="a zorp")


def txt(root):
    return load(fill(root, 2, ".txt", ["one", "two"]), trigger="zorp")


def caption(root):
    return load(fill(root, 2, ".caption", ["one", "two"]))


def jsonl(root):
    rows = [{"file_name": f"{n}.png", "text": text} for n, text in enumerate(["one", ["two", "three"]])]
    (fill(root, 2) / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return load(root)


def csv(root):
    (fill(root, 2) / "metadata.csv").write_text('file_name,prompt\n0.png,one\n1.png,"two, three"\n')
    return load(root, caption_column="prompt")


def kohya(root):
    fill(root / "img" / "2_zorp woman" / "nested", 2)
    fill(root / "img" / "3_zorp in snow", 1, ".txt", ["own words"], first=5)
    fill(root / "reg" / "1_woman", 2, first=10)
    return with_class_images(load(root / "img"), load(root / "reg"))


def alpha(root):
    for index in range(2):
        picture(root / f"{index}.png", index, channels=4)
    return with_masks(load(root, prompt="a zorp"), "alpha")


def masklabel(root):
    fill(root, 2)
    picture(root / "0-masklabel.png", 7)
    return with_masks(load(root, prompt="a zorp"), "masklabel")


def graph(root):
    chance = torch.Generator().manual_seed(0)
    pictures = [torch.rand(64, width, 3, generator=chance) for width in (64, 96)]
    config = DatasetConfig(resolution=64, bucket_step=32)
    return given_dataset(pictures, ["one", "two"], config, [torch.rand(64, 64, generator=chance)])


def joined(root):
    first = load(fill(root / "a", 2), repeats=3, prompt="a zorp")
    return join_datasets([(first, 1.0), (load(fill(root / "b", 1, first=5), prompt="a blik"), 0.3)])


def classes(root):
    kept = load(fill(root / "class", 4, first=9), prompt="a dog")
    return with_class_images(load(fill(root / "own", 2), prompt="a zorp dog"), kept)


def augmented(root):
    return with_augmentation(load(fill(root, 2), prompt="a zorp"), AugmentConfig(flip=0.5, rotation=5))


def varied(root):
    dataset = load(fill(root, 1, ".txt", ["zorp, a, {b|c}"]))
    return with_caption_variants(dataset, CaptionVariantsConfig(wildcards=True, num_variants=60))


SOURCES = {
    prompt: {"a zorp"},
    txt: {"zorp, one", "zorp, two"},
    caption: {"one", "two"},
    jsonl: {"one", "two", "three"},
    csv: {"one", "two, three"},
    kohya: {"zorp woman", "own words", "woman"},
    alpha: {"a zorp"},
    masklabel: {"a zorp"},
    graph: {"one", "two"},
    joined: {"a zorp", "a blik"},
    classes: {"a zorp dog", "a dog"},
    augmented: {"a zorp"},
    varied: {"zorp, a, b", "zorp, b, a", "zorp, a, c", "zorp, c, a"},
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_each_source_trains_under_its_captions(tiny_run, tmp_path, source):
    dataset = source(tmp_path / "pictures")
    model, listener = tiny_run.TinyModel(), tiny_run.StopAfter()
    result = tiny_run.run_tiny(tmp_path, listener, model, dataset=dataset, steps=STEPS, batch_size=2)
    assert set(model.encoded_captions) - {""} == SOURCES[source]
    sets = [dataset, *filter(None, [dataset.class_set])]
    assert model.encoded_pictures == sum(len(ways) for one in sets for ways in one.variants)
    assert len(listener.losses) == STEPS and all(map(math.isfinite, listener.losses))
    learned = [tensor for name, tensor in load_file(result.lora_path).items() if "lora_up" in name]
    assert learned and all(tensor.abs().max() > 0 for tensor in learned)
    assert dataset.has_masks == (source in (alpha, masklabel, graph))


def test_a_kohya_tree_counts_its_steps_as_kohya_does(tmp_path):
    fill(tmp_path / "img" / "20_name woman", 10)
    dataset = load(tmp_path / "img")
    assert {picture.captions for picture in dataset.pictures} == {("name woman",)}
    assert "10 pictures x 20 repeats / batch 4 = 50 steps an epoch." in describe(dataset, batch_size=4)
    assert 20 * dataset.steps_per_epoch(4) == 1000
