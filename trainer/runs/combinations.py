"""All settings of a run side by side: what cannot work together is refused, what does nothing is said.

Each dataclass checks its own values; here stand the pairs that only show once dataset and model are known.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from ..config import TrainConfig
from ..data.dataset import TrainingSet
from ..diffusion.noise_schedule import NoiseSchedule
from ..diffusion.objective_checks import objective_notes, objective_problems
from ..errors import InputError
from ..optimization.optimizer_checks import optimizer_notes, optimizer_problems
from ..settings.part_rates import part_window
from ..text.new_tokens import NewTokens
from ..text.text_checks import text_notes, text_problems
from .milestones import Milestones
from .previews import preview_prompts


def check_combinations(
    config: TrainConfig,
    dataset: TrainingSet,
    schedule: NoiseSchedule | None = None,
    starts_from_lora: bool = False,
) -> list[str]:
    """Sentences about settings that have no effect in the chosen mode; none where all do something.

    Args:
        config: the resolved settings.
        dataset: all pictures, those that will be held out too.
        schedule: of the model as it samples; None = not known yet, so that what hangs on it is not looked at.
        starts_from_lora: whether there is a LoRA whose weights the new one starts with.

    Raises:
        InputError: combinations that cannot work: all of them, each with both names and a way out.
    """
    problems = [
        *optimizer_problems(config),
        *objective_problems(config.objective, config.noise, schedule),
        *text_problems(config, starts_from_lora),
        *_run_problems(config),
    ]
    if len(problems) == 1:
        raise InputError(f"these settings cannot work together: {problems[0]}")
    if problems:
        raise InputError("\n- ".join(["these settings cannot work together:", *problems]))
    return [
        *_lora_notes(config),
        *optimizer_notes(config),
        *text_notes(config),
        *objective_notes(config.objective, config.noise, schedule),
        *_dataset_notes(config, dataset),
        *_prior_notes(config, dataset),
        *_checkpoint_notes(config),
        *_validation_notes(config, dataset),
        *_preview_notes(config, dataset),
        *_logging_notes(config),
    ]


def _run_problems(config: TrainConfig) -> Iterator[str]:
    run = config.run
    if run.resume_from_step and config.resume == "new":
        yield (
            f"resume is new and resume_from_step is {run.resume_from_step}, but a new run has no step to go "
            "on from: set resume to auto, or resume_from_step to 0"
        )
    if run.resume_from_step >= config.steps:
        yield (
            f"resume_from_step is {run.resume_from_step} and steps is {config.steps}, so nothing would be "
            "left to train: raise steps, or lower resume_from_step"
        )
    if run.save_diffusers and config.lora.adapter != "lora":
        yield (
            f"save_diffusers is on and adapter is {config.lora.adapter}, but diffusers' format holds plain "
            "LoRAs only: set save_diffusers to off, or adapter to lora"
        )


def _lora_notes(config: TrainConfig) -> Iterator[str]:
    lora = config.lora
    if lora.adapter != "lokr" and _is_changed(lora, "lokr_factor"):
        yield f"lokr_factor has no effect: adapter is {lora.adapter}, not lokr"
    if lora.rank_stabilized and lora.rank == 1:
        yield "rank_stabilized has no effect: rank is 1, and its square root is the same"


def _dataset_notes(config: TrainConfig, dataset: TrainingSet) -> Iterator[str]:
    objective = config.objective
    if not dataset.has_masks:
        for name in ("unmasked_weight", "mask_normalization"):
            if _is_changed(objective, name):
                yield f"{name} has no effect: the dataset has no masks (Dataset Masks gives it some)"
    if objective.size_conditioning == "true" and _has_inference_sizes(dataset):
        yield "size_conditioning true has no effect: every picture has the size of its bucket"
    has_captions = any(caption for picture in dataset.pictures for caption in picture.captions)
    if _is_changed(objective, "caption_dropout") and objective.caption_dropout and not has_captions:
        yield "caption_dropout has no effect: no picture of the dataset has a caption"


def _has_inference_sizes(dataset: TrainingSet) -> bool:
    """Whether the true time_ids of all pictures are those that sampling asks for."""
    return all(
        dataset.true_time_ids(variant) == (*variant.bucket[::-1], 0, 0, *variant.bucket[::-1])
        for variants in dataset.variants
        for variant in variants
    )


def _prior_notes(config: TrainConfig, dataset: TrainingSet) -> Iterator[str]:
    prior, has_images = config.prior, dataset.class_set is not None
    mode = prior.prior_preservation
    is_active = mode == "base_model" or (mode == "auto" and has_images)
    if has_images and mode != "auto":
        yield f"the class images of the dataset have no effect: prior_preservation is {mode}, not auto"
    if is_active and prior.prior_loss_weight == 0:
        yield f"prior_preservation {mode} has no effect: prior_loss_weight is 0"
    if not is_active and _is_changed(prior, "prior_loss_weight"):
        missing = (
            "" if mode == "off" else ", and the dataset has no class images (Class Images gives it some)"
        )
        yield f"prior_loss_weight has no effect: prior_preservation is {mode}{missing}"
    if prior.class_prompt.strip() and mode != "base_model":
        yield (
            f"class_prompt has no effect: prior_preservation is {mode}, and only base_model reads it; class "
            "images have captions of their own"
        )


def _checkpoint_notes(config: TrainConfig) -> Iterator[str]:
    run = config.run
    if run.save_every_epochs and run.save_every and _is_changed(run, "save_every"):
        yield f"save_every has no effect: save_every_epochs is {run.save_every_epochs} and goes first"
    if not run.save_every and not run.save_every_epochs and _is_changed(run, "keep_last"):
        yield "keep_last has no effect: save_every and save_every_epochs are 0, so there are no checkpoints"


def _validation_notes(config: TrainConfig, dataset: TrainingSet) -> Iterator[str]:
    validation = config.validation
    if not validation.validation_share:
        for name in ("validate_every", "early_stop_patience", "keep_best"):
            if _is_changed(validation, name):
                yield f"{name} has no effect: validation_share is 0, so nothing is held out to measure on"
        return
    if not validation.keep_best and not config.run.keep_last:
        yield "keep_best off has no effect: keep_last is 0, so every checkpoint is kept"
    if not validation.early_stop_patience:
        return
    an_epoch = _trained(config, dataset).steps_per_epoch(config.batch_size, config.run.gradient_accumulation)
    every = Milestones.of(config, an_epoch).validate_every
    if not every:
        yield (
            "early_stop_patience has no effect: validate_every, save_every and save_every_epochs are 0, so "
            "the loss is measured before the first step and after the last alone"
        )
        return
    start = part_window(config, "unet")[0]
    first = max(1, math.ceil(start / every)) * every  # no loss before it is missed: the first is always best
    if first + validation.early_stop_patience * every >= config.steps:
        counted = f", counted from step {start} on," if start else ""
        yield (
            f"early_stop_patience {validation.early_stop_patience} has no effect: with a measurement every "
            f"{every} steps{counted} the run of {config.steps} ends before"
        )


def _preview_notes(config: TrainConfig, dataset: TrainingSet) -> Iterator[str]:
    every = config.preview.preview_every
    if every and not config.preview.prompts.strip():
        yield from _caption_notes(config, dataset)
    if every > config.steps:
        yield (
            f"preview_every is {every}, more than the {config.steps} steps of the run: pictures are drawn "
            "before the first step and after the last alone"
        )


def _caption_notes(config: TrainConfig, dataset: TrainingSet) -> Iterator[str]:
    """A caption that previews are drawn with for want of prompts, and that lacks the new words."""
    if not config.pivotal.is_on or config.pivotal.add_token:
        return
    new_tokens = NewTokens.parse(config.pivotal)
    (prompt,) = preview_prompts(config.preview, _trained(config, dataset))
    if not new_tokens.holds(prompt):
        yield (
            "previews are drawn with the first caption of the dataset, as there are no prompts, and it holds "
            f"no {' or '.join(new_tokens.names)}: the pictures will not show the subject"
        )


def _trained(config: TrainConfig, dataset: TrainingSet) -> TrainingSet:
    """The pictures that are left when some are held out."""
    share = config.validation.validation_share
    return dataset.split(share)[0] if share else dataset


def _logging_notes(config: TrainConfig) -> Iterator[str]:
    logging = config.logging
    if logging.tracker not in ("wandb", "all") and _is_changed(logging, "project"):
        yield f"project has no effect: tracker is {logging.tracker}, and only wandb has projects"
    if not logging.hub_model_id and _is_changed(logging, "hub_private"):
        yield "hub_private has no effect: hub_model_id is empty, so nothing is uploaded"


def _is_changed(section: Any, name: str) -> bool:
    """Whether a field is not at its default."""
    (default,) = [field.default for field in dataclasses.fields(section) if field.name == name]
    return bool(getattr(section, name) != default)
