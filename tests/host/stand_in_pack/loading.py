"""assets/tiny_sdxl (a diffusers folder) through ComfyUI's own loading functions.

ComfyUI tells families apart by exact sizes, so a subclass of its SDXL with the stand-in's sizes is
registered; everything after that is the host's code.
"""

import json
from pathlib import Path

import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
from comfy import sdxl_clip

STAND_IN = Path(__file__).resolve().parents[3] / "assets" / "tiny_sdxl"
CLIP_KEYS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "hidden_act")


def load_stand_in(folder=STAND_IN):
    """(MODEL, CLIP, VAE), as CheckpointLoaderSimple would give them."""
    return load_model(folder), load_clip(folder), load_vae(folder)


def _config(folder, part):
    return json.loads((folder / part / "config.json").read_text())


def _weights(folder, part):
    (file,) = (folder / part).glob("*.safetensors")
    return comfy.utils.load_torch_file(str(file))


def unet_sizes(config):
    """ComfyUI's unet_config of a diffusers UNet config, as far as the key map needs it."""
    widths = config["block_out_channels"]
    layers = config["layers_per_block"]
    levels = [
        depth if "CrossAttn" in kind else 0
        for depth, kind in zip(
            config["transformer_layers_per_block"], config["down_block_types"], strict=True
        )
    ]
    return {
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [layers] * len(widths),
        "transformer_depth": [depth for depth in levels for _ in range(layers)],
        "transformer_depth_output": [depth for depth in levels for _ in range(layers + 1)],
        "transformer_depth_middle": levels[-1],
    }


def load_model(folder=STAND_IN, extra_keys=None, options=None):
    config = _config(folder, "unet")
    sizes = unet_sizes(config)
    family = {
        "model_channels": sizes["model_channels"],
        "use_linear_in_transformer": True,
        "transformer_depth": sizes["transformer_depth"],
        "context_dim": config["cross_attention_dim"],
        "adm_in_channels": config["projection_class_embeddings_input_dim"],
        "use_temporal_attention": False,
    }
    head_width = config["block_out_channels"][0] // config["attention_head_dim"][0]
    register(family, head_width)
    names = comfy.utils.unet_to_diffusers(sizes)
    state = {names[name]: weight for name, weight in _weights(folder, "unet").items()}
    state |= extra_keys or {}
    return comfy.sd.load_diffusion_model_state_dict(state, model_options=options or {})


def register(family, head_width):
    known = [m for m in comfy.supported_models.models if m.__name__ == "StandInSDXL"]
    for entry in known:
        comfy.supported_models.models.remove(entry)
    extra = {"num_heads": -1, "num_head_channels": head_width}
    members = {"unet_config": family, "unet_extra_config": extra}
    entry = type("StandInSDXL", (comfy.supported_models.SDXL,), members)
    comfy.supported_models.models.insert(0, entry)


def load_clip(folder=STAND_IN, dtype=None):
    options, state = {} if dtype is None else {"dtype": dtype}, {}
    for name, part in (("clip_l", "text_encoder"), ("clip_g", "text_encoder_2")):
        config = _config(folder, part)
        options[f"{name}_model_config"] = {key: config[key] for key in CLIP_KEYS}
        for key, weight in _weights(folder, part).items():
            inner = key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}"
            state[f"{name}.transformer.{inner}"] = weight
    state.pop("clip_l.transformer.text_model.embeddings.position_ids", None)
    target = comfy.supported_models_base.ClipTarget(sdxl_clip.SDXLTokenizer, sdxl_clip.SDXLClipModel)
    clip = comfy.sd.CLIP(target, model_options=options)
    missing, _ = clip.load_sd(state, full_model=True)
    lost = [key for key in missing if not key.endswith(("logit_scale", "text_projection.weight"))]
    assert not lost, f"the stand-in's text encoders lack {lost}"
    return clip


def load_vae(folder=STAND_IN, dtype=None):
    config = _config(folder, "vae")
    widths = config["block_out_channels"]
    sizes = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    parameters = {"ddconfig": sizes, "embed_dim": config["latent_channels"]}
    return comfy.sd.VAE(sd=_weights(folder, "vae"), config={"params": parameters}, dtype=dtype)
