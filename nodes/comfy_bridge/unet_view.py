"""The weights of ComfyUI's UNet inside a diffusers UNet2DConditionModel, without a copy."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import comfy.utils
import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

TIME_ID_CHANNELS = 256  # sinusoidal channels of each of the six time_ids


def alias(tensor: Tensor) -> Tensor:
    """An ordinary tensor on the storage of `tensor`, which may be an inference tensor.

    Autograd refuses inference tensors; must be called outside inference mode.
    """
    view = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return view.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


def diffusers_config(unet_config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of diffusers' UNet2DConditionModel for ComfyUI's `unet_config` of an SDXL-like model."""
    num_blocks = list(unet_config["num_res_blocks"])
    widths = [unet_config["model_channels"] * m for m in unet_config["channel_mult"]]
    depths, first = [], 0
    for count in num_blocks:
        depths.append(unet_config["transformer_depth"][first])
        first += count
    head_width = unet_config["num_head_channels"]
    num_heads = [width // head_width if head_width > 0 else unet_config["num_heads"] for width in widths]
    down_types = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    up_types = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)]
    return {
        "in_channels": unet_config["in_channels"],
        "out_channels": unet_config["out_channels"],
        "block_out_channels": tuple(widths),
        "layers_per_block": num_blocks[0],  # the same all over: see families
        "down_block_types": tuple(down_types),
        "up_block_types": tuple(up_types),
        "transformer_layers_per_block": tuple(depth or 1 for depth in depths),
        "attention_head_dim": tuple(num_heads),  # diffusers' name for the number of heads
        "cross_attention_dim": unet_config["context_dim"],
        "use_linear_projection": unet_config["use_linear_in_transformer"],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_ID_CHANNELS,
        "projection_class_embeddings_input_dim": unet_config["adm_in_channels"],
    }


def unet_key_map(unet_config: Mapping[str, Any]) -> dict[str, str]:
    """The map from diffusers' parameter names to ComfyUI's, without the prefix `diffusion_model.`."""
    return comfy.utils.unet_to_diffusers(unet_config)


def build_view(unet_config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> "UNet2DConditionModel":
    """A frozen diffusers UNet whose parameters are `weights`, keyed by ComfyUI's names."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**diffusers_config(unet_config))
    names = unet_key_map(unet_config)
    state = {name: weights[names[name]] for name in unet.state_dict()}
    unet.load_state_dict(state, assign=True, strict=True)
    return unet.requires_grad_(False).eval()


def drop_weights(view: torch.nn.Module) -> None:
    """Let go of every tensor of a view, whoever still holds the module itself."""
    view.to("meta")
