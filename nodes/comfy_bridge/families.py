"""Which model family a MODEL, CLIP or VAE is, and one sentence for each that is not SDXL."""

from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.sdxl_clip

from ...trainer.errors import InputError

# names of comfy.supported_models as users know them; the class name serves for the rest
FAMILY_NAMES = {
    "SD15": "Stable Diffusion 1.5",
    "SD15_instructpix2pix": "Stable Diffusion 1.5 instruct-pix2pix",
    "SD20": "Stable Diffusion 2",
    "SD21UnclipL": "Stable Diffusion 2.1 unCLIP",
    "SD21UnclipH": "Stable Diffusion 2.1 unCLIP",
    "SDXLRefiner": "the SDXL refiner",
    "SDXL_instructpix2pix": "SDXL instruct-pix2pix",
    "SSD1B": "SSD-1B, a pruned SDXL",
    "Segmind_Vega": "Segmind Vega, a pruned SDXL",
    "KOALA_700M": "KOALA, a pruned SDXL",
    "KOALA_1B": "KOALA, a pruned SDXL",
    "SD3": "Stable Diffusion 3",
    "FluxSchnell": "Flux schnell",
    "Stable_Cascade_C": "Stable Cascade",
    "Stable_Cascade_B": "Stable Cascade",
    "QwenImage": "Qwen-Image",
    "ZImage": "Z-Image",
    "Lumina2": "Lumina 2",
}
CLIP_NAMES = {
    "SD1ClipModel": "Stable Diffusion 1.5's",
    "SD2ClipModel": "Stable Diffusion 2's",
    "SDXLRefinerClipModel": "the SDXL refiner's",
    "StableCascadeClipModel": "Stable Cascade's",
    "SD3ClipModel": "Stable Diffusion 3's",
    "FluxClipModel": "Flux's",
}
LATENT_FORMATS = (comfy.latent_formats.SDXL, comfy.latent_formats.SDXL_Playground_2_5)
NUM_LATENT_CHANNELS = 4
LATENT_DOWNSCALE = 8
CHOOSE_SDXL = "wire the outputs of one SDXL checkpoint loader"


def require_sdxl(model: Any, clip: Any, vae: Any) -> None:
    """Check the three inputs of a trainer node.

    Raises:
        InputError: one or more of them are missing or of another family; all are named.
    """
    problems = [p for p in (_model_problem(model), _clip_problem(clip), _vae_problem(vae)) if p]
    if problems:
        raise InputError(f"{'; '.join(problems)}: {CHOOSE_SDXL}")


def model_family(model: Any) -> str:
    """The name that users know for the family of a MODEL."""
    name = type(model.model.model_config).__name__
    return FAMILY_NAMES.get(name, name)


def _model_problem(model: Any) -> str:
    if model is None:
        return "model is missing, but must be SDXL"
    if not isinstance(getattr(model, "model", None), comfy.model_base.BaseModel):
        return f"model is a {type(model).__name__}, but must be SDXL"
    if not isinstance(model.model, comfy.model_base.SDXL):
        return f"model is {model_family(model)}, but must be SDXL"
    unet_config = model.model.model_config.unet_config
    channels = unet_config.get("in_channels", NUM_LATENT_CHANNELS)
    if channels == 9:
        return "model is an SDXL inpainting model (9 input channels), but must be SDXL with 4"
    if channels != NUM_LATENT_CHANNELS:
        return f"model is {model_family(model)} ({channels} input channels), but must be SDXL with 4"
    if not _is_full_shape(unet_config):
        return f"model is {model_family(model)}, whose layers LoRA files for SDXL do not fit"
    latent_format = model.get_model_object("latent_format")
    if not isinstance(latent_format, LATENT_FORMATS):
        return f"model uses {type(latent_format).__name__} latents, but must use SDXL's"
    return ""


def _is_full_shape(unet_config: dict[str, Any]) -> bool:
    """SDXL has the same number of transformer blocks all over one resolution; pruned models do not."""
    blocks, downwards = unet_config["num_res_blocks"], list(unet_config["transformer_depth"])
    if len(set(blocks)) != 1:
        return False
    upwards = list(unet_config["transformer_depth_output"])
    for num_blocks in blocks:
        level, downwards = downwards[:num_blocks], downwards[num_blocks:]
        level += upwards[: num_blocks + 1]
        upwards = upwards[num_blocks + 1 :]
        if len(set(level)) != 1:
            return False
    return unet_config["transformer_depth_middle"] == level[-1]


def _clip_problem(clip: Any) -> str:
    if clip is None:
        return "clip is missing (the checkpoint holds none), but must be SDXL's pair"
    encoder = getattr(clip, "cond_stage_model", None)
    if isinstance(encoder, comfy.sdxl_clip.SDXLClipModel):
        return ""
    name = type(encoder).__name__
    return f"clip is {CLIP_NAMES.get(name, name)} text encoder, but must be SDXL's pair"


def _vae_problem(vae: Any) -> str:
    if vae is None or getattr(vae, "first_stage_model", None) is None:
        return "vae is missing (the checkpoint holds none), but must be SDXL's"
    channels = vae.latent_channels
    if channels != NUM_LATENT_CHANNELS:
        return f"vae has {channels} latent channels, but SDXL's has {NUM_LATENT_CHANNELS}"
    if vae.latent_dim != 2 or vae.downscale_ratio != LATENT_DOWNSCALE:
        return f"vae is {type(vae.first_stage_model).__name__}, but must be SDXL's (1/8 of the picture)"
    return ""
