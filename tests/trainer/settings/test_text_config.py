"""Bad values of the text encoders and of pivotal tuning: one sentence each."""

import pytest
from sdxl_trainer.trainer.config import PivotalConfig, TextEncoderConfig
from sdxl_trainer.trainer.errors import InputError


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (PivotalConfig, {"ti_fraction": 0.0}, "ti_fraction is 0, but must be from 0.0001 to 1"),
        (PivotalConfig, {"ti_fraction": 1.5}, "ti_fraction is 1.5, but must be from 0.0001 to 1"),
        (PivotalConfig, {"learning_rate": 20.0}, "learning_rate is 20, but"),
        (PivotalConfig, {"learning_rate": -1.0}, "learning_rate is -1, but"),
        (PivotalConfig, {"optimizer": "adam"}, "optimizer is 'adam', but must be one of same, adamw"),
        (PivotalConfig, {"weight_decay": 2.0}, "weight_decay is 2, but"),
        (PivotalConfig, {"norm_pull": 1.1}, "norm_pull is 1.1, but must be from 0 to 1"),
        (PivotalConfig, {"train_first": "lora"}, "train_first is 'lora', but must be one of tokens"),
        (
            TextEncoderConfig,
            {"train_text_encoder": "on"},
            "train_text_encoder is 'on', but must be one of off",
        ),
        (TextEncoderConfig, {"clip_l_learning_rate": 11.0}, "clip_l_learning_rate is 11, but"),
        (TextEncoderConfig, {"clip_g_learning_rate": -1e-5}, "clip_g_learning_rate is -1e-05, but"),
        (TextEncoderConfig, {"weight_decay": -0.1}, "weight_decay is -0.1, but"),
        (TextEncoderConfig, {"stop_fraction": 0.0}, "stop_fraction is 0, but must be from 0.0001 to 1"),
        (TextEncoderConfig, {"stop_fraction": 1.01}, "stop_fraction is 1.01, but"),
        (TextEncoderConfig, {"text_encoder_rank": -1}, "text_encoder_rank is -1, but"),
    ],
)
def test_a_value_out_of_range_is_one_sentence(kind, values, message):
    title = "pivotal" if kind is PivotalConfig else "text encoder"
    with pytest.raises(InputError) as refused:
        kind(**values)
    assert str(refused.value).startswith(f"{title} settings: {message}")
    assert "\n" not in str(refused.value)


def test_which_encoders_are_trained():
    trained = {
        choice: TextEncoderConfig(train_text_encoder=choice).trained
        for choice in ("off", "both", "clip_l", "clip_g")
    }
    expected = {"off": (), "both": ("clip_l", "clip_g"), "clip_l": ("clip_l",), "clip_g": ("clip_g",)}
    assert trained == expected


def test_a_token_of_spaces_is_none():
    assert [PivotalConfig(token=token).is_on for token in ("", "  ", "TOK", "TOK, STY")] == [0, 0, 1, 1]
