"""ImagesToDataset called with lists, as ComfyUI calls a node that takes lists."""

import dataclasses

import pytest
import torch


@pytest.fixture
def gather():
    """ImagesToDataset.execute; widgets come as lists of one."""
    from sdxl_trainer.nodes.images_to_dataset import FIELDS, ImagesToDataset
    from sdxl_trainer.trainer.config import DatasetConfig

    values = dataclasses.asdict(DatasetConfig(resolution=128, trigger="zorp"))
    widgets = {name: [values[name]] for name in FIELDS}

    def call(**changes):
        with torch.inference_mode():
            return ImagesToDataset.execute(**{**widgets, **changes}).args

    return call


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_batches_and_single_pictures_become_one_dataset(gather):
    images = [noise(2, 128, 128, 3), noise(1, 64, 200, 3), noise(64, 64, 3)]
    dataset, sheet, report, count = gather(images=images, captions=["a zorp", "b", "", "d"])
    assert count == 4 and sheet.ndim == 4 and sheet.shape[-1] == 3
    assert [p.captions for p in dataset.pictures] == [("a zorp",), ("zorp, b",), ("zorp",), ("zorp, d",)]
    assert dataset.load_pixels(dataset.variants[0][0]).shape == (3, 128, 128)
    assert "4 pictures in use" in report and "image 0003" in report


@pytest.mark.parametrize("captions", [None, [None], [], ()])
def test_captions_and_masks_may_be_left_out(gather, captions):
    dataset = gather(images=[noise(2, 64, 64, 3)], captions=captions, mask=captions)[0]
    assert {p.captions for p in dataset.pictures} == {("zorp",)} and not dataset.has_masks


def test_a_list_in_one_value_counts_as_a_list(gather):
    dataset = gather(images=[noise(2, 64, 64, 3)], captions=[["a zorp", "a zorp too"]])[0]
    assert [p.captions for p in dataset.pictures] == [("a zorp",), ("a zorp too",)]


def test_masks_of_several_sizes(gather):
    mask = [torch.ones(1, 16, 16), torch.zeros(8, 8)]
    dataset, _, report, count = gather(images=[noise(1, 64, 64, 3)] * 2, mask=mask)
    means = [float(dataset.load_mask(variants[0]).mean()) for variants in dataset.variants]
    assert means == [1.0, 0.0] and count == 2
    assert "image 0002 has a mask that leaves nothing in" in report


def test_every_widget_reaches_the_dataset(gather):
    from sdxl_trainer.nodes.images_to_dataset import FIELDS

    changes = {
        "trigger": "blik", "resolution": 256, "repeats": 3, "crop": "random", "flip": True, "upscale": True,
        "background": "#ff0000", "bucket_step": 32,
    }  # fmt: skip
    assert changes.keys() == set(FIELDS)
    dataset = gather(images=[noise(1, 64, 64, 4)], **{name: [value] for name, value in changes.items()})[0]
    assert {name: getattr(dataset.config, name) for name in FIELDS} == changes
