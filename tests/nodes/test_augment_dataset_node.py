"""AugmentDataset called as ComfyUI calls it: widgets are the settings, sheet and report show the variants."""

import dataclasses

import pytest
import torch


@pytest.fixture
def dataset(example_folder):
    from sdxl_trainer.trainer.config import DatasetConfig
    from sdxl_trainer.trainer.data.dataset import load_dataset

    return load_dataset(example_folder, DatasetConfig(resolution=128, trigger="zorp"))


def widgets_of(node):
    groups = node.INPUT_TYPES()
    listed = groups.get("required", {}) | groups.get("optional", {})
    return {name: options[0] for name, (_, *options) in listed.items() if name != "dataset"}


def test_widgets_are_the_settings_and_go_as_far():
    from sdxl_trainer.nodes.augment_dataset import AugmentDataset
    from sdxl_trainer.trainer.errors import InputError
    from sdxl_trainer.trainer.settings.augment_config import AugmentConfig

    fields = {field.name: field.default for field in dataclasses.fields(AugmentConfig)}
    widgets = widgets_of(AugmentDataset)
    assert {name: options["default"] for name, options in widgets.items()} == fields
    for name, options in widgets.items():
        for end, beyond in (("min", -1), ("max", 1)):
            if end in options:
                AugmentConfig(**{name: options[end]})
                with pytest.raises(InputError, match=name):
                    AugmentConfig(**{name: options[end] + beyond})


def test_the_node_gives_the_dataset_a_sheet_and_a_report(dataset):
    from sdxl_trainer.nodes.augment_dataset import AugmentDataset
    from sdxl_trainer.trainer.data.augmented_dataset import with_augmentation
    from sdxl_trainer.trainer.settings.augment_config import AugmentConfig

    with torch.inference_mode():
        augmented, sheet, report = AugmentDataset.execute(dataset, flip=0.5, rotation=5.0).args
    assert augmented == with_augmentation(dataset, AugmentConfig(flip=0.5, rotation=5.0))
    assert sheet.ndim == 4 and sheet.shape[0] == 1 and sheet.shape[-1] == 3
    assert sheet.min() >= 0 and sheet.max() <= 1 and sheet.std() > 0.05
    assert report.startswith("Augmented: 12 pictures x 4 variants; the first is the picture as it is.")
    assert "Dataset 'example_dataset': 12 pictures in use." in report
