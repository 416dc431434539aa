"""The pictures that a command line asks for: folders, masks, caption variants, looks, and how they join."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image
from sdxl_trainer.trainer.chosen_pictures import load_pictures, native_resolution
from sdxl_trainer.trainer.chosen_settings import choose_settings
from sdxl_trainer.trainer.command_line import build_parser
from sdxl_trainer.trainer.config import AugmentConfig, CaptionVariantsConfig, HubConfig
from sdxl_trainer.trainer.errors import CancelledError, InputError
from sdxl_trainer.trainer.events import SilentListener
from sdxl_trainer.trainer.hub.hub_dataset import HubManifest, hub_folder
from sdxl_trainer.trainer.terminal import TerminalListener


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


def test_the_config_of_a_run_brings_looks_and_captions_back(folders, tiny_run):
    made = load(folders, "--augment", "2", "--caption-variants", "3", "--set", "dataset.repeats=2")
    tiny_run.run_tiny(folders, dataset=made, steps=1)
    again = load(folders, "--config", str(folders / "runs" / "cat" / "config.json"))
    assert (again.augment, again.caption_variants) == (made.augment, made.caption_variants)
    assert again.fingerprint == made.fingerprint


@pytest.mark.parametrize("section", ["augment", "caption_variants", "hub"])
def test_an_unknown_setting_of_a_config_file_is_named(folders, section):
    (folders / "config.json").write_text(json.dumps({"settings": {}, section: {"colour": 1}}), "utf-8")
    with pytest.raises(InputError, match=f"{section} settings: colour unknown"):
        load(folders, "--config", str(folders / "config.json"))


@pytest.mark.parametrize(
    ("section", "value", "sentence"),
    [
        ("dataset", {"resolution": "64"}, "resolution is '64', but must be a whole number"),
        ("dataset", {"trigger": 5}, "trigger is 5, but must be a text"),
        ("dataset", {"flip": 1}, "flip is 1, but must be true or false"),
        ("augment", {"rotation": None}, "rotation is None, but must be a number"),
        ("hub", {"repository": ["a/b"]}, "repository is \\['a/b'\\], but must be a text"),
    ],
)
def test_a_value_of_another_type_is_named(folders, section, value, sentence):
    (folders / "config.json").write_text(json.dumps({"settings": {}, section: value}), "utf-8")
    with pytest.raises(InputError, match=f"^config 'config.json': {section} settings: {sentence}$"):
        load(folders, "--config", str(folders / "config.json"))


def test_a_whole_number_will_do_for_a_share(folders):
    (folders / "config.json").write_text(json.dumps({"settings": {}, "augment": {"flip": 1}}), "utf-8")
    assert load(folders, "--config", str(folders / "config.json")).augment == AugmentConfig(flip=1)


def test_ctrl_c_ends_the_reading_of_pictures(folders):
    options = build_parser().parse_args(["--data", str(folders / "cats")])
    listener = TerminalListener()
    listener.stop()
    with pytest.raises(CancelledError):
        load_pictures(options, choose_settings(options).pictures, listener)
    listener.close()


def test_a_fetched_dataset_keeps_its_captions_whatever_column_the_folders_have(folders):
    """It is there already, so that neither network nor library is needed."""
    config = HubConfig(repository="somebody/pots")
    place = hub_folder(config, folders / "out" / "hub_datasets")
    shutil.copytree(folders / "dogs", place, ignore=shutil.ignore_patterns("*.txt"))
    table = [json.dumps({"file_name": f"{number}.png", "text": f"pot {number}"}) for number in range(2)]
    (place / "metadata.jsonl").write_text("\n".join(table), "utf-8")
    known = HubManifest(
        {name: value for name, value in asdict(config).items() if name != "streaming"},
        *("somebody/pots", "c0ffee", "default", "train", "image", "text", ""),
        finished=True,
    )
    (place / ".hub_dataset.json").write_text(json.dumps(asdict(known)), "utf-8")
    dataset = load(folders, "--hub", "somebody/pots", "--set", "dataset.caption_column=words")
    captions = [picture.captions for picture in dataset.pictures if picture.name.startswith("default-train/")]
    assert captions == [("pot 0",), ("pot 1",)]


def test_a_hub_dataset_may_be_named_as_any_setting():
    chosen = choose_settings(build_parser().parse_args(["--set", "hub.repository=somebody/pots"]))
    assert (chosen.widgets.name, chosen.pictures.hub) == ("pots", HubConfig(repository="somebody/pots"))


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
