import dataclasses

import pytest
from sdxl_trainer.trainer.config import (
    OptimizerConfig,
    PivotalConfig,
    ProdigyConfig,
    RunConfig,
    ScheduleConfig,
    TextEncoderConfig,
    TrainConfig,
)
from sdxl_trainer.trainer.optimization.optimizer_kinds import KINDS
from sdxl_trainer.trainer.optimization.optimizers import optimizer_notes, optimizer_problems

PLUS = "prodigy_plus_schedule_free"


def a_config(steps=100, batch_size=1, accumulation=1, **settings):
    def part(kind):
        names = {field.name for field in dataclasses.fields(kind)}
        return kind(**{name: value for name, value in settings.items() if name in names})

    return TrainConfig(
        name="run",
        steps=steps,
        batch_size=batch_size,
        optimizer=part(OptimizerConfig),
        schedule=part(ScheduleConfig),
        prodigy=part(ProdigyConfig),
        run=RunConfig(gradient_accumulation=accumulation),
        pivotal=PivotalConfig(**settings.get("pivotal", {})),
        text_encoder=TextEncoderConfig(**settings.get("text_encoder", {})),
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != PLUS])
@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup", "linear", "cosine", "polynomial"])
def test_defaults_have_neither_notes_nor_problems(kind, schedule):
    config = a_config(optimizer=kind, lr_schedule=schedule)
    assert optimizer_notes(config) == []
    assert optimizer_problems(config) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optimizer": "adafactor", "beta1": 0.5}, "beta1 has no effect: optimizer adafactor"),
        ({"optimizer": "adafactor", "beta2": 0.5}, "beta2 has no effect: optimizer adafactor"),
        ({"optimizer": "sgd", "beta2": 0.5}, "beta2 has no effect: optimizer sgd"),
        ({"optimizer": "sgd", "eps": 1e-6}, "eps has no effect: optimizer sgd"),
        ({"optimizer": "lion", "eps": 1e-6}, "eps has no effect: optimizer lion"),
        ({"d_coef": 2.0}, "d_coef of the Prodigy settings has no effect: optimizer is adamw"),
        ({"d0": 1e-5}, "d0 of the Prodigy settings has no effect: optimizer is adamw"),
        ({"beta3": 0.5}, "beta3 of the Prodigy settings has no effect: optimizer is adamw"),
        ({"decouple": False}, "decouple of the Prodigy settings has no effect: optimizer is adamw"),
        (
            {"optimizer": "prodigy", "decouple": False, "weight_decay": 0.0},
            "decouple of the Prodigy settings has no effect: weight_decay is 0",
        ),
        (
            {"optimizer": "prodigy", "learning_rate": 1e-4},
            "learning_rate 0.0001 makes the rate 0.0001, but prod",
        ),
        (
            {"optimizer": "prodigy", "scale_lr": True, "batch_size": 4},
            "learning_rate 1 with scale_lr makes the rate 4",
        ),
        ({"num_cycles": 3}, "num_cycles has no effect: lr_schedule is constant_with_warmup"),
        ({"lr_schedule": "cosine_with_restarts"}, "cosine_with_restarts is plain cosine: num_cycles is 1"),
        ({"power": 2.0}, "power has no effect: lr_schedule is constant_with_warmup, not polynomial"),
        ({"warmup_share": 0.1, "warmup_steps": 7}, "warmup_share has no effect: warmup_steps is 7"),
        (
            {"warmup_share": 0.1, "lr_schedule": "constant"},
            "warmup_share has no effect: lr_schedule constant",
        ),
        ({"warmup_steps": 100}, "the rate never reaches its peak: the warm-up (warmup_steps 100"),
        ({"warmup_share": 1.0}, "the rate never reaches its peak"),
        ({"scale_lr": True}, "scale_lr has no effect: batch_size and gradient_accumulation are 1"),
    ],
)
def test_a_setting_without_effect_says_so(settings, words):
    notes = optimizer_notes(a_config(**settings))
    assert len(notes) == 1
    assert words in notes[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"beta1": 0.5, "beta2": 0.5, "eps": 1e-6},
        {"optimizer": "lion", "beta1": 0.5, "beta2": 0.5},
        {"optimizer": "sgd", "beta1": 0.5},
        {"optimizer": "prodigy", "d_coef": 2.0, "d0": 1e-5, "decouple": False, "safeguard_warmup": False},
        {"optimizer": "prodigy", "learning_rate": 0.25, "scale_lr": True, "batch_size": 4},
        {"lr_schedule": "cosine_with_restarts", "num_cycles": 3},
        {"lr_schedule": "polynomial", "power": 2.0},
        {"lr_schedule": "cosine", "warmup_share": 0.2},
        {"scale_lr": True, "accumulation": 2},
        {"warmup_steps": 99},
        {"steps": 1, "warmup_steps": 5},
    ],
)
def test_a_setting_with_an_effect_is_passed_in_silence(settings):
    assert optimizer_notes(a_config(**settings)) == []


TOKENS = {"token": "TOK", "ti_fraction": 0.5}
EARLY_TEXT = {"train_text_encoder": "clip_l", "stop_fraction": 0.6}


@pytest.mark.parametrize(
    ("warmup_steps", "settings", "parts"),
    [
        (10, {}, ""),
        (6, {"pivotal": TOKENS}, "of the LoRA (5 steps) and of the tokens (5 steps)"),
        (5, {"pivotal": TOKENS | {"ti_fraction": 0.4}}, "of the tokens (4 steps)"),
        (5, {"pivotal": TOKENS | {"train_first": "tokens+lora"}}, "of the tokens (5 steps)"),
        (10, {"pivotal": TOKENS | {"ti_fraction": 1.0}}, "of the tokens (10 steps)"),
        (6, {"text_encoder": EARLY_TEXT}, "of clip_l (6 steps)"),
    ],
)
def test_a_warm_up_is_held_against_the_steps_of_each_part(warmup_steps, settings, parts):
    (note,) = optimizer_notes(a_config(10, warmup_steps=warmup_steps, **settings))
    warmup = f"the warm-up (warmup_steps {warmup_steps}, warmup_share 0.05)"
    if parts:
        assert note == f"the rate {parts} never reaches its peak: {warmup} takes as long"
    else:
        assert note == f"the rate never reaches its peak: {warmup} is as long as the run of 10 steps"


@pytest.mark.parametrize(
    ("warmup_steps", "settings"),
    [
        (9, {}),
        (4, {"pivotal": TOKENS}),
        (5, {"pivotal": TOKENS | {"ti_fraction": 0.1}, "steps": 11}),  # one step of the tokens
        (9, {"pivotal": TOKENS | {"ti_fraction": 1.0}}),
        (5, {"text_encoder": EARLY_TEXT}),
    ],
)
def test_a_warm_up_that_each_part_outlasts_is_passed_in_silence(warmup_steps, settings):
    assert optimizer_notes(a_config(**{"steps": 10, "warmup_steps": warmup_steps, **settings})) == []


def test_prodigy_plus_schedule_free_says_what_its_authors_advise():
    notes = optimizer_notes(a_config(optimizer=PLUS, lr_schedule="cosine"))
    assert [note.split()[0] for note in notes] == ["lr_schedule", "max_grad_norm", "use_bias_correction"]
    advised = {
        "optimizer": PLUS,
        "max_grad_norm": 0.0,
        "use_bias_correction": False,
        "lr_schedule": "constant",
    }
    assert optimizer_notes(a_config(**advised)) == []
    assert "has no effect: optimizer is" in optimizer_notes(a_config(**advised, decouple=False))[0]
    assert "has no effect: optimizer is" in optimizer_notes(a_config(**advised, safeguard_warmup=False))[0]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"optimizer": "prodigy", "lora_plus_ratio": 8.0}, ("lora_plus_ratio is 8", "optimizer prodigy")),
        ({"optimizer": PLUS, "ema_decay": 0.9}, ("ema_decay is 0.9", f"optimizer {PLUS}")),
        ({"optimizer": PLUS, "beta1": 0.0}, ("beta1 is 0", f"optimizer {PLUS}")),
    ],
)
def test_an_impossible_combination_is_refused_with_both_names(settings, names):
    problems = optimizer_problems(a_config(**settings))
    assert len(problems) == 1
    assert all(name in problems[0] for name in names)
    assert optimizer_problems(a_config(**(settings | {"optimizer": "adamw"}))) == []
