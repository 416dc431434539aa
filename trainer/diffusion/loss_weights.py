"""How much each timestep counts.

`B` batch. With e the error of the predicted clean latents, the plain squared error is SNR·e² for a model that
predicts noise and (SNR + 1)·e² for one that predicts velocity; that is where their formulas differ.
"""

import torch
from torch import Tensor

from ..settings.objective_config import ObjectiveConfig
from .noise_schedule import NoiseSchedule, PredictionType

LARGEST_DEBIASED_SNR = 1000.0
"""Both kohya and OneTrainer cap the SNR of debiased estimation here."""


def timestep_weights(schedule: NoiseSchedule, timesteps: Tensor, config: ObjectiveConfig) -> Tensor | None:
    """(B,) weights of the chosen rule, None where all are 1.

    EDM checkpoints keep their own, which is 1 on the network's own output (see noise_schedule.py), whatever
    the settings say: min-SNR and debiased estimation are made for the losses of the other two kinds.
    """
    kind = schedule.prediction_type
    if kind == "edm":
        return None
    if config.edm_training:
        return edm_weights(schedule.snr(timesteps), kind)
    if config.debiased_estimation:
        return debiased_weights(schedule.snr(timesteps), kind)
    if config.min_snr_gamma > 0:
        return min_snr_weights(schedule.snr(timesteps), config.min_snr_gamma, kind)
    return None


def min_snr_weights(snr: Tensor, gamma: float, prediction_type: PredictionType) -> Tensor:
    """(B,) weights min(snr, γ)/snr for epsilon, min(snr, γ)/(snr + 1) for v (arXiv 2303.09556 sec. 3.4)."""
    if prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1)
    return snr.clamp(max=gamma) / (snr + 1)


def debiased_weights(snr: Tensor, prediction_type: PredictionType) -> Tensor:
    """(B,) weights 1/√snr for epsilon (arXiv 2310.08442 eq. 9), 1/√(snr + 1) for v; the SNR capped at 1000.

    That is one over the root of what the plain loss makes of e². For v this is OneTrainer's
    (modules/modelSetup/mixin/ModelSetupDiffusionLossMixin.py at 23df383); kohya's 1/(snr + 1) would be the
    plain error of the clean latents, which nearly leaves out the clean timesteps that the paper keeps.
    """
    capped = snr.clamp(max=LARGEST_DEBIASED_SNR)
    if prediction_type == "epsilon":
        # no epsilon schedule has an SNR of 0, but a weight is never infinite
        return capped.clamp(min=torch.finfo(snr.dtype).tiny).rsqrt()
    return (capped + 1).rsqrt()


def edm_weights(snr: Tensor, prediction_type: PredictionType) -> Tensor:
    """(B,) weights that make the plain loss the error of the clean latents times σ⁻².

    That is diffusers' `do_edm_style_training` for models that are no EDM checkpoints
    (examples/dreambooth/train_dreambooth_lora_sdxl.py at 58eb52c, line 1794): σ⁻² = SNR, so the weight is 1
    for epsilon, whose loss already is that, and snr/(snr + 1) for v.
    """
    return torch.ones_like(snr) if prediction_type == "epsilon" else snr / (snr + 1)
