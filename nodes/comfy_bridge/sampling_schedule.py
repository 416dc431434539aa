"""The noise schedule and prediction type that ComfyUI samples this MODEL with."""

from typing import TYPE_CHECKING, Any

import comfy.model_sampling
import torch

from ...trainer.errors import InputError

if TYPE_CHECKING:
    from ...trainer.noise_schedule import NoiseSchedule

NUM_TIMESTEPS = 1000


def noise_schedule(model: Any) -> "NoiseSchedule":
    """The schedule of `model`, patched ones (ModelSamplingDiscrete node) included.

    Must be called outside inference mode.

    Raises:
        InputError: a sampling that SDXL training does not know (EDM, LCM, x0, flow), by name.
    """
    from ...trainer.noise_schedule import NoiseSchedule

    sampling = model.get_model_object("model_sampling")
    sigmas = torch.tensor(sampling.sigmas.tolist(), dtype=torch.float64)  # an ordinary copy
    return NoiseSchedule.from_sigmas(sigmas, prediction_type(sampling))


def prediction_type(sampling: Any) -> str:
    """Either "epsilon" or "v_prediction", of a `model_sampling` object; InputError names any other."""
    kind = type(sampling)
    is_discrete = isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete)
    if is_discrete and len(sampling.sigmas) == NUM_TIMESTEPS:
        denoised = getattr(kind, "calculate_denoised", None)
        if denoised is comfy.model_sampling.EPS.calculate_denoised:
            return "epsilon"
        if denoised is comfy.model_sampling.V_PREDICTION.calculate_denoised:
            return "v_prediction"
    names = " + ".join(base.__name__ for base in kind.__bases__)
    raise InputError(
        f"the model samples with {names}, but training knows epsilon and v-prediction on 1000 timesteps: "
        "remove the sampling patch, or choose a checkpoint without EDM or LCM sampling"
    )
