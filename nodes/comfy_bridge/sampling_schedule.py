"""The noise schedule and prediction type that ComfyUI samples this MODEL with."""

from typing import TYPE_CHECKING, Any

import torch
from comfy import model_sampling

from ...trainer.errors import InputError

if TYPE_CHECKING:
    from ...trainer.diffusion.noise_schedule import NoiseSchedule

NUM_TIMESTEPS = 1000


def noise_schedule(model: Any) -> "NoiseSchedule":
    """The schedule of `model`, patched ones (ModelSamplingDiscrete, ModelSamplingContinuousEDM) included.

    Must be called outside inference mode.

    Raises:
        InputError: a sampling that SDXL training does not know (CosXL's, LCM, x0, flow), by name.
    """
    from ...trainer.diffusion.noise_schedule import NoiseSchedule

    sampling = model.get_model_object("model_sampling")
    kind = prediction_type(sampling)
    if kind == "edm":
        return NoiseSchedule.edm(
            float(sampling.sigma_min), float(sampling.sigma_max), float(sampling.sigma_data)
        )
    sigmas = torch.tensor(sampling.sigmas.tolist(), dtype=torch.float64)  # an ordinary copy
    return NoiseSchedule.from_sigmas(sigmas, kind)


def prediction_type(sampling: Any) -> str:
    """Either "epsilon", "v_prediction" or "edm", of a `model_sampling` object; InputError names any other."""
    kind = type(sampling)
    denoised = getattr(kind, "calculate_denoised", None)
    if isinstance(sampling, model_sampling.ModelSamplingDiscrete) and len(sampling.sigmas) == NUM_TIMESTEPS:
        if denoised is model_sampling.EPS.calculate_denoised:
            return "epsilon"
        if denoised is model_sampling.V_PREDICTION.calculate_denoised:
            return "v_prediction"
    # ContinuousV and Cosmos are subclasses that tell the model other timesteps
    tells_c_noise = getattr(kind, "timestep", None) is model_sampling.ModelSamplingContinuousEDM.timestep
    if tells_c_noise and denoised is model_sampling.EDM.calculate_denoised:
        return "edm"
    names = " + ".join(base.__name__ for base in kind.__bases__)
    raise InputError(
        f"the model samples with {names}, but training knows EDM, and epsilon and v-prediction on 1000 "
        "timesteps: remove the sampling patch, or choose a checkpoint that samples so"
    )
