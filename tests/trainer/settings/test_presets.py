import dataclasses
import sys
from pathlib import Path

import pytest
from sdxl_trainer.trainer.config import (
    SECTIONS,
    DatasetConfig,
    LoRAConfig,
    NoiseConfig,
    OptimizerConfig,
    PivotalConfig,
    PreviewConfig,
    PriorConfig,
    RunConfig,
    TextEncoderConfig,
    TrainConfig,
    ValidationConfig,
)
from sdxl_trainer.trainer.data.training_set import Picture, TrainingSet, Variant
from sdxl_trainer.trainer.diffusion.noise_schedule import NoiseSchedule
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.runs.combinations import check_combinations
from sdxl_trainer.trainer.settings.part_rates import part_optimizer, part_window, text_end_step
from sdxl_trainer.trainer.settings.presets import (
    PRESETS,
    Settings,
    Widgets,
    chosen_values,
    explain,
    find_preset,
    prepared,
    resolve,
)

GENERAL = ["person", "character", "style", "object"]
RECIPES = ["tutorial", "old_book_style", "green_chair", "huggy", "web_style", "face", "kohya_avatar"]


def pictures(number, repeats=1, num_wide=0):
    """A dataset of which only the counts and buckets matter; no file is behind it."""
    shapes = [(1216, 832) if index < num_wide else (1024, 1024) for index in range(number)]
    return TrainingSet(
        pictures=tuple(
            Picture(Path(f"{i}.png"), f"{i}.png", *size, ("a caption",), "file", repeats, f"{i:064x}")
            for i, size in enumerate(shapes)
        ),
        config=DatasetConfig(repeats=repeats),
        notes=(),
        variants=tuple((Variant(i, size, 0, 0, size, False),) for i, size in enumerate(shapes)),
        fingerprint="none",
        root_name="pictures",
    )


def resolved(preset, dataset, settings=None, **widgets):
    return resolve(preset, Widgets(name="x", **widgets), settings or Settings(), dataset)


def explained(preset, dataset, settings=None, **widgets):
    return explain(preset, Widgets(name="x", **widgets), settings or Settings(), dataset)


def test_the_presets_are_there_and_cannot_be_changed():
    assert list(PRESETS) == GENERAL + RECIPES
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["person"].batch_size = 3
    with pytest.raises(TypeError):
        PRESETS["person"] = PRESETS["style"]
    for preset in PRESETS.values():
        assert f"rank {preset.lora.rank}" in preset.summary
        assert "\n" not in preset.summary


@pytest.mark.parametrize("kind", ["settings", "preset"])
def test_every_section_of_a_run_has_its_place(kind):
    names = {
        field.name for field in dataclasses.fields(Settings if kind == "settings" else PRESETS["person"])
    }
    assert set(SECTIONS) <= names


@pytest.mark.parametrize("preset", GENERAL)
def test_the_four_general_presets_set_rank_schedule_and_length_alone(preset):
    recipe, usual = PRESETS[preset], TrainConfig(name="x", steps=1)
    assert recipe.lora == LoRAConfig(rank={"style": 32}.get(preset, 16))
    schedule = "cosine" if preset in ("style", "character") else "constant_with_warmup"
    assert recipe.optimizer == OptimizerConfig(learning_rate=1e-4, lr_schedule=schedule)
    assert recipe.batch_size == 1
    for section in set(SECTIONS) - {"lora", "optimizer"}:
        assert getattr(recipe, section) == getattr(usual, section)


@pytest.mark.parametrize("token", ["", "TOK"])
@pytest.mark.parametrize("preset", PRESETS)
def test_in_every_preset_all_settings_go_together_and_do_something(preset, token):
    dataset = pictures(10)
    assert check_combinations(resolved(preset, dataset, token=token), dataset, NoiseSchedule.sdxl()) == []


def test_preset_gives_every_value_that_is_not_set():
    config = resolved("style", pictures(40))
    assert (config.lora.rank, config.optimizer.lr_schedule, config.steps) == (32, "cosine", 2000)


def test_settings_beat_the_preset_and_widgets_beat_both():
    settings = Settings(lora=LoRAConfig(rank=4, alpha=2), optimizer=OptimizerConfig(learning_rate=3e-4))
    config = resolved("style", pictures(40), settings, rank=8)
    assert (config.lora.rank, config.lora.alpha) == (8, 2)
    assert config.optimizer.learning_rate == 3e-4
    config = resolved("style", pictures(40), settings, learning_rate=5e-4, alpha=6, targets="attention")
    assert (config.lora.rank, config.lora.alpha, config.optimizer.learning_rate) == (4, 6, 5e-4)
    assert config.lora.targets == "attention"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_settings_socket_replaces_the_whole_section(section):
    plugged = {
        "lora": {"rank": 3},
        "optimizer": {"beta1": 0.5},
        "schedule": {"power": 2.0},
        "prodigy": {"d_coef": 0.5},
        "objective": {"caption_dropout": 0.1},
        "noise": {"noise_offset": 0.05},
        "prior": {"prior_loss_weight": 0.5},
        "preview": {"prompts": "a cat"},
        "validation": {"early_stop_patience": 3},
        "run": {"keep_last": 2},
        "logging": {"project": "cats"},
        "text_encoder": {"stop_fraction": 0.5},
        "pivotal": {"token": "TOK"},
    }[section]
    value = SECTIONS[section](**plugged)
    config = resolved("kohya_avatar", pictures(10), Settings(**{section: value}))
    assert getattr(config, section) == value
    untouched = resolved("kohya_avatar", pictures(10))
    for other in set(SECTIONS) - {section}:
        assert getattr(config, other) == getattr(untouched, other)
    lines = explained("kohya_avatar", pictures(10), Settings(**{section: value}))
    origin = f"({'LoRA' if section == 'lora' else section.replace('_', ' ')} settings)"
    (name,) = plugged
    assert any(line.endswith(origin) and name.split("_")[0] in line for line in lines)


@pytest.mark.parametrize(
    ("values", "number", "steps"),
    [
        ({"steps": 7, "epochs": 3}, 10, 7),
        ({"epochs": 3}, 10, 30),
        ({"epochs": 3, "batch_size": 4}, 10, 9),
        ({}, 10, 1100),
        ({}, 1, 600),
        ({}, 1000, 2500),
        ({"batch_size": 4}, 10, 275),
    ],
)
def test_steps_come_from_the_widget_else_from_epochs_else_from_the_pictures(values, number, steps):
    assert resolved("person", pictures(number), **values).steps == steps


def test_accumulation_counts_as_a_larger_batch():
    settings = Settings(run=RunConfig(gradient_accumulation=2))
    assert resolved("person", pictures(10), settings).steps == 550
    assert resolved("person", pictures(10), settings, epochs=3).steps == 15


def test_held_out_pictures_are_not_counted():
    settings = Settings(validation=ValidationConfig(validation_share=0.2))
    assert resolved("person", pictures(10), settings).steps == 8 * 110
    assert resolved("person", pictures(10), settings, epochs=3).steps == 24


def test_epochs_are_those_the_dataset_makes_of_its_buckets():
    dataset = pictures(10, repeats=2, num_wide=3)  # 6 and 14 samples: 2 and 4 batches of 4
    steps = resolved("person", dataset, epochs=5, batch_size=4).steps
    assert steps == 5 * dataset.steps_per_epoch(4) == 30
    (line,) = [line for line in explained("person", dataset, epochs=5, batch_size=4) if "steps 30" in line]
    assert (
        line
        == "steps 30 (node: 10 pictures x 2 repeats in 2 buckets / batch 4 = 6 steps an epoch x 5 epochs)"
    )


# the guides' own figures: pictures, then what comes out
@pytest.mark.parametrize(
    ("preset", "number", "steps", "arithmetic"),
    [
        ("tutorial", 24, 2400, "24 pictures / batch 1 = 24 steps an epoch x 100 epochs"),
        ("old_book_style", 40, 100, "40 pictures / batch 1 x 4 = 10 steps an epoch x 10 epochs"),
        ("green_chair", 5, 500, "x batch 1 x 4 / 5 pictures = each is seen 400 times"),
        ("huggy", 31, 1000, "x batch 4 / 31 pictures = each is seen 129 times"),
        ("web_style", 27, 1000, "x batch 4 / 27 pictures = each is seen 148 times"),
        ("face", 6, 720, "6 pictures x 120; the recipe tried x 75 = 450 and x 100 = 600 too"),
        ("kohya_avatar", 10, 1000, "10 pictures x 20 repeats / batch 4 = 50 steps an epoch x 20 epochs"),
    ],
)
def test_recipes_come_to_the_steps_of_their_guides(preset, number, steps, arithmetic):
    assert resolved(preset, pictures(number)).steps == steps
    assert f"steps {steps} (preset {preset}: {arithmetic})" in explained(preset, pictures(number))


def test_repeats_of_the_dataset_go_before_those_of_the_recipe():
    assert resolved("kohya_avatar", pictures(10, repeats=20)).steps == 10 * 20 // 4 * 20
    assert resolved("kohya_avatar", pictures(10, repeats=2)).steps == 10 * 2 // 4 * 20
    assert resolved("kohya_avatar", pictures(10), epochs=1).steps == 50


@pytest.mark.parametrize("preset", ["huggy", "web_style", "face"])
def test_recipes_of_the_advanced_script_use_prodigy_at_1(preset):
    recipe = PRESETS[preset]
    assert (recipe.optimizer.optimizer, recipe.optimizer.learning_rate) == ("prodigy", 1.0)
    assert (recipe.optimizer.lr_schedule, recipe.optimizer.warmup_steps) == ("constant", 0)
    assert (recipe.lora.rank, recipe.objective.min_snr_gamma) == (32, 5.0)
    assert recipe.lora.effective_alpha == 32
    assert recipe.needs == "prodigyopt"
    assert "pivotal tuning" in recipe.note
    config = resolved(preset, pictures(10), token="TOK")
    assert part_window(config, "tokens") == (0, round(config.steps / 2))
    assert part_window(config, "unet") == (0, config.steps)
    tokens = part_optimizer(config, "tokens")
    assert (tokens.optimizer, tokens.learning_rate, tokens.weight_decay) == ("prodigy", 1.0, 1e-4)
    assert config.pivotal.new_tokens == "2"
    assert not config.text_encoder.trained


# the rates of the scripts' own defaults, or the guide's
@pytest.mark.parametrize(
    ("preset", "rate", "weight_decay"),
    [("old_book_style", 1e-4, 1e-2), ("green_chair", 5e-6, 1e-3), ("kohya_avatar", 3e-4, 1e-2)],
)
def test_recipes_that_train_the_text_encoders_do_so_at_their_scripts_rates(preset, rate, weight_decay):
    config = resolved(preset, pictures(10))
    for part in ("clip_l", "clip_g"):
        optimizer = part_optimizer(config, part)
        assert (optimizer.learning_rate, optimizer.weight_decay) == (rate, weight_decay)
        assert part_window(config, part) == (0, config.steps)
    assert f"CLIP-G rate {rate:g} (preset {preset})" in explained(preset, pictures(10))
    assert "text encoders too" in PRESETS[preset].summary


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"old_book_style", "green_chair", "kohya_avatar"}))
def test_all_other_presets_leave_the_text_encoders_alone(preset):
    assert text_end_step(resolved(preset, pictures(10))) == 0
    assert "text encoders" not in PRESETS[preset].summary


def test_rates_of_a_preset_do_not_reach_another_optimizer():
    plugged = Settings(optimizer=OptimizerConfig(optimizer="prodigy"))
    config = resolved("green_chair", pictures(10), plugged)
    assert part_optimizer(config, "clip_l").learning_rate == 1.0
    assert config.text_encoder.weight_decay == 0.001
    lines = explained("green_chair", pictures(10), plugged)
    assert "CLIP-L rate 1 (same as the UNet's)" in lines
    own = dataclasses.replace(plugged, text_encoder=TextEncoderConfig(clip_l_learning_rate=5e-6))
    assert resolved("green_chair", pictures(10), own).text_encoder.clip_l_learning_rate == 5e-6


def test_without_a_token_nothing_of_pivotal_tuning_acts_and_the_recipe_says_so():
    for preset in ("huggy", "web_style", "face"):
        config = resolved(preset, pictures(10))
        assert config.pivotal == PivotalConfig()
        (note,) = [line for line in explained(preset, pictures(10)) if "Pivotal Tuning" in line]
        assert "--token" in note
        assert not any("Pivotal Tuning" in line for line in explained(preset, pictures(10), token="TOK"))
    assert not any("Pivotal Tuning" in line for line in explained("person", pictures(10)))


def test_token_widgets_beat_the_pivotal_settings():
    settings = Settings(pivotal=PivotalConfig(token="tok", new_tokens="4", norm_pull=0.5, learning_rate=1e-3))
    config = resolved("face", pictures(10), settings)
    assert config.pivotal == settings.pivotal
    widgets = {"token": "TOK", "new_tokens": 3, "ti_fraction": 0.25, "token_learning_rate": 2e-3}
    assert resolved("face", pictures(10), settings, **widgets).pivotal == dataclasses.replace(
        settings.pivotal, token="TOK", new_tokens="3", ti_fraction=0.25, learning_rate=2e-3
    )


def test_the_kohya_avatar_is_the_walk_throughs():
    config = resolved("kohya_avatar", pictures(10))
    assert (config.lora.rank, config.lora.alpha, config.lora.targets) == (64, 32, "attention+ff")
    assert (config.batch_size, config.optimizer.learning_rate) == (4, 3e-4)
    assert (config.run.precision, config.run.save_precision) == ("bf16", "bf16")
    assert "class images" in PRESETS["kohya_avatar"].note


@pytest.mark.parametrize("preset", ["tutorial", "old_book_style", "green_chair"])
def test_recipes_of_the_first_scripts_are_small_and_constant(preset):
    config = resolved(preset, pictures(10))
    assert (config.lora.rank, config.lora.targets, config.batch_size) == (4, "attention", 1)
    assert (config.optimizer.learning_rate, config.optimizer.lr_schedule) == (1e-4, "constant")
    assert (config.objective.min_snr_gamma, config.objective.caption_dropout) == (0, 0)
    assert config.run.gradient_accumulation == (1 if preset == "tutorial" else 4)
    assert config.prior.prior_preservation == ("off" if preset == "green_chair" else "auto")


def test_every_value_is_explained_with_its_origin():
    settings = Settings(optimizer=OptimizerConfig())
    assert explained("person", pictures(3), settings, rank=8) == [
        "rank 8 (node)",
        "alpha 8 (same as rank)",
        "targets attention+ff (preset person)",
        "learning rate 0.0001 (usual for adamw)",
        "schedule constant with warmup (optimizer settings)",
        "min-SNR gamma 5 (preset person)",
        "caption dropout 0.05 (preset person)",
        "steps 600 (preset person: 3 pictures x 110 = 330, kept within 600 to 2500)",
    ]


def test_values_that_are_not_the_default_are_explained_too():
    settings = Settings(
        noise=NoiseConfig(noise_offset=0.05),
        prior=PriorConfig(prior_preservation="base_model", class_prompt="a photo of a dog"),
        preview=PreviewConfig(prompts="a red dog\na dog " + 100 * "x", steps=30),
        run=RunConfig(save_diffusers=True),
    )
    lines = explained("person", pictures(3), settings, batch_size=2)
    for expected in (
        "noise offset 0.05 (noise settings)",
        "prior preservation base model (prior settings)",
        "class prompt 'a photo of a dog' (prior settings)",
        "preview steps 30 (preview settings)",
        "save diffusers on (run settings)",
        "batch size 2 (node)",
    ):
        assert expected in lines
    (prompts,) = [line for line in lines if line.startswith("preview prompts")]
    assert prompts.startswith("preview prompts 'a red dog / a dog xxx")
    assert max(len(line) for line in lines) < 130
    assert not any("\n" in line for line in lines)


def test_a_recipe_says_what_else_belongs_to_it():
    lines = explained("face", pictures(6))
    assert "optimizer prodigy (preset face)" in lines
    assert any("150 real class images" in line and "TOK" in line for line in lines)


def test_text_that_is_trained_is_explained_with_the_rates_that_act():
    settings = Settings(text_encoder=TextEncoderConfig(train_text_encoder="both", clip_g_learning_rate=2e-5))
    lines = explained("person", pictures(10), settings, token="TOK", ti_fraction=0.25, steps=200)
    for expected in (
        "text encoders trained: both (text encoder settings)",
        "CLIP-L rate 5e-05 (half of the UNet's)",
        "CLIP-G rate 2e-05 (text encoder settings)",
        "token TOK (node)",
        "new tokens 2 (preset person)",
        "ti fraction 0.25: tokens train to step 50 of 200 (node)",
        "token rate 0.0003 (usual for tokens with adamw)",
    ):
        assert expected in lines
    settings = Settings(
        text_encoder=TextEncoderConfig(train_text_encoder="clip_l", stop_fraction=0.5),
        pivotal=PivotalConfig(token="TOK", learning_rate=1e-3, optimizer="lion"),
    )
    lines = explained("face", pictures(10), settings, steps=200)
    assert "CLIP-L rate 1 (same as the UNet's)" in lines
    assert "token rate 0.001 (pivotal settings)" in lines
    assert "token optimizer lion (pivotal settings)" in lines
    assert "stop fraction 0.5: to step 100 of 200 (text encoder settings)" not in lines  # stops at the pivot
    assert not any("CLIP-G" in line for line in lines)


def test_a_recipe_whose_package_is_missing_says_so(monkeypatch):
    assert not any("pip install" in line for line in explained("person", pictures(6)))
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    assert any("pip install prodigyopt" in line for line in explained("face", pictures(6)))


def test_unknown_preset_and_bad_widgets_are_refused_in_words():
    with pytest.raises(InputError, match="preset is 'dog'"):
        find_preset("dog")
    with pytest.raises(InputError, match="preset is 'dog'"):
        resolved("dog", pictures(3))
    with pytest.raises(InputError, match="batch_size is -1"):
        resolved("person", pictures(3), batch_size=-1)
    with pytest.raises(InputError, match="rank is 5000"):
        resolved("person", pictures(3), rank=5000)


def test_a_recipes_repeats_become_the_datasets_where_it_has_none(tmp_path, tiny_run):
    """So that epochs, checkpoints by epochs and the report count as the recipe does."""
    dataset = tiny_run.tiny_dataset(tmp_path)
    assert prepared("kohya_avatar", dataset).num_samples == 20 * dataset.num_samples
    assert prepared("person", dataset) is dataset
    own = tiny_run.tiny_dataset(tmp_path, repeats=3)
    assert prepared("kohya_avatar", own) is own
    alike = [
        resolve("kohya_avatar", Widgets(name="x"), Settings(), one).steps
        for one in (dataset, prepared("kohya_avatar", dataset))
    ]
    assert alike[0] == alike[1]


@pytest.mark.parametrize("plugged", ["zorp", "TOK, zorp"])
def test_words_in_two_places_that_differ_are_refused(plugged):
    settings = Settings(pivotal=PivotalConfig(token=plugged))
    with pytest.raises(InputError, match=f"token is 'TOK' on the trainer itself and '{plugged}' in the"):
        resolved("person", pictures(10), settings, token="TOK")


@pytest.mark.parametrize(("own", "plugged"), [("TOK", "tok"), ("", "zorp"), ("TOK", ""), ("a,b", "A, b")])
def test_the_same_words_twice_or_in_one_place_are_right(own, plugged):
    settings = Settings(pivotal=PivotalConfig(token=plugged))
    config = resolved("person", pictures(10), settings, token=own)
    assert config.pivotal.token == (own or plugged)


@pytest.mark.parametrize("preset", PRESETS)
def test_without_a_dataset_the_same_values_are_told_but_the_length(preset):
    settings, widgets = Settings(validation=ValidationConfig(validation_share=0.1)), Widgets(name="x", rank=3)
    told = chosen_values(preset, widgets, settings, None)
    known = chosen_values(preset, widgets, settings, pictures(10))
    assert told[:-1] == known[:-1]
    assert told[-1].value == PRESETS[preset].length.summary
    kinds = {value.place: value.origin.kind for value in told}
    assert kinds["lora.rank"] == "widget"
    assert kinds["validation.validation_share"] == "settings"
    assert kinds["length"] == "preset"
