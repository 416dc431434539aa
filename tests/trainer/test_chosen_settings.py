"""Flags, --set, --config and preset; whole runs of the command line are in test_main.py."""

import json

import pytest
from safetensors.torch import save_file
from sdxl_trainer.trainer.chosen_pictures import ChosenPictures
from sdxl_trainer.trainer.chosen_settings import FLAGS, choose_settings
from sdxl_trainer.trainer.command_line import build_parser
from sdxl_trainer.trainer.config import LoRAConfig, NoiseConfig, RunConfig, TrainConfig
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.metadata import SETTINGS_KEY
from sdxl_trainer.trainer.settings.presets import PRESETS, Settings


def chosen(*arguments):
    return choose_settings(build_parser().parse_args(["--data", "cats", *map(str, arguments)]))


def test_without_flags_the_preset_decides():
    choice = chosen()
    assert choice.preset == "object"
    assert choice.settings == Settings()
    assert choice.pictures == ChosenPictures()
    widgets = choice.widgets
    assert (widgets.name, widgets.steps, widgets.batch_size, widgets.seed) == ("cats", 0, 0, 42)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_chosen(preset):
    choice = chosen("--preset", preset, "--save-every", 7)
    assert choice.settings.run.save_every == 7
    assert choice.settings.run.gradient_accumulation == PRESETS[preset].run.gradient_accumulation
    assert choice.precision == PRESETS[preset].run.precision == chosen("--preset", preset).precision


@pytest.mark.parametrize(
    ("flags", "place", "value"),
    [
        (("--optimizer", "lion"), ("optimizer", "optimizer"), "lion"),
        (("--schedule", "cosine"), ("optimizer", "lr_schedule"), "cosine"),
        (("--adapter", "dora"), ("lora", "adapter"), "dora"),
        (("--accumulation", 4), ("run", "gradient_accumulation"), 4),
        (("--save-every", 0), ("run", "save_every"), 0),
        (("--precision", "bf16"), ("run", "precision"), "bf16"),
        (("--validation-share", 0.2), ("validation", "validation_share"), 0.2),
        (("--preview-every", 50), ("preview", "preview_every"), 50),
        (("--prior-loss-weight", 0.5), ("prior", "prior_loss_weight"), 0.5),
        (("--prompts", "a cat", "a dog"), ("preview", "prompts"), "a cat\na dog"),
        (("--train-text-encoder", "both"), ("text_encoder", "train_text_encoder"), "both"),
        (("--set", "pivotal.bundle=on"), ("pivotal", "bundle"), True),
        (("--set", "noise.noise_offset=0.05"), ("noise", "noise_offset"), 0.05),
    ],
)
def test_a_flag_changes_its_setting_and_no_other(flags, place, value):
    section, field = place
    settings = chosen(*flags).settings
    assert getattr(getattr(settings, section), field) == value
    assert [name for name in Settings.__slots__ if getattr(settings, name) is not None] == [section]


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (("--resolution", 512), "resolution", 512),
        (("--trigger", "mia"), "trigger", "mia"),
        (("--prompt", "a cat"), "prompt", "a cat"),
        (("--repeats", 3), "repeats", 3),
        (("--flip",), "flip", True),
        (("--set", "dataset.crop=random"), "crop", "random"),
    ],
)
def test_flags_of_the_pictures(flags, field, value):
    assert chosen(*flags).pictures.dataset == {field: value}
    assert getattr(chosen(*flags).pictures.dataset_config(1024), field) == value


def test_every_flag_that_stands_for_a_setting_names_one():
    parsed = vars(build_parser().parse_args(["--data", "cats"]))
    assert all(parsed[flag] is None for flag in FLAGS)


@pytest.mark.parametrize(("native", "step"), [(1024, 64), (128, 32)])
def test_small_models_get_small_buckets(native, step):
    assert chosen().pictures.dataset_config(native).resolution == native
    assert chosen().pictures.dataset_config(native).bucket_step == step
    assert chosen("--set", "dataset.bucket_step=128").pictures.dataset_config(native).bucket_step == 128


def test_another_optimizer_gets_its_own_rate_unless_one_is_given():
    assert chosen("--optimizer", "prodigy").settings.optimizer.effective_learning_rate == 1.0
    assert chosen("--set", "optimizer.optimizer=sgd").settings.optimizer.effective_learning_rate == 0.1
    given = chosen("--optimizer", "lion", "--set", "optimizer.learning_rate=3e-5").settings.optimizer
    assert given.effective_learning_rate == 3e-5
    assert chosen("--optimizer", "adamw").settings.optimizer.learning_rate == 1e-4


def test_another_optimizer_gets_its_own_rates_for_the_text_encoders_too(tmp_path):
    flags = ("--preset", "green_chair", "--set", "text_encoder.stop_fraction=0.5")
    assert chosen(*flags).settings.text_encoder.clip_l_learning_rate == 5e-6
    text = chosen(*flags, "--optimizer", "prodigy").settings.text_encoder
    assert (text.train_text_encoder, text.clip_l_learning_rate, text.clip_g_learning_rate) == ("both", 0, 0)
    file = written(tmp_path / "a.json", {"text_encoder": {"clip_g_learning_rate": 1e-5}})
    assert chosen("--config", file).settings.text_encoder.clip_g_learning_rate == 1e-5
    assert chosen("--config", file, "--optimizer", "lion").settings.text_encoder.clip_g_learning_rate == 0
    given = ("--set", "text_encoder.clip_g_learning_rate=1")
    assert chosen(*flags, *given, "--optimizer", "prodigy").settings.text_encoder.clip_g_learning_rate == 1


def test_flags_of_new_words_reach_the_widgets():
    widgets = chosen("--token", "TOK", "--new-tokens", 3, "--ti-fraction", 0.25).widgets
    assert (widgets.token, widgets.new_tokens, widgets.ti_fraction) == ("TOK", 3, 0.25)
    assert (chosen().widgets.token, chosen().widgets.new_tokens, chosen().widgets.ti_fraction) == ("", 0, 0)


def test_a_class_prompt_alone_lets_the_base_model_keep_the_class():
    prior = chosen("--class-prompt", "a photo of a dog").settings.prior
    assert (prior.prior_preservation, prior.class_prompt) == ("base_model", "a photo of a dog")
    assert chosen("--class-prompt", "a photo of a dog", "--class-data", "dogs").settings.prior is None


def test_class_images_need_a_folder():
    with pytest.raises(InputError, match="--class-data"):
        chosen("--num-class-images", 100, "--class-prompt", "a dog")


@pytest.fixture
def config():
    return TrainConfig(
        name="mia",
        steps=900,
        batch_size=3,
        seed=7,
        lora=LoRAConfig(rank=5, adapter="loha"),
        noise=NoiseConfig(noise_offset=0.05),
        run=RunConfig(save_every=33),
    )


def written(path, content):
    path.write_text(json.dumps(content), "utf-8")
    return path


@pytest.mark.parametrize("form", ["plain", "config.json", "metadata", "lora"])
def test_a_whole_config_is_taken_from_any_of_its_forms(tmp_path, config, form):
    values, path = config.to_json(), tmp_path / "config.json"
    dataset = {"dataset": {"resolution": 512, "flip": True}}
    if form == "lora":
        path = tmp_path / "mia.safetensors"
        save_file({}, path, {SETTINGS_KEY: json.dumps({"train": values, **dataset})})
    else:
        key = {"plain": None, "config.json": "settings", "metadata": "train"}[form]
        written(path, {key: values, **dataset} if key else {**values, **dataset})
    choice = chosen("--config", path)
    assert choice.settings.lora == config.lora
    assert choice.settings.noise == config.noise
    assert choice.precision == "auto"
    assert (choice.widgets.steps, choice.widgets.batch_size, choice.widgets.seed) == (900, 3, 7)
    assert choice.widgets.name == "cats"
    assert choice.pictures.dataset["resolution"] == 512
    assert choice.pictures.dataset_config(1024).flip


def test_a_file_may_hold_a_few_settings_alone(tmp_path):
    choice = chosen("--config", written(tmp_path / "a.json", {"lora": {"rank": 6}}), "--preset", "style")
    assert choice.settings == Settings(lora=LoRAConfig(rank=6))
    assert (choice.widgets.steps, choice.widgets.batch_size, choice.widgets.seed) == (0, 0, 42)


def test_flags_beat_set_and_set_beats_the_file(tmp_path, config):
    path = written(tmp_path / "a.json", config.to_json())
    run = chosen("--config", path, "--set", "run.save_every=44").settings.run
    assert run.save_every == 44
    both = chosen(
        "--config", path, "--set", "run.save_every=44", "--save-every", 55, "--seed", 0, "--epochs", 2
    )
    assert both.settings.run.save_every == 55
    assert (both.widgets.seed, both.widgets.steps, both.widgets.epochs) == (0, 0, 2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "holds no settings"),
        ('{"lora": {"rnak": 4}}', "rnak unknown"),
        ('{"rank": 4}', "rank unknown"),
        ('{"lora": {"rank": "four"}}', "rank is 'four'"),
        ('{"lora": 4}', "another type"),
        ('{"dataset": {"colour": 4}}', "colour unknown"),
    ],
)
def test_a_file_that_is_none_is_refused_in_words(tmp_path, content, said):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError, match=said) as refused:
        chosen("--config", path)
    assert "a.json" in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


def test_a_file_that_is_not_there_is_refused_in_words(tmp_path):
    with pytest.raises(InputError, match=r"config 'b\.json' cannot be read"):
        chosen("--config", tmp_path / "b.json")
