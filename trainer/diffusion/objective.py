"""The loss of a training step: what a prediction is held against, and what it counts.

`B` batch, `H W` size of the latents. Nothing here draws, moves tensors between devices, waits for them or
logs.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..settings.objective_config import ObjectiveConfig
from .conditioning import Batch
from .loss_kinds import distance
from .loss_weights import timestep_weights
from .noise_draw import NoiseDraw
from .noise_schedule import NoiseSchedule

Predict = Callable[[Tensor, Tensor, Batch], Tensor]
"""(noisy_latents (B, 4, H, W), timesteps (B,), batch) -> model_pred (B, 4, H, W)."""


def denoising_losses(
    predict: Predict, batch: Batch, draw: NoiseDraw, schedule: NoiseSchedule, config: ObjectiveConfig
) -> Tensor:
    """Weighted loss of each sample, (B,) float32; masks and weights of the samples are applied.

    All tensors are on one device; `draw.noise` has the shape of `batch.latents`.
    """
    model_pred = predict_noisy(predict, batch, draw, schedule)
    target = schedule.target(batch.latents, draw.noise, draw.timesteps)

    errors = distance(model_pred, target, draw.timesteps, schedule, config)
    losses = masked_mean(errors, batch.masks, config)
    return _weighted(losses, batch, draw, schedule, config)


def preservation_losses(
    predict: Predict,
    predict_base: Predict,
    batch: Batch,
    draw: NoiseDraw,
    schedule: NoiseSchedule,
    config: ObjectiveConfig,
) -> Tensor:
    """How far the model has moved from its base on each sample, (B,) float32.

    The target is what the base model says of the same noisy latents and captions: preservation of what
    it knows without pictures of it (OneTrainer: prior prediction, ai-toolkit: differential output
    preservation). Kind of loss and weights are those of `denoising_losses`; masks are not read, because
    what they leave out is to be preserved too.

    Args:
        predict: the model with the adapter; gets gradients.
        predict_base: the model without it; gets none.
        batch: captioned with the class.
        draw: noise and timesteps.
        schedule: of the model.
        config: kind of loss and weights.
    """
    with torch.no_grad():
        target = predict_noisy(predict_base, batch, draw, schedule)
    model_pred = predict_noisy(predict, batch, draw, schedule)

    losses = distance(model_pred, target, draw.timesteps, schedule, config).flatten(1).mean(1)
    return _weighted(losses, batch, draw, schedule, config)


def predict_noisy(predict: Predict, batch: Batch, draw: NoiseDraw, schedule: NoiseSchedule) -> Tensor:
    """What the model says of the batch's latents with the noise in them, (B, 4, H, W)."""
    noisy_latents = schedule.add_noise(batch.latents, draw.input_noise, draw.timesteps)
    return predict(noisy_latents, schedule.model_timesteps(draw.timesteps), batch)


def masked_mean(errors: Tensor, masks: Tensor | None, config: ObjectiveConfig) -> Tensor:
    """Mean of each sample's errors (B, C, H, W) under its mask (B, 1, H, W), (B,).

    What a mask leaves out counts `unmasked_weight`: errors x max(mask, unmasked_weight). Without
    normalisation the sum is divided by all values, as kohya does, so that small masks learn slowly;
    "mean" divides by the mask's mean too, as OneTrainer's normalize_masked_area_loss.
    """
    if masks is None:
        return errors.flatten(1).mean(1)
    masks = masks.clamp(config.unmasked_weight, 1)
    losses = (errors * masks).flatten(1).mean(1)
    if config.mask_normalization == "mean":
        # a mask that leaves everything out gives 0, not 0/0
        return losses / masks.flatten(1).mean(1).clamp(min=torch.finfo(masks.dtype).tiny)
    return losses


def _weighted(
    losses: Tensor, batch: Batch, draw: NoiseDraw, schedule: NoiseSchedule, config: ObjectiveConfig
) -> Tensor:
    weights = timestep_weights(schedule, draw.timesteps, config)
    if weights is not None:
        losses = losses * weights
    return losses if batch.loss_weights is None else losses * batch.loss_weights
