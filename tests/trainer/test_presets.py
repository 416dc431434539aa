import dataclasses

import pytest
from sdxl_trainer.trainer.config import LoRAConfig, OptimizerConfig, RunConfig
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.presets import PRESETS, Settings, Widgets, explain, resolve


class Pictures:
    """As much of a dataset as the arithmetic needs."""

    def __init__(self, number):
        self.pictures = (None,) * number

    def steps_per_epoch(self, batch_size, accumulation=1):
        return -(-len(self.pictures) // (batch_size * accumulation))


def test_there_are_the_four_presets_and_they_cannot_be_changed():
    assert sorted(PRESETS) == ["character", "object", "person", "style"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["person"].rank = 3
    for preset in PRESETS.values():
        assert str(preset.rank) in preset.summary
        assert "\n" not in preset.summary


def test_preset_gives_every_value_that_is_not_set():
    config = resolve("style", Widgets(name="x"), Settings(), Pictures(40))
    assert (config.lora.rank, config.optimizer.lr_schedule, config.steps) == (32, "cosine", 2000)


def test_settings_beat_the_preset_and_widgets_beat_both():
    settings = Settings(lora=LoRAConfig(rank=4, alpha=2), optimizer=OptimizerConfig(learning_rate=3e-4))
    config = resolve("style", Widgets(name="x", rank=8), settings, Pictures(40))
    assert (config.lora.rank, config.lora.alpha) == (8, 2)
    assert config.optimizer.learning_rate == 3e-4
    config = resolve("style", Widgets(name="x", learning_rate=5e-4, alpha=6), settings, Pictures(40))
    assert (config.lora.rank, config.lora.alpha, config.optimizer.learning_rate) == (4, 6, 5e-4)


@pytest.mark.parametrize(
    ("values", "pictures", "steps"),
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
def test_steps_come_from_the_widget_else_from_epochs_else_from_the_pictures(values, pictures, steps):
    config = resolve("person", Widgets(name="x", **values), Settings(), Pictures(pictures))
    assert config.steps == steps


def test_accumulation_counts_as_a_larger_batch():
    settings = Settings(run=RunConfig(gradient_accumulation=2))
    assert resolve("person", Widgets(name="x"), settings, Pictures(10)).steps == 550


def test_every_value_is_explained_with_its_origin():
    settings = Settings(optimizer=OptimizerConfig())
    lines = explain("person", Widgets(name="x", rank=8), settings, Pictures(3))
    assert "rank 8 (node)" in lines
    assert "targets attention+ff (preset person)" in lines
    assert "learning rate 0.0001 (optimizer settings)" in lines
    assert "steps 600 (preset: 3 pictures x 110 = 330, kept within 600 to 2500)" in lines


def test_unknown_preset_and_batch_size_0_are_refused_in_words():
    with pytest.raises(InputError, match="preset is 'dog'"):
        resolve("dog", Widgets(name="x"), Settings(), Pictures(3))
    with pytest.raises(InputError, match="batch_size"):
        resolve("person", Widgets(name="x", batch_size=0), Settings(), Pictures(3))
