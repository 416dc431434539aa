"""What of the optimizer's settings has no effect, is unwise or cannot work together, in sentences."""

import dataclasses
from collections.abc import Iterable, Mapping

from ..config import OptimizerConfig, ProdigyConfig, ScheduleConfig, TrainConfig
from ..settings.part_rates import Part, part_window
from .lr_schedule import num_warmup_steps, peak_learning_rate
from .optimizer_kinds import PRODIGY_KINDS

PLUS = "prodigy_plus_schedule_free"
LEAST_PRODIGY_RATE = 0.01  # below it, what was given is a rate for AdamW
ADAM_KINDS = ("adamw", "adamw8bit", *PRODIGY_KINDS)
USED_BY = {
    "beta1": (*ADAM_KINDS, "lion", "sgd"),
    "beta2": (*ADAM_KINDS, "lion"),
    "eps": ADAM_KINDS,
}
"""The optimizers that have the setting; one that is not here, all have."""
PRODIGY_USED_BY = {"decouple": ("prodigy",), "safeguard_warmup": ("prodigy",)}
"""Likewise; both Prodigies have the others."""
_PARTS: Mapping[Part, str] = {
    "unet": "the LoRA",
    "clip_l": "clip_l",
    "clip_g": "clip_g",
    "tokens": "the tokens",
}


def optimizer_problems(config: TrainConfig) -> list[str]:
    """A sentence for each combination that cannot work, naming both settings and the way out."""
    optimizer = config.optimizer
    problems = []
    if optimizer.optimizer == "prodigy" and optimizer.lora_plus_ratio != 1:
        problems.append(
            f"lora_plus_ratio is {optimizer.lora_plus_ratio:g}, but optimizer prodigy has one rate for all "
            f"weights: set lora_plus_ratio to 1, or optimizer to {PLUS}"
        )
    if optimizer.optimizer in PRODIGY_KINDS and optimizer.effective_learning_rate < LEAST_PRODIGY_RATE:
        problems.append(
            f"learning_rate is {optimizer.learning_rate:g}, but {optimizer.optimizer} finds the rate "
            "itself and would hardly train: set learning_rate to 0 or 1, also on the training node"
        )
    if optimizer.optimizer == PLUS and optimizer.ema_decay > 0:
        problems.append(
            f"ema_decay is {optimizer.ema_decay:g}, but optimizer {PLUS} already saves a mean of the "
            "weights: set ema_decay to 0, or optimizer to prodigy"
        )
    if optimizer.optimizer == PLUS and optimizer.beta1 == 0:
        problems.append(
            f"beta1 is 0, but optimizer {PLUS} averages with it: set beta1 to 0.9, or optimizer to prodigy"
        )
    return problems


def optimizer_notes(config: TrainConfig) -> list[str]:
    """A sentence for each setting that does nothing with the others, or works against them."""
    return [
        *_unused_by_optimizer(config),
        *_unused_by_schedule(config),
        *_against_prodigy(config),
        *_of_the_rate(config),
    ]


def _unused_by_optimizer(config: TrainConfig) -> Iterable[str]:
    chosen = config.optimizer.optimizer
    # the tokens' optimizer may be another, and reads the same settings
    both = {chosen, config.pivotal.optimizer} if config.pivotal.is_on else {chosen}
    for name in _changed(config.optimizer, OptimizerConfig()):
        if both.isdisjoint(USED_BY.get(name, both)):
            yield f"{name} has no effect: optimizer {chosen} has none"
    for name in _changed(config.prodigy, ProdigyConfig()):
        if both.isdisjoint(PRODIGY_USED_BY.get(name, PRODIGY_KINDS)):
            yield f"{name} of the Prodigy settings has no effect: optimizer is {chosen}"
    if chosen == "prodigy" and not config.prodigy.decouple and config.optimizer.weight_decay == 0:
        yield "decouple of the Prodigy settings has no effect: weight_decay is 0"


def _unused_by_schedule(config: TrainConfig) -> Iterable[str]:
    schedule, warmup_steps = config.optimizer.lr_schedule, config.optimizer.warmup_steps
    changed = _changed(config.schedule, ScheduleConfig())
    if "num_cycles" in changed and schedule != "cosine_with_restarts":
        yield f"num_cycles has no effect: lr_schedule is {schedule}, not cosine_with_restarts"
    if schedule == "cosine_with_restarts" and config.schedule.num_cycles == 1:
        yield "lr_schedule cosine_with_restarts is plain cosine: num_cycles is 1"
    if "power" in changed and schedule != "polynomial":
        yield f"power has no effect: lr_schedule is {schedule}, not polynomial"
    if "warmup_share" in changed and warmup_steps > 0:
        yield f"warmup_share has no effect: warmup_steps is {warmup_steps}"
    elif "warmup_share" in changed and schedule == "constant":
        yield "warmup_share has no effect: lr_schedule constant warms up only for warmup_steps"
    yield from _below_the_peak(config)


def _below_the_peak(config: TrainConfig) -> Iterable[str]:
    """Parts that stop learning before their warm-up is over: the schedule runs over each one's own steps."""
    lengths = {part: end - first for part in _PARTS for first, end in [part_window(config, part)]}
    short = {part: n for part, n in lengths.items() if num_warmup_steps(n, config) >= n > 1}
    if not short:
        return
    warmup = (
        f"the warm-up (warmup_steps {config.optimizer.warmup_steps}, warmup_share "
        f"{config.schedule.warmup_share:g})"
    )
    if {part: n for part, n in lengths.items() if n} == {"unet": config.steps}:
        yield f"the rate never reaches its peak: {warmup} is as long as the run of {config.steps} steps"
        return
    of_parts = " and ".join(f"of {_PARTS[part]} ({n} steps)" for part, n in short.items())
    yield f"the rate {of_parts} never reaches its peak: {warmup} takes as long"


def _against_prodigy(config: TrainConfig) -> Iterable[str]:
    optimizer, rate = config.optimizer, peak_learning_rate(config)
    if optimizer.optimizer in PRODIGY_KINDS and rate != 1:
        cause = f"learning_rate {optimizer.effective_learning_rate:g}"
        cause += " with scale_lr" if optimizer.scale_lr else ""
        yield (
            f"{cause} makes the rate {rate:g}, but {optimizer.optimizer} finds the rate itself and wants 1: "
            "d_coef is the way to train more or less softly"
        )
    if optimizer.optimizer != PLUS:
        return
    if optimizer.lr_schedule not in ("constant", "constant_with_warmup"):
        yield (
            f"lr_schedule {optimizer.lr_schedule} with optimizer {PLUS}: it needs no falling rate and is "
            "meant for constant"
        )
    if optimizer.max_grad_norm > 0:
        yield (
            f"max_grad_norm {optimizer.max_grad_norm:g} with optimizer {PLUS}: it limits its updates itself, "
            "and shortened gradients disturb its estimate of the rate; its authors advise 0"
        )
    if config.prodigy.use_bias_correction:
        yield (
            f"use_bias_correction with optimizer {PLUS}: it may take up to ten times as long to find the "
            "rate, say its authors, who leave it off"
        )


def _of_the_rate(config: TrainConfig) -> Iterable[str]:
    optimizer = config.optimizer
    if optimizer.scale_lr and config.batch_size * config.run.gradient_accumulation == 1:
        yield "scale_lr has no effect: batch_size and gradient_accumulation are 1"


def _changed(settings: object, defaults: object) -> list[str]:
    names = [f.name for f in dataclasses.fields(settings)]
    return [name for name in names if getattr(settings, name) != getattr(defaults, name)]
