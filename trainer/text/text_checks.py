"""What of the settings of text encoders and tokens cannot work, has no effect or is unwise, in sentences."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from ..config import PivotalConfig, TextEncoderConfig, TrainConfig
from ..errors import InputError
from ..files.embedding_file import check_embedding_name
from ..optimization.lr_schedule import peak_learning_rate
from ..optimization.optimizer_checks import LEAST_PRODIGY_RATE, PLUS
from ..optimization.optimizer_kinds import PRODIGY_KINDS
from ..settings.part_rates import Part, part_optimizer, part_window, pivot_step
from .caption_checks import word_notes
from .new_tokens import NewTokens, initial_words

_RATES: tuple[tuple[Part, str, str], ...] = (
    ("clip_l", "clip_l_learning_rate", "text encoder settings"),
    ("clip_g", "clip_g_learning_rate", "text encoder settings"),
    ("tokens", "learning_rate", "pivotal settings"),
)


def trains_tokens_alone(config: TrainConfig) -> bool:
    """Pure textual inversion: no LoRA trains in any step."""
    return not any(part_window(config, part)[1] for part in ("unet", "clip_l", "clip_g"))


def text_problems(config: TrainConfig, starts_from_lora: bool = False) -> list[str]:
    """A sentence for each combination that cannot work, naming both settings and the way out."""
    problems = [*_window_problems(config), *_rate_problems(config)]
    if config.pivotal.is_on:
        problems += [*_token_problems(config, starts_from_lora)]
    return problems


def text_notes(config: TrainConfig) -> list[str]:
    """A sentence for each setting that does nothing with the others, or works against them.

    `config` has none of `text_problems`.
    """
    notes = [*_encoder_notes(config), *_pivotal_notes(config), *_rate_notes(config), *_prompt_notes(config)]
    if config.pivotal.is_on:
        notes += word_notes(config.pivotal, NewTokens.parse(config.pivotal))
    return notes


def _window_problems(config: TrainConfig) -> Iterator[str]:
    """Parts that are to train and never would."""
    text, pivotal, pivot = config.text_encoder, config.pivotal, pivot_step(config)
    if text.trained and not part_window(config, text.trained[0])[1]:
        if pivot >= config.steps:
            yield (
                f"train_text_encoder is {text.train_text_encoder} and ti_fraction is "
                f"{pivotal.ti_fraction:g}, so that no step is left for the text encoders after the tokens: "
                "set train_text_encoder to off, or lower ti_fraction"
            )
        elif pivot:
            yield (
                f"stop_fraction is {text.stop_fraction:g} and ti_fraction is {pivotal.ti_fraction:g}, so "
                "that the text encoders would stop before they start: raise stop_fraction above ti_fraction, "
                "or set train_text_encoder to off"
            )
        else:
            yield (
                f"stop_fraction is {text.stop_fraction:g} and steps is {config.steps}, so that the text "
                "encoders would not train a single step: raise stop_fraction, or set train_text_encoder to "
                "off"
            )
    if pivot >= config.steps and pivotal.ti_fraction < 1 and pivotal.train_first == "tokens":
        yield (
            f"steps is {config.steps} and ti_fraction is {pivotal.ti_fraction:g}, so that no step is left "
            "for the LoRA: raise steps, lower ti_fraction, or set it to 1 for tokens alone"
        )


def _rate_problems(config: TrainConfig) -> Iterator[str]:
    for part, name, title in _RATES:
        if not part_window(config, part)[1]:
            continue
        optimizer = part_optimizer(config, part)
        if optimizer.optimizer in PRODIGY_KINDS and optimizer.learning_rate < LEAST_PRODIGY_RATE:
            yield (
                f"{name} of the {title} is {optimizer.learning_rate:g}, but optimizer {optimizer.optimizer} "
                "finds the rate itself and would hardly train: set it to 0 or 1"
            )


def _token_problems(config: TrainConfig, starts_from_lora: bool) -> Iterator[str]:
    try:
        check_embedding_name(config.name)
    except InputError as problem:
        yield str(problem)
    try:
        initial_words(config.pivotal, NewTokens.parse(config.pivotal))
    except InputError as problem:
        yield str(problem)
    optimizer, shared = part_optimizer(config, "tokens"), config.optimizer
    if optimizer.optimizer == PLUS != shared.optimizer:
        if optimizer.ema_decay > 0:
            yield (
                f"ema_decay is {optimizer.ema_decay:g}, but the tokens' optimizer {PLUS} already saves a "
                "mean: set ema_decay to 0, or optimizer of the pivotal settings to prodigy"
            )
        if optimizer.beta1 == 0:
            yield (
                f"beta1 is 0, but the tokens' optimizer {PLUS} averages with it: set beta1 to 0.9, or "
                "optimizer of the pivotal settings to prodigy"
            )
    if not trains_tokens_alone(config):
        return
    if config.run.save_diffusers:
        yield (
            "save_diffusers is on and ti_fraction is 1 with train_first tokens, but without a LoRA there is "
            "nothing to write for diffusers but the embedding, which it loads as it is: set save_diffusers "
            "to off"
        )
    if starts_from_lora:
        yield (
            "initial_lora is plugged in and ti_fraction is 1 with train_first tokens, but no LoRA is trained "
            "that could start from it: unplug it, lower ti_fraction, or set train_first to tokens+lora"
        )


def _encoder_notes(config: TrainConfig) -> Iterator[str]:
    text = config.text_encoder
    if not text.trained:
        for name in _changed(text, TextEncoderConfig()):
            yield f"{name} of the text encoder settings has no effect: train_text_encoder is off"
        return
    for part in ("clip_l", "clip_g"):
        if part not in text.trained and getattr(text, f"{part}_learning_rate"):
            yield f"{part}_learning_rate has no effect: train_text_encoder is {text.train_text_encoder}"


def _pivotal_notes(config: TrainConfig) -> Iterator[str]:
    pivotal = config.pivotal
    if not pivotal.is_on:
        for name in _changed(pivotal, PivotalConfig(token=pivotal.token)):
            yield f"{name} of the pivotal settings has no effect: token is empty"
    elif trains_tokens_alone(config):
        yield (
            "the LoRA settings have no effect: ti_fraction is 1 with train_first tokens, so that tokens "
            "alone are learned"
        )
        if pivotal.bundle:
            yield "bundle has no effect: without a LoRA the file always holds the tokens"


def _rate_notes(config: TrainConfig) -> Iterator[str]:
    for part, name, title in _RATES:
        own = part_optimizer(config, part)
        rate = peak_learning_rate(dataclasses.replace(config, optimizer=own))
        is_odd = own.optimizer in PRODIGY_KINDS and rate != 1
        # a rate that is only the UNet's is told with the UNet
        is_own = own.learning_rate != config.optimizer.effective_learning_rate
        if is_odd and part_window(config, part)[1] and (is_own or part == "tokens"):
            scaled = " with scale_lr" if own.scale_lr else ""
            yield (
                f"{name} {own.learning_rate:g} of the {title}{scaled} makes the rate {rate:g}, but "
                f"{own.optimizer} finds the rate itself and wants 1"
            )


def _prompt_notes(config: TrainConfig) -> Iterator[str]:
    """Prompts of settings that should hold a word and do not, or the other way round."""
    if not config.pivotal.is_on:
        return
    new_tokens = NewTokens.parse(config.pivotal)
    names = " or ".join(new_tokens.names)
    prompts = [line for line in config.preview.prompts.splitlines() if line.strip()]
    if prompts and not any(new_tokens.holds(prompt) for prompt in prompts):
        yield f"the prompts of the preview settings hold no {names}: the pictures will not show the subject"
    prior = config.prior
    if prior.prior_preservation == "base_model" and new_tokens.holds(prior.class_prompt):
        yield f"class_prompt holds {names}, which calls up the subject: call the class without it"


def _changed(settings: Any, defaults: Any) -> list[str]:
    names = [field.name for field in dataclasses.fields(settings)]
    return [name for name in names if getattr(settings, name) != getattr(defaults, name)]
