"""Settings of text encoders and tokens side by side."""

import pytest
from sdxl_trainer.trainer.config import SECTIONS, TrainConfig
from sdxl_trainer.trainer.text.text_checks import text_notes, text_problems, trains_tokens_alone

TOKENS = {"pivotal.token": "TOK"}
ENCODERS = {"text_encoder.train_text_encoder": "both"}
ALONE = {**TOKENS, "pivotal.ti_fraction": 1.0}
PRODIGY = {"optimizer.optimizer": "prodigy"}


def config(values):
    """`{"lora.rank": 4}` sets one value of a section, `{"steps": 4}` one of the run."""
    sections = {}
    for place, value in values.items():
        section, _, field = place.rpartition(".")
        sections.setdefault(section, {})[field] = value
    own = sections.pop("", {})
    built = {name: SECTIONS[name](**fields) for name, fields in sections.items()}
    return TrainConfig(**{"name": "x", "steps": 100, **own, **built})


@pytest.mark.parametrize("values", [{}, TOKENS, ENCODERS, {**TOKENS, **ENCODERS}, {**TOKENS, **PRODIGY}])
def test_the_defaults_go_together_and_all_do_something(values):
    assert text_problems(config(values)) == []
    assert text_notes(config(values)) == []


PROBLEMS = [
    # what is set, what is named, and one way out
    (
        {**TOKENS, **ENCODERS, "text_encoder.stop_fraction": 0.5},
        ("stop_fraction is 0.5", "ti_fraction is 0.5"),
        {"text_encoder.stop_fraction": 0.51},
    ),
    (
        {**ENCODERS, "text_encoder.stop_fraction": 0.004},
        ("stop_fraction is 0.004", "steps is 100"),
        {"text_encoder.stop_fraction": 0.006},
    ),
    (
        {**ENCODERS, **ALONE, "pivotal.train_first": "tokens+lora"},
        ("train_text_encoder is both", "ti_fraction is 1"),
        {"text_encoder.train_text_encoder": "off"},
    ),
    ({**TOKENS, "steps": 1}, ("steps is 1", "ti_fraction is 0.5"), {"steps": 2}),
    (
        {**PRODIGY, **ENCODERS, "text_encoder.clip_l_learning_rate": 5e-5},
        ("clip_l_learning_rate", "prodigy"),
        {"text_encoder.clip_l_learning_rate": 1.0},
    ),
    (
        {**PRODIGY, **ENCODERS, "text_encoder.clip_g_learning_rate": 5e-5},
        ("clip_g_learning_rate", "prodigy"),
        {"text_encoder.train_text_encoder": "clip_l", "text_encoder.clip_g_learning_rate": 0.0},
    ),
    (
        {**PRODIGY, **TOKENS, "pivotal.optimizer": "same", "pivotal.learning_rate": 3e-4},
        ("learning_rate of the pivotal settings is 0.0003", "prodigy"),
        {"pivotal.optimizer": "adamw"},
    ),
    ({**TOKENS, "name": "my cat"}, ("my cat", "embedding"), {"name": "my_cat"}),
    ({"pivotal.token": "TOK, tok"}, ("token", "2 times"), {"pivotal.token": "TOK"}),
    ({"pivotal.token": "a cat"}, ("token", "'a cat'"), {"pivotal.token": "a_cat"}),
    ({**TOKENS, "pivotal.new_tokens": "76"}, ("76", "75"), {"pivotal.new_tokens": "75"}),
    ({**TOKENS, "pivotal.new_tokens": "0"}, ("new_tokens", "'0'"), {"pivotal.new_tokens": "1"}),
    ({**TOKENS, "pivotal.new_tokens": "1, 2"}, ("new_tokens", "TOK"), {"pivotal.token": "TOK, STY"}),
    (
        {**TOKENS, "pivotal.initial_words": "woman, sketch"},
        ("initial_words", "TOK"),
        {"pivotal.token": "TOK, STY"},
    ),
    (
        {**TOKENS, "pivotal.optimizer": "prodigy_plus_schedule_free", "optimizer.ema_decay": 0.99},
        ("ema_decay is 0.99", "prodigy_plus_schedule_free"),
        {"pivotal.optimizer": "prodigy"},
    ),
    (
        {**TOKENS, "pivotal.optimizer": "prodigy_plus_schedule_free", "optimizer.beta1": 0.0},
        ("beta1 is 0", "prodigy_plus_schedule_free"),
        {"optimizer.beta1": 0.9},
    ),
    (
        {**ALONE, "run.save_diffusers": True},
        ("save_diffusers", "ti_fraction is 1"),
        {"pivotal.train_first": "tokens+lora"},
    ),
]


@pytest.mark.parametrize(("values", "names", "way_out"), PROBLEMS)
def test_what_cannot_work_is_one_sentence_with_both_names(values, names, way_out):
    (problem,) = text_problems(config(values))
    assert all(name in problem for name in names)
    assert "\n" not in problem
    assert text_problems(config(values | way_out)) == []


def test_a_lora_to_start_from_needs_one_to_be_trained():
    (problem,) = text_problems(config(ALONE), starts_from_lora=True)
    assert "initial_lora" in problem
    assert "ti_fraction is 1" in problem
    for values in (TOKENS, {**ALONE, "pivotal.train_first": "tokens+lora"}, {}):
        assert text_problems(config(values), starts_from_lora=True) == []


WITHOUT_EFFECT = [
    ({"text_encoder.clip_l_learning_rate": 1e-5}, "clip_l_learning_rate", ENCODERS),
    ({"text_encoder.stop_fraction": 0.5}, "stop_fraction", ENCODERS),
    ({"text_encoder.weight_decay": 0.5}, "weight_decay of the text encoder settings", ENCODERS),
    ({"text_encoder.text_encoder_rank": 4}, "text_encoder_rank", ENCODERS),
    (
        {"text_encoder.train_text_encoder": "clip_l", "text_encoder.clip_g_learning_rate": 1e-5},
        "clip_g_learning_rate",
        ENCODERS,
    ),
    ({"pivotal.new_tokens": "3"}, "new_tokens", TOKENS),
    ({"pivotal.ti_fraction": 0.3}, "ti_fraction", TOKENS),
    ({"pivotal.add_token": True}, "add_token", TOKENS),
    ({"pivotal.learning_rate": 1e-3}, "learning_rate of the pivotal settings", TOKENS),
    (ALONE, "the LoRA settings", {"pivotal.ti_fraction": 0.99}),
    (
        {**PRODIGY, **TOKENS, "pivotal.optimizer": "same", "pivotal.learning_rate": 0.5},
        "learning_rate 0.5 of the pivotal settings",
        {"pivotal.learning_rate": 1.0},
    ),
    (
        {**PRODIGY, **ENCODERS, "text_encoder.clip_g_learning_rate": 0.5},
        "clip_g_learning_rate 0.5",
        {"text_encoder.clip_g_learning_rate": 1.0},
    ),
    (
        {**TOKENS, "pivotal.optimizer": "prodigy", "optimizer.scale_lr": True, "batch_size": 4},
        "learning_rate 1 of the pivotal settings with scale_lr makes the rate 4",
        {"optimizer.scale_lr": False},
    ),
    (
        {**TOKENS, "preview.prompts": "a token\na cat"},
        "the prompts of the preview settings hold no TOK",
        {"preview.prompts": "a token\na photo of tok"},
    ),
    ({"pivotal.token": "cat"}, "token 'cat' is one known token of CLIP", TOKENS),
    (
        {**TOKENS, "prior.prior_preservation": "base_model", "prior.class_prompt": "a TOK cat"},
        "class_prompt holds TOK",
        {"prior.class_prompt": "a cat"},
    ),
]


@pytest.mark.parametrize(("values", "start", "other"), WITHOUT_EFFECT)
def test_a_setting_without_effect_says_so_and_one_with_effect_does_not(values, start, other):
    assert text_problems(config(values)) == []
    (said,) = text_notes(config(values))
    assert said.startswith(start)
    assert len(said) < 200
    assert not said.endswith(".")
    assert text_notes(config(values | other)) == []


def test_a_bundle_is_no_choice_without_a_lora():
    notes = text_notes(config({**ALONE, "pivotal.bundle": True}))
    assert len(notes) == 2
    assert notes[1].startswith("bundle has no effect")


def test_pure_textual_inversion_is_known():
    assert trains_tokens_alone(config(ALONE))
    assert not trains_tokens_alone(config({**ALONE, "pivotal.train_first": "tokens+lora"}))
    assert not trains_tokens_alone(config({**TOKENS, **ENCODERS}))
    assert not trains_tokens_alone(config({}))
