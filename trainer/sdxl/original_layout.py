"""SDXL's weights as the original single file names them, for the names of diffusers and transformers.

Names are computed from the module path, so models of any depth and width are covered. The file's names are
those of https://github.com/Stability-AI/generative-models: `model.diffusion_model.` (UNet),
`conditioner.embedders.0/1.` (text encoders), `first_stage_model.` (VAE).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .model_detection import CLIP_G, CLIP_L, UNET, VAE


@dataclass(frozen=True, slots=True)
class Place:
    """Where a weight stands: a tensor's name, the third of it (query, key, value), whether transposed."""

    name: str
    third: int | None = None
    transposed: bool = False


UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
CLIP_G_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
CLIP_G_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
FUSED = ("q_proj", "k_proj", "v_proj")


def unet_module(path: str, config: Mapping[str, object]) -> str:
    """Module path of diffusers' UNet -> of the original's, without prefix.

    Args:
        path: "down_blocks.1.attentions.0.proj_in" or the like.
        config: of the UNet2DConditionModel; its depth and block types are used.
    """
    if path in UNET_ENDS:
        return UNET_ENDS[path]
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", path):
        kind, j, rest = found.groups()
        return (
            f"middle_block.1.{rest}" if kind == "attentions" else _resnet(f"middle_block.{int(j) * 2}", rest)
        )
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|\w+samplers)\.(\d+)\.(.+)", path)
    if not found:
        raise ValueError(f"'{path}' is no module of an SDXL UNet")
    side, i, kind, j, rest = found.groups()
    stride = int(str(config["layers_per_block"])) + 1
    if side == "down":
        block = "input_blocks"
        index = int(i) * stride + (stride if kind == "downsamplers" else int(j) + 1)
    else:
        block = "output_blocks"
        index = int(i) * stride + (stride - 1 if kind == "upsamplers" else int(j))
    if kind == "resnets":
        return _resnet(f"{block}.{index}.0", rest)
    if kind == "attentions":
        return f"{block}.{index}.1.{rest}"
    if kind == "downsamplers":
        return f"{block}.{index}.0.op"
    types = config["up_block_types"]
    assert isinstance(types, list | tuple)
    return f"{block}.{index}.{2 if 'CrossAttn' in types[int(i)] else 1}.conv"


def _resnet(block: str, rest: str) -> str:
    return f"{block}.{UNET_RESNET[rest]}"


def unet_place(name: str, config: Mapping[str, object]) -> Place:
    path, _, parameter = name.rpartition(".")
    return Place(f"{UNET}{unet_module(path, config)}.{parameter}")


def vae_place(name: str, config: Mapping[str, object]) -> Place:
    """Weight of diffusers' AutoencoderKL -> of the original's; its decoder counts blocks from the end."""
    types = config["up_block_types"]
    assert isinstance(types, list | tuple)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if found := re.fullmatch(r"(.+)mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        return Place(f"{VAE}{found[1]}mid.attn_1.{VAE_ATTENTION[found[2]]}.{found[3]}")
    name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
    name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{len(types) - 1 - int(m[1])}", name)
    name = re.sub(r"resnets\.(\d+)", r"block.\1", name)
    name = name.replace("samplers.0.", "sample.").replace("conv_shortcut", "nin_shortcut")
    return Place(VAE + name.replace("conv_norm_out", "norm_out"))


def clip_l_place(name: str, config: Mapping[str, object]) -> Place:
    return Place(f"{CLIP_L}text_model.{name.removeprefix('text_model.')}")


def clip_g_place(name: str, config: Mapping[str, object]) -> Place:
    """Weight of transformers' CLIPTextModelWithProjection -> of OpenCLIP's, where q, k, v are one."""
    name = name.removeprefix("text_model.")
    if name == "text_projection.weight":
        return Place(CLIP_G + "text_projection", transposed=True)
    if name in CLIP_G_ENDS:
        return Place(CLIP_G + CLIP_G_ENDS[name])
    found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if not found:
        raise ValueError(f"'{name}' is no weight of a CLIP text encoder")
    block, path, parameter = f"{CLIP_G}transformer.resblocks.{found[1]}", found[2], found[3]
    if path in CLIP_G_LAYER:
        return Place(f"{block}.{CLIP_G_LAYER[path]}.{parameter}")
    return Place(f"{block}.attn.in_proj_{parameter}", third=FUSED.index(path.removeprefix("self_attn.")))
