"""CaptionVariants called as ComfyUI calls it: widgets that equal its settings, and what it gives out."""

import dataclasses
import shutil

import pytest


@pytest.fixture
def dataset(tmp_path, example_folder):
    from sdxl_trainer.trainer.config import DatasetConfig
    from sdxl_trainer.trainer.data.dataset import load_dataset

    folder = shutil.copytree(example_folder, tmp_path / "zorp")
    return load_dataset(folder, DatasetConfig(resolution=128, trigger="zorp"))


def widgets():
    from sdxl_trainer.nodes.caption_variants import CaptionVariants

    types = CaptionVariants.INPUT_TYPES()
    listed = types.get("required", {}) | types.get("optional", {})
    return {name: options[0] for name, (_, *options) in listed.items() if name != "dataset"}


def test_its_widgets_are_all_the_settings_and_go_as_far():
    from sdxl_trainer.trainer.errors import InputError
    from sdxl_trainer.trainer.settings.caption_variants_config import CaptionVariantsConfig

    fields = {field.name: field.default for field in dataclasses.fields(CaptionVariantsConfig)}
    assert {name: options["default"] for name, options in widgets().items()} == fields
    for name, options in widgets().items():
        for end, step in (("min", -1), ("max", 1)):
            if end in options:
                CaptionVariantsConfig(**{name: options[end]})
                with pytest.raises(InputError, match=name):
                    CaptionVariantsConfig(**{name: options[end] + step})


def test_it_gives_out_variants_the_captions_and_what_they_cost(dataset):
    from sdxl_trainer.nodes.caption_variants import CaptionVariants

    made, captions, report = CaptionVariants.execute(dataset=dataset, tag_dropout=0.2, num_variants=5).args
    assert made.caption_variants.num_variants == 5 and made.pictures[0].plain_captions
    assert captions.startswith(f"{made.pictures[0].name}\n  {made.pictures[0].captions[0]}\n")
    assert f"{len(dataset.pictures)} pictures" in report and "MiB in half precision" in report
    assert CaptionVariants.execute(dataset=dataset).args[0].fingerprint != made.fingerprint


def test_it_refuses_what_are_variants_already(dataset):
    from sdxl_trainer.nodes.caption_variants import CaptionVariants
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match="are variants already"):
        CaptionVariants.execute(dataset=CaptionVariants.execute(dataset=dataset).args[0])
