"""What each part of a model trains with, and when."""

from typing import get_args

import pytest
from sdxl_trainer.trainer.config import OptimizerConfig, PivotalConfig, TextEncoderConfig, TrainConfig
from sdxl_trainer.trainer.settings.optimizer_config import RECOMMENDED_RATES, OptimizerName
from sdxl_trainer.trainer.settings.part_rates import (
    Part,
    part_optimizer,
    part_window,
    pivot_step,
    text_end_step,
)

PRODIGIES = ("prodigy", "prodigy_plus_schedule_free")


def config(steps=100, optimizer=None, text=None, token="TOK", **pivotal):
    return TrainConfig(
        name="x",
        steps=steps,
        optimizer=OptimizerConfig(**optimizer or {}),
        text_encoder=TextEncoderConfig(**text or {}),
        pivotal=PivotalConfig(token=token, **pivotal),
    )


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_a_text_encoder_has_half_of_the_unets_rate_and_prodigy_one_for_all(name):
    share = 1 if name in PRODIGIES else 0.5
    for part in ("clip_l", "clip_g"):
        usual = part_optimizer(config(optimizer={"optimizer": name}), part)
        assert usual.learning_rate == pytest.approx(share * RECOMMENDED_RATES[name])
        given = part_optimizer(config(optimizer={"optimizer": name, "learning_rate": 0.04}), part)
        assert given.learning_rate == pytest.approx(share * 0.04)


def test_each_encoder_has_its_own_rate_and_both_a_weight_decay():
    optimizer = {"optimizer": "lion", "weight_decay": 0.5, "lora_plus_ratio": 4.0, "ema_decay": 0.9}
    text = {"clip_l_learning_rate": 1e-5, "clip_g_learning_rate": 2e-5, "weight_decay": 0.02}
    settings = config(optimizer=optimizer, text=text)
    common = {**optimizer, "weight_decay": 0.02}
    assert part_optimizer(settings, "clip_l") == OptimizerConfig(**common, learning_rate=1e-5)
    assert part_optimizer(settings, "clip_g") == OptimizerConfig(**common, learning_rate=2e-5)
    assert part_optimizer(settings, "unet") == OptimizerConfig(**optimizer, learning_rate=2e-5)


# cog-sdxl: ti_lr 3e-4 beside lora_lr 1e-4; document 002 gives Prodigy 1.0 for both
@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_tokens_have_three_times_the_usual_rate_of_a_lora(name):
    expected = pytest.approx((1 if name in PRODIGIES else 3) * RECOMMENDED_RATES[name])
    same = PivotalConfig(token="TOK", optimizer="same")
    shared = OptimizerConfig(optimizer=name, learning_rate=0.7)  # says nothing of the tokens
    for pivotal, optimizer in (
        (same, shared),
        (PivotalConfig(token="TOK", optimizer=name), OptimizerConfig()),
    ):
        settings = TrainConfig(name="x", steps=9, pivotal=pivotal, optimizer=optimizer)
        own = part_optimizer(settings, "tokens")
        assert (own.optimizer, own.learning_rate) == (name, expected)


def test_tokens_train_with_a_rule_of_their_own():
    shared = {"optimizer": "prodigy", "beta2": 0.95, "ema_decay": 0.9, "eps": 1e-7}
    own = part_optimizer(config(optimizer=shared, weight_decay=1e-4, learning_rate=1e-3), "tokens")
    assert own == OptimizerConfig(
        optimizer="adamw", learning_rate=1e-3, weight_decay=1e-4, ema_decay=0.9, eps=1e-7
    )
    same = PivotalConfig(token="TOK", optimizer="same")
    settings = TrainConfig(name="x", steps=9, optimizer=OptimizerConfig(**shared), pivotal=same)
    assert part_optimizer(settings, "tokens").beta2 == 0.95


def test_lora_plus_is_no_matter_of_tokens():
    settings = config(optimizer={"lora_plus_ratio": 8.0})
    assert part_optimizer(settings, "tokens").lora_plus_ratio == 1
    assert part_optimizer(settings, "clip_l").lora_plus_ratio == 8


@pytest.mark.parametrize(
    ("steps", "fraction", "pivot"),
    [(100, 0.5, 50), (1000, 0.123, 123), (1, 0.5, 1), (10, 0.0001, 1), (100, 1, 100), (7, 0.5, 4), (3, 1, 3)],
)
def test_the_pivot_is_a_step(steps, fraction, pivot):
    assert pivot_step(config(steps, ti_fraction=fraction)) == pivot
    assert pivot_step(config(steps, token=" ", ti_fraction=fraction)) == 0


ENCODERS = {"train_text_encoder": "both", "stop_fraction": 0.75}


@pytest.mark.parametrize(
    ("values", "windows", "end"),
    [
        # unet, clip_l, clip_g, tokens
        ({"token": ""}, ((0, 100), (0, 0), (0, 0), (0, 0)), 0),
        ({"token": "", "text": ENCODERS}, ((0, 100), (0, 75), (0, 75), (0, 0)), 75),
        ({}, ((50, 100), (0, 0), (0, 0), (0, 50)), 50),
        ({"train_first": "tokens+lora"}, ((0, 100), (0, 0), (0, 0), (0, 50)), 50),
        ({"text": ENCODERS}, ((50, 100), (50, 75), (50, 75), (0, 50)), 75),
        (
            {"text": ENCODERS | {"train_text_encoder": "clip_g"}, "ti_fraction": 0.25},
            ((25, 100), (0, 0), (25, 75), (0, 25)),
            75,
        ),
        ({"text": ENCODERS, "ti_fraction": 0.75}, ((75, 100), (0, 0), (0, 0), (0, 75)), 75),
        ({"ti_fraction": 1}, ((0, 0), (0, 0), (0, 0), (0, 100)), 100),
        (
            {"ti_fraction": 1, "train_first": "tokens+lora", "text": ENCODERS},
            ((0, 100), (0, 0), (0, 0), (0, 100)),
            100,
        ),
    ],
)
def test_windows_of_the_parts(values, windows, end):
    settings = config(**values)
    assert tuple(part_window(settings, part) for part in get_args(Part)) == windows
    assert text_end_step(settings) == end
