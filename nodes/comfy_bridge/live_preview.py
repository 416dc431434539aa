"""Pictures in the middle of a run: ComfyUI's samplers on the trainer's own UNet, with its adapter as it is.

The host's UNet lends its weights to the view and is on the device already. Neither is it loaded again nor
patched: the samplers get a clone of MODEL whose function wrapper asks the view instead.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP
from PIL import Image
from torch import Tensor

from ...trainer.config import PreviewConfig
from .preview import EncodedPrompts, decode_latents, require_sampler, sample_latents, to_pictures

if TYPE_CHECKING:
    from ...trainer.sdxl.model import Denoiser


def draw_live(
    patcher: Any,
    vae: Any,
    denoiser: "Denoiser",
    encoded: EncodedPrompts,
    config: PreviewConfig,
    size: tuple[int, int],
) -> list[Image.Image]:
    """One picture for each prompt, to rounding what KSampler draws with the adapter's LoRA on MODEL.

    When Cancel is pressed, no picture is given out, and the wish stays to be seen: the run saves first.

    Args:
        patcher: the MODEL whose weights `denoiser` uses.
        vae: VAE.
        denoiser: the open view with its adapter.
        encoded: from `preview.encode_prompts`.
        config: sampler, scheduler, steps, guidance and seed.
        size: (width, height), pixels, multiples of 8.

    Raises:
        InputError: this ComfyUI has no such sampler or scheduler.
    """
    require_sampler(config)
    device = patcher.load_device
    cuda = [device] if device.type == "cuda" else []
    # samplers seed the process' own generators; a run's draws must not depend on its previews
    with torch.random.fork_rng(devices=cuda), torch.inference_mode(), _own_sampling(patcher):
        model = _live_model(patcher, _LiveUNet(patcher, denoiser, size))
        try:
            latents = [
                sample_latents(model, encoded, index, config, size) for index in range(len(encoded.positives))
            ]
            comfy.model_management.soft_empty_cache()
            return [picture for x in latents for picture in to_pictures(decode_latents(vae, x))]
        except comfy.model_management.InterruptProcessingException:
            comfy.model_management.interrupt_current_processing()
            return []


class _LiveUNet:
    """The trainer's view in the place of `BaseModel.apply_model`: noisy latents in, denoised ones out."""

    def __init__(self, patcher: Any, denoiser: "Denoiser", size: tuple[int, int]) -> None:
        from ...trainer.diffusion.conditioning import inference_time_ids

        self._sampling = patcher.get_model_object("model_sampling")
        self._denoiser = denoiser
        self._time_ids = inference_time_ids(size)

    def __call__(self, _: Any, arguments: dict[str, Any]) -> Tensor:
        from ...trainer.diffusion.conditioning import Batch, stack_time_ids

        comfy.model_management.throw_exception_if_processing_interrupted()
        conditions = arguments["c"]
        # what an adapter keeps from a call must be an ordinary tensor, or its next training step fails
        with torch.inference_mode(False), torch.no_grad():
            x, sigma = arguments["input"].clone(), arguments["timestep"].clone()
            time_ids = stack_time_ids([self._time_ids] * len(x), x.device)
            embeds, vector = conditions["c_crossattn"].clone(), conditions["y"].clone()
            pooled = vector[:, : self._pooled_width(vector)]
            inputs = self._sampling.calculate_input(sigma, x)
            timesteps = self._sampling.timestep(sigma).float()
            predicted = self._denoiser.predict(inputs, timesteps, Batch(inputs, embeds, pooled, time_ids))
            return self._sampling.calculate_denoised(sigma, predicted.float(), x)

    def _pooled_width(self, vector: Tensor) -> int:
        """ComfyUI's vector is the pooled text and the embedded sizes; diffusers embeds those itself."""
        width: int = self._denoiser.unet.config["addition_time_embed_dim"]
        return vector.shape[1] - len(self._time_ids) * width


def _live_model(patcher: Any, unet: _LiveUNet) -> Any:
    model = patcher.clone()
    model.set_model_unet_function_wrapper(unet)
    model.add_wrapper(WrappersMP.PREPARE_SAMPLING, _without_loading)
    return model


def _without_loading(
    _: Any, model: Any, __: Any, conds: Any, *___: Any, **____: Any
) -> tuple[Any, Any, list]:
    """In the place of loading MODEL, whose weights the view already holds on the device."""
    return model.model, conds, []


@contextlib.contextmanager
def _own_sampling(patcher: Any) -> Iterator[None]:
    """The sampling patch of MODEL on its model, where the host has taken it off or not yet put it on."""
    wanted, held = patcher.get_model_object("model_sampling"), patcher.model.model_sampling
    patcher.model.model_sampling = wanted
    try:
        yield
    finally:
        patcher.model.model_sampling = held
