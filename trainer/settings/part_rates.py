"""Which part of a model trains with which optimizer, and from which step to which.

The parts: the UNet's LoRA, the LoRAs of the two text encoders, the new tokens.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from ..config import OptimizerConfig, TrainConfig
from ..optimization.optimizer_kinds import PRODIGY_KINDS

Part = Literal["unet", "clip_l", "clip_g", "tokens"]

LEAST_RATE = 1e-9
"""That settings accept."""
ENCODER_SHARE = 0.5
"""Usual rate of a text encoder over the UNet's: common advice for kohya's scripts, 5e-5 beside 1e-4. The
Prodigies, which find the rate themselves, want 1 for every part."""
RECOMMENDED_TOKEN_RATES: Mapping[str, float] = {
    "adamw": 3e-4,
    "adamw8bit": 3e-4,
    "prodigy": 1.0,
    "prodigy_plus_schedule_free": 1.0,
    "adafactor": 3e-4,
    "lion": 6e-5,
    "sgd": 0.3,
}
"""Three times the LoRA's usual rate: cog-sdxl trains tokens at ti_lr 3e-4 beside lora_lr 1e-4."""


def part_optimizer(config: TrainConfig, part: Part) -> OptimizerConfig:
    """The optimizer settings with which a part trains; its learning_rate is never 0.

    scale_lr acts on every part. LoRA+ is off for the tokens, which have no up matrix. Where the tokens have
    an optimizer of their own, beta2 is the usual one for it: what stands there was chosen for the other.
    """
    shared = config.optimizer
    if part == "unet":
        return replace(shared, learning_rate=shared.effective_learning_rate)
    if part == "tokens":
        return _token_optimizer(config)
    text = config.text_encoder
    own = text.clip_l_learning_rate if part == "clip_l" else text.clip_g_learning_rate
    share = 1.0 if shared.optimizer in PRODIGY_KINDS else ENCODER_SHARE
    return replace(
        shared,
        learning_rate=own or max(LEAST_RATE, share * shared.effective_learning_rate),
        weight_decay=text.weight_decay,
    )


def _token_optimizer(config: TrainConfig) -> OptimizerConfig:
    pivotal, shared = config.pivotal, config.optimizer
    name = shared.optimizer if pivotal.optimizer == "same" else pivotal.optimizer
    return replace(
        shared,
        optimizer=name,
        learning_rate=pivotal.learning_rate or RECOMMENDED_TOKEN_RATES[name],
        weight_decay=pivotal.weight_decay,
        beta2=shared.beta2 if name == shared.optimizer else 0.0,
        lora_plus_ratio=1.0,
    )


def text_rank(config: TrainConfig) -> int:
    """Rank of the text encoders' LoRAs."""
    return config.text_encoder.text_encoder_rank or config.lora.rank


def pivot_step(config: TrainConfig) -> int:
    """Optimizer steps after which the tokens stay as they are; 0 without tokens."""
    if not config.pivotal.is_on:
        return 0
    return min(config.steps, max(1, round(config.pivotal.ti_fraction * config.steps)))


def part_window(config: TrainConfig, part: Part) -> tuple[int, int]:
    """First step in which a part trains, and the step after its last; (0, 0) = it never does."""
    pivot = pivot_step(config)
    if part == "tokens":
        return 0, pivot
    if part == "unet":
        start, end = pivot if config.pivotal.train_first == "tokens" else 0, config.steps
    elif part in config.text_encoder.trained:
        start, end = pivot, round(config.text_encoder.stop_fraction * config.steps)
    else:
        start, end = 0, 0
    return (start, end) if start < end else (0, 0)


def text_end_step(config: TrainConfig) -> int:
    """First step from which on nothing of the text trains any more; 0 = nothing ever does."""
    return max(part_window(config, part)[1] for part in ("tokens", "clip_l", "clip_g"))
