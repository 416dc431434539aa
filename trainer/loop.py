"""The training loop: what one optimizer step is, and nothing of files, names or settings' origins.

Randomness is a function of (seed, micro-step) alone, so a run that goes on needs no generator's state.
On an accelerator nothing here waits for the device: losses and norms stay there and are read every ten
steps. Optimizers other than AdamW do wait, once a step, to leave out one without finite gradients.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .data.batches import Draw
from .diffusion.conditioning import Batch
from .diffusion.noise_draw import NoiseDraw, draw_noise
from .diffusion.objective import denoising_losses, preservation_losses
from .errors import InputError
from .events import StepReport
from .memory_plan import LEVELS, checkpoint_modules, empty_cache, free_bytes
from .step_figures import UnreadFigures
from .trained_part import clip_together
from .training import Training


class StopEarly(Exception):  # noqa: N818 - it is no error
    """Raised by `after_step`: the run ends here, and is a success."""


def run_steps(
    training: Training,
    report: Callable[[StepReport], None],
    after_step: Callable[[Callable[[], None]], None],
) -> None:
    """Train from `training.step` to the last step.

    Args:
        training: is changed in place.
        report: hears the figures of each step; on an accelerator ten at a time.
        after_step: called between steps with a function that reports all that is still unread; raises
            StopEarly to end the run well, anything else to break it off.

    Raises:
        InputError: the gradient was not finite several times in a row, or memory is too small.
    """
    unread = UnreadFigures(training, report)
    with contextlib.suppress(StopEarly):
        while training.step < training.config.steps:
            _optimizer_step(training, unread)
            has_turned = any(training.step in part.window for part in training.parts)
            if has_turned or training.step % training.read_every == 0:
                unread.read()
            training.settle_text()
            after_step(unread.read)
            unread.restart_clock_if_read()
    unread.read()


def _optimizer_step(training: Training, unread: UnreadFigures) -> None:
    learning = training.learning

    loss = gradients_of_step(training)

    grad_norm = clip_together(learning, training.config.optimizer.max_grad_norm)

    rates = [part.learning_rate_at(training.step) for part in learning]

    training.is_between_steps = False
    is_finite = grad_norm.isfinite()
    for part, rate in zip(learning, rates, strict=True):
        part.update(rate, is_finite)
    if training.loss_scale is not None:
        training.loss_scale.update(~is_finite)
    training.step += 1
    training.settle_parts()
    training.is_between_steps = True

    unread.add(loss, grad_norm, learning, rates[0])


def gradients_of_step(training: Training) -> Tensor:
    """Fill the flat gradients with those of one optimizer step; returns its mean loss, on the device.

    When memory runs out, the step is tried once more with the strongest checkpointing.

    Raises:
        InputError: memory runs out even so.
    """
    with contextlib.suppress(torch.cuda.OutOfMemoryError):
        return _all_micro_steps(training)
    # Only here, after the error's traceback is gone, are its activations free.
    empty_cache(training.device)
    for network in training.networks:
        checkpoint_modules(network, LEVELS[-1])
    training.memory = replace(training.memory, level=LEVELS[-1], ran_out=True)
    try:
        return _all_micro_steps(training)
    except torch.cuda.OutOfMemoryError as error:
        needed, free = training.memory.needed / 2**30, free_bytes(training.device) / 2**30
        raise InputError(
            f"out of memory at step {training.step + 1}, even with gradient checkpointing: without it the "
            f"step was estimated at {needed:.1f} GiB beside the model, {free:.1f} GiB are free; lower the "
            "batch size, the resolution (768) or the rank, or close other programs; the finished steps are "
            "saved"
        ) from error


def _all_micro_steps(training: Training) -> Tensor:
    """Mean loss over the subject's samples, plus the weighted mean over those that keep the prior."""
    config = training.config
    accumulation, prior = config.run.gradient_accumulation, config.prior
    for part in training.learning:
        part.weights.zero_gradients()
    indices = range(training.step * accumulation, (training.step + 1) * accumulation)
    batches = [training.plan.batch(index) for index in indices]
    num_samples = sum(map(len, batches))
    keeps_prior = prior.prior_preservation == "base_model" and training.reaches_all

    total_loss = torch.zeros((), device=training.device)
    with training.stepping():
        for index, samples in zip(indices, batches, strict=True):
            _begin_micro_step(training, index)
            batch = training.encoded.batch(samples)
            draw = _draw(training, batch, index)
            total_loss += micro_step(training, batch, draw, 1 / num_samples)
            if keeps_prior:
                total_loss += teacher_step(training, batch, draw, prior.prior_loss_weight / num_samples)
        if training.class_images is not None:
            total_loss += _class_micro_steps(training, indices)
    if training.loss_scale is not None:
        for part in training.learning:
            part.weights.gradient.div_(training.loss_scale.scale)
    return total_loss


def _class_micro_steps(training: Training, indices: range) -> Tensor:
    """As many class samples as the subject has, in batches of their own: their sizes may be others."""
    assert training.class_images is not None
    plan, encoded = training.class_images.plan, training.class_images.encoded
    batches = [plan.batch(index) for index in indices]
    weight = training.config.prior.prior_loss_weight / sum(map(len, batches))
    total_loss = torch.zeros((), device=training.device)
    for index, samples in zip(indices, batches, strict=True):
        if training.reaches_all or _holds_token(training, samples):
            _begin_micro_step(training, ~index)  # no index of the subject's: other weights are dropped
            batch = encoded.batch(samples)
            draw = _draw(training, batch, index, "class ")
            total_loss += micro_step(training, batch, draw, weight)
    return total_loss


def _holds_token(training: Training, samples: list[Draw]) -> bool:
    return training.text is not None and any(training.text.holds_token(draw.caption) for draw in samples)


def _begin_micro_step(training: Training, index: int) -> None:
    """Draw the dropout of all adapters anew: before captions are encoded, which dropout may act on."""
    for adapter in training.adapters:
        adapter.begin_micro_step(training.config.seed, index)


def _draw(training: Training, batch: Batch, index: int, purpose: str = "") -> NoiseDraw:
    """Noise and timesteps of one micro-step, on the device."""
    config, num_timesteps = training.config, training.denoiser.schedule.num_timesteps
    draw = draw_noise(batch.latents.shape, config.seed, index, config.noise, num_timesteps, purpose)
    return draw.to(training.device)


def micro_step(training: Training, batch: Batch, draw: NoiseDraw, weight: float) -> Tensor:
    """Add one batch's gradient to the flat ones, times the loss scale if there is one.

    Args:
        training: whose parts get the gradient.
        batch: what to denoise.
        draw: noise and timesteps for the batch, on its device.
        weight: of each sample, 1 / samples of the optimizer step, so that a smaller batch weighs less.

    Returns:
        The batch's share of the step's loss, a scalar on the device.
    """
    denoiser = training.denoiser
    losses = denoising_losses(denoiser.predict, batch, draw, denoiser.schedule, training.config.objective)
    return _backward(training, losses, weight)


def teacher_step(training: Training, batch: Batch, draw: NoiseDraw, weight: float) -> Tensor:
    """Prior preservation without pictures: on the class prompt the model must answer as without adapter.

    The same noisy latents with the class prompt in place of their captions (ai-toolkit's differential
    output preservation, OneTrainer's PRIOR_PREDICTION). Arguments and result as of `micro_step`.
    """
    denoiser, config = training.denoiser, training.config
    class_prompt = config.prior.class_prompt
    base_batch = training.encoded.with_caption(batch, class_prompt, is_base=True)

    def predict_base(noisy_latents: Tensor, timesteps: Tensor, batch: Batch) -> Tensor:
        with contextlib.nullcontext() if training.adapter is None else training.adapter.disabled():
            return denoiser.predict(noisy_latents, timesteps, base_batch)

    class_batch = training.encoded.with_caption(batch, class_prompt)
    losses = preservation_losses(
        denoiser.predict, predict_base, class_batch, draw, denoiser.schedule, config.objective
    )
    return _backward(training, losses, weight)


def _backward(training: Training, losses: Tensor, weight: float) -> Tensor:
    loss, loss_scale = losses.sum() * weight, training.loss_scale
    # without a gradient where only tokens learn and no caption of the batch holds one
    if loss.requires_grad:
        (loss if loss_scale is None else loss * loss_scale.scale).backward()
        for part in training.learning:
            part.weights.collect_gradients()
    return loss.detach()
