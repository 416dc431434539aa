"""Objective settings side by side: combinations that cannot work, and settings without effect."""

from collections.abc import Iterator
from dataclasses import fields

from ..errors import InputError
from ..settings.objective_config import LAST_TIMESTEP, NoiseConfig, ObjectiveConfig
from .noise_schedule import NoiseSchedule, schedule_for

LORA_SAMPLES = "sample with the same, through ModelSamplingDiscrete behind the model"


def objective_problems(
    config: ObjectiveConfig, noise: NoiseConfig, schedule: NoiseSchedule | None = None
) -> list[str]:
    """A sentence for each combination that cannot be trained; each names both settings.

    Args:
        config: objective settings.
        noise: noise settings.
        schedule: of the model as it samples; None = not known yet.
    """
    return [*_weight_problems(config), *_schedule_problems(config, noise, schedule)]


def objective_notes(
    config: ObjectiveConfig, noise: NoiseConfig, schedule: NoiseSchedule | None = None
) -> list[str]:
    """A sentence for each setting that does nothing in the chosen mode, or that sampling must follow.

    Args:
        config: objective settings.
        noise: noise settings.
        schedule: of the model as it samples; None = not known yet.
    """
    notes = [*_loss_notes(config), *_noise_notes(noise)]
    if schedule is None or objective_problems(config, noise, schedule):
        return notes
    return [*_model_notes(config, schedule), *_weight_notes(config, noise, schedule), *notes]


def _weight_problems(config: ObjectiveConfig) -> Iterator[str]:
    if config.min_snr_gamma > 0 and config.debiased_estimation:
        yield (
            f"min_snr_gamma is {config.min_snr_gamma:g} and debiased_estimation is on, but both weight the "
            "timesteps: set min_snr_gamma to 0 or debiased_estimation to off"
        )
    if config.edm_training and config.min_snr_gamma > 0:
        yield (
            f"edm_training is on and min_snr_gamma is {config.min_snr_gamma:g}, but EDM brings weights of "
            "its own: set min_snr_gamma to 0 or edm_training to off"
        )
    if config.edm_training and config.debiased_estimation:
        yield (
            "edm_training and debiased_estimation are on, but EDM brings weights of its own: turn one of "
            "them off"
        )
    if config.edm_training and config.loss != "l2":
        yield (
            f"edm_training is on and loss is {config.loss}, but EDM's weights are those of a squared error: "
            "set loss to l2 or edm_training to off"
        )


def _schedule_problems(
    config: ObjectiveConfig, noise: NoiseConfig, schedule: NoiseSchedule | None
) -> Iterator[str]:
    if config.prediction_type == "epsilon" and config.zero_terminal_snr == "on":
        yield (
            "prediction_type is epsilon and zero_terminal_snr is on, but where the last timestep is noise "
            "alone, predicting it teaches nothing: set prediction_type to v_prediction or zero_terminal_snr "
            "to off"
        )
        return
    if schedule is None:
        return
    try:
        trained = schedule_for(schedule, config)
    except InputError as error:
        yield str(error)
        return
    is_last_only = trained.ends_without_signal and noise.timestep_min == LAST_TIMESTEP
    if is_last_only and (config.min_snr_gamma > 0 or config.edm_training):
        rule = "edm_training" if config.edm_training else "min_snr_gamma"
        yield (
            f"timestep_min is {noise.timestep_min}, but with zero_terminal_snr {rule} gives that timestep no "
            f"weight, so nothing would be learned: lower timestep_min or turn {rule} off"
        )


def _model_notes(config: ObjectiveConfig, schedule: NoiseSchedule) -> Iterator[str]:
    """Where training leaves the schedule that the model samples with."""
    if schedule.prediction_type == "edm":
        if config.zero_terminal_snr == "off":
            yield "zero_terminal_snr has no effect: the model is an EDM checkpoint, with sigmas of its own"
        return
    trained = schedule_for(schedule, config)
    if trained.prediction_type != schedule.prediction_type:
        yield (
            f"prediction_type is {trained.prediction_type}, but the model samples as "
            f"{schedule.prediction_type}: {LORA_SAMPLES}"
        )
    if trained.ends_without_signal != schedule.ends_without_signal:
        is_on = "with" if trained.ends_without_signal else "without"
        yield f"the LoRA is trained {is_on} zero_terminal_snr, unlike the model: {LORA_SAMPLES} (zsnr)"
    elif config.zero_terminal_snr != "auto":
        yield f"zero_terminal_snr {config.zero_terminal_snr} has no effect: the model has it so already"


def _weight_notes(config: ObjectiveConfig, noise: NoiseConfig, schedule: NoiseSchedule) -> Iterator[str]:
    if schedule.prediction_type == "edm":
        kept = "has no effect: the model is an EDM checkpoint, which is trained with EDM's weights"
        if config.edm_training:
            yield f"edm_training {kept} anyway"
        if config.min_snr_gamma > 0:
            yield f"min_snr_gamma {kept}"
        if config.debiased_estimation:
            yield f"debiased_estimation {kept}"
        return
    trained = schedule_for(schedule, config)
    if trained.prediction_type != "epsilon":
        return
    if config.edm_training:
        yield (
            "edm_training has no effect on an epsilon model: the error of the clean picture weighted by "
            "sigma^-2 is the error of the noise"
        )
    alpha_cumprod = float(trained.alphas_cumprod[noise.timestep_min])
    largest_snr = alpha_cumprod / (1 - alpha_cumprod)
    if config.min_snr_gamma >= largest_snr:
        yield (
            f"min_snr_gamma {config.min_snr_gamma:g} has no effect: no timestep trained has a "
            f"signal-to-noise ratio above {largest_snr:.3g}"
        )


def _loss_notes(config: ObjectiveConfig) -> Iterator[str]:
    if config.loss not in ("huber", "smooth_l1"):
        for name in _changed(config, ("huber_c", "huber_schedule")):
            yield f"{name} has no effect: loss is {config.loss}, not huber or smooth_l1"
    if config.unmasked_weight == 1:
        yield "unmasked_weight 1 makes masks have no effect: everything counts alike"


def _noise_notes(noise: NoiseConfig) -> Iterator[str]:
    if noise.pyramid_iterations == 0:
        for name in _changed(noise, ("pyramid_discount",)):
            yield f"{name} has no effect: pyramid_iterations is 0"
    if noise.pyramid_iterations == 1:
        yield "pyramid_iterations 1 has no effect: the first size is the full one; 6 to 10 add coarse noise"
    if noise.timestep_sampling != "logit_normal":
        for name in _changed(noise, ("logit_mean", "logit_std")):
            yield f"{name} has no effect: timestep_sampling is {noise.timestep_sampling}, not logit_normal"
    if noise.timestep_sampling != "uniform" and noise.timestep_min == noise.timestep_max:
        yield (
            f"timestep_sampling has no effect: timestep_min and timestep_max are both {noise.timestep_min}, "
            "so there is one timestep only"
        )


def _changed(config: ObjectiveConfig | NoiseConfig, names: tuple[str, ...]) -> list[str]:
    """Those of `names` that are not at their default."""
    defaults = {f.name: f.default for f in fields(config)}
    return [name for name in names if getattr(config, name) != defaults[name]]
