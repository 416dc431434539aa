"""The loss of a training step: randomness in `draw_noise`, maths in `denoising_losses`.

`B` batch, `H W` size of the latents. Nothing here moves tensors between devices, waits for them or logs.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .conditioning import Batch
from .config import ObjectiveConfig
from .noise_schedule import NoiseSchedule, PredictionType

Predict = Callable[[Tensor, Tensor, Batch], Tensor]
"""(noisy_latents (B, 4, H, W), timesteps (B,), batch) -> model_pred (B, 4, H, W)."""


def draw_noise(shape: Sequence[int], seed: int, index: int, num_timesteps: int) -> tuple[Tensor, Tensor]:
    """Noise and timesteps of the micro-step `index`: a pure function of its arguments, on the CPU.

    Args:
        shape: of the latents, (B, 4, H, W).
        seed: of the run.
        index: micro-steps (forward passes) before this one, from the run's beginning.
        num_timesteps: length of the schedule.

    Returns:
        noise of `shape`, float32 standard normal; timesteps (B,) int64 in [0, num_timesteps).
    """
    # hashed, because neighbouring seeds of one generator, or seed + index, would share their streams
    digest = hashlib.blake2b(f"noise:{seed}:{index}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    timesteps = torch.randint(0, num_timesteps, (shape[0],), generator=generator)
    return torch.randn(tuple(shape), generator=generator), timesteps


def denoising_losses(
    predict: Predict,
    batch: Batch,
    noise: Tensor,
    timesteps: Tensor,
    schedule: NoiseSchedule,
    config: ObjectiveConfig,
) -> Tensor:
    """Weighted mean squared error of each sample, (B,) float32.

    All tensors are on one device; `noise` has the shape of `batch.latents`, `timesteps` is (B,).
    """
    noisy_latents = schedule.add_noise(batch.latents, noise, timesteps)
    model_pred = predict(noisy_latents, timesteps, batch)
    target = schedule.target(batch.latents, noise, timesteps)

    losses = (model_pred.float() - target.float()).square().flatten(1).mean(1)
    if config.min_snr_gamma == 0:
        return losses
    return losses * min_snr_weights(schedule.snr(timesteps), config.min_snr_gamma, schedule.prediction_type)


def min_snr_weights(snr: Tensor, gamma: float, prediction_type: PredictionType) -> Tensor:
    """(B,) weights min(snr, γ)/snr for epsilon, min(snr, γ)/(snr + 1) for v (arXiv 2303.09556 sec. 3.4)."""
    if prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1)
    return snr.clamp(max=gamma) / (snr + 1)
