"""The pictures that a command line asks for: folders, masks, caption variants, looks, and how they join."""

import json

import numpy as np
import pytest
from PIL import Image
from sdxl_trainer.trainer.chosen_pictures import load_pictures, native_resolution
from sdxl_trainer.trainer.chosen_settings import choose_settings
from sdxl_trainer.trainer.command_line import build_parser
from sdxl_trainer.trainer.config import AugmentConfig, CaptionVariantsConfig
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.events import SilentListener


@pytest.fixture
def folders(tmp_path):
    for name, color in (("cats", "red"), ("dogs", "blue")):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(2):
            pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text(f"{name}, {color}, soft, small", "utf-8")
    return tmp_path


def load(folders, *flags):
    given = ["--data", str(folders / "cats"), "--resolution", "64", "--output", str(folders / "out"), *flags]
    options = build_parser().parse_args(given)
    return load_pictures(options, choose_settings(options).pictures, SilentListener())


def test_several_folders_are_joined_with_their_weights(folders):
    dataset = load(
        folders, "--data", str(folders / "cats"), str(folders / "dogs"), "--loss-weights", "1", "0.5"
    )
    assert [picture.loss_weight for picture in dataset.pictures] == [1, 1, 0.5, 0.5]
    assert {picture.name.split("/")[0] for picture in dataset.pictures} == {"cats", "dogs"}


def test_a_weight_alone_counts_too(folders):
    assert {picture.loss_weight for picture in load(folders, "--loss-weights", "0.5").pictures} == {0.5}


def test_weights_that_do_not_match_the_folders_are_refused(folders):
    with pytest.raises(InputError, match="2 numbers, but there are 1 datasets"):
        load(folders, "--loss-weights", "1", "2")


def test_looks_and_caption_variants_are_made_where_wanted(folders):
    plain = load(folders)
    assert plain.augment is plain.caption_variants is None
    made = load(folders, "--augment", "3", "--caption-variants", "5", "--set", "augment.flip=0.5")
    assert made.augment == AugmentConfig(variants_per_picture=3, flip=0.5)
    assert made.caption_variants == CaptionVariantsConfig(num_variants=5)
    assert {len(ways) for ways in made.variants} == {3}
    assert {len(picture.captions) for picture in made.pictures} == {5}


def test_masks_come_from_files_of_their_own(folders):
    Image.new("L", (64, 64), 128).save(folders / "cats" / "0-masklabel.png")
    dataset = load(folders, "--masks", "masklabel")
    assert [picture.has_mask for picture in dataset.pictures] == [True, False]


def test_a_config_file_brings_looks_and_captions_back(folders):
    saved = {"settings": {}, "augment": {"hue": 0.02}, "caption_variants": {"shuffle": False, "prefix": "a"}}
    (folders / "config.json").write_text(json.dumps(saved), "utf-8")
    dataset = load(folders, "--config", str(folders / "config.json"), "--augment", "2")
    assert dataset.augment == AugmentConfig(hue=0.02, variants_per_picture=2)
    assert dataset.pictures[0].shown_captions == ("a cats, red, soft, small",)


@pytest.mark.parametrize("section", ["augment", "caption_variants", "hub"])
def test_an_unknown_setting_of_a_config_file_is_named(folders, section):
    (folders / "config.json").write_text(json.dumps({"settings": {}, section: {"colour": 1}}), "utf-8")
    with pytest.raises(InputError, match=f"{section} settings: colour unknown"):
        load(folders, "--config", str(folders / "config.json"))


def test_without_a_folder_and_a_hub_dataset_there_is_nothing_to_do():
    with pytest.raises(InputError, match="--data, or a dataset with --hub"):
        choose_settings(build_parser().parse_args([]))


def test_a_hub_dataset_gives_the_run_its_name():
    chosen = choose_settings(
        build_parser().parse_args(["--hub", "somebody/pots", "--set", "hub.max_pictures=9"])
    )
    assert chosen.widgets.name == "pots"
    assert (chosen.pictures.hub.repository, chosen.pictures.hub.max_pictures) == ("somebody/pots", 9)


def test_native_resolution_is_read_from_a_folder(stand_in_folder, tmp_path):
    assert native_resolution(stand_in_folder) == 128
    assert native_resolution(tmp_path / "sdxl.safetensors") == 1024
