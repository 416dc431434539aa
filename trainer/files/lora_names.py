"""diffusers' module paths and the names that kohya's files give the same layers.

A kohya name is `lora_unet_` and the layer's path in the original (sgm) UNet, dots as underscores. Both number
the same layers differently: diffusers per block, sgm straight through. With L layers per block, block i and
resnet or attention j:

    down_blocks.i.{resnets,attentions}.j   input_blocks.{(L+1)i + j + 1}.{0,1}
    down_blocks.i.downsamplers.0.conv      input_blocks.{(L+1)(i+1)}.0.op
    mid_block.{resnets.0, attentions.0, resnets.1}   middle_block.{0, 1, 2}
    up_blocks.i.{resnets,attentions}.j     output_blocks.{(L+1)i + j}.{0,1}
    up_blocks.i.upsamplers.0.conv          output_blocks.{(L+1)i + L}.2.conv

An upsampler always follows a resnet and an attention: the only up block without attention is the last.

Same map: `unet_to_diffusers` in ComfyUI, comfy/utils.py. The text encoders': `text_lora_names.py`.
"""

import re
from collections.abc import Collection, Iterable

from ..errors import InputError
from .text_lora_names import is_text_name, is_text_path, text_kohya_name, text_path_of

UNET_PREFIX = "lora_unet_"
SDXL_LAYERS_PER_BLOCK = 2

_RESNET_PARTS = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_RESNET_PARTS_BACK = {sgm.replace(".", "_"): part for part, sgm in _RESNET_PARTS.items()}
_DIFFUSERS = re.compile(
    r"(?:(?P<side>down|up)_blocks\.(?P<block>\d+)|mid_block)"
    r"\.(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<index>\d+)\.(?P<rest>.+)"
)
_KOHYA = re.compile(
    r"lora_unet_(?:(?P<side>input|output)_blocks_(?P<number>\d+)|middle_block)_(?P<part>\d)_(?P<rest>\w+)"
)
_ATTENTION_REST = re.compile(
    r"proj_(?:in|out)|transformer_blocks_\d+_(?:attn[12]_to_(?:q|k|v|out_0)|ff_net_(?:0_proj|2))"
)


def to_kohya_names(paths: Iterable[str], layers_per_block: int = SDXL_LAYERS_PER_BLOCK) -> dict[str, str]:
    """Diffusers module path -> kohya name, such as `lora_unet_input_blocks_4_1_proj_in`.

    Args:
        paths: the layers that carry a LoRA, those of text encoders with their folder in front.
        layers_per_block: of the UNet's config; SDXL has 2.

    Raises:
        ValueError: a path that is no layer of SDXL.
    """
    return {path: _kohya_name(path, layers_per_block) for path in paths}


def _kohya_name(path: str, layers_per_block: int) -> str:
    if is_text_path(path):
        return text_kohya_name(path)
    return UNET_PREFIX + _sgm_path(path, layers_per_block).replace(".", "_")


def to_sgm_paths(paths: Iterable[str], layers_per_block: int = SDXL_LAYERS_PER_BLOCK) -> dict[str, str]:
    """Diffusers module path -> the original UNet's, such as `input_blocks.4.1.proj_in`.

    Raises:
        ValueError: a path that is no layer of an SDXL UNet.
    """
    return {path: _sgm_path(path, layers_per_block) for path in paths}


def _sgm_path(path: str, layers_per_block: int) -> str:
    match = _DIFFUSERS.fullmatch(path)
    if match is None:
        raise ValueError(f"{path} is no layer of an SDXL UNet that a LoRA file can name")
    kind, index, rest = match["kind"], int(match["index"]), match["rest"]
    stride = layers_per_block + 1
    if match["side"] is None:
        place = f"middle_block.{2 * index if kind == 'resnets' else 1}"
    elif match["side"] == "down":
        number = stride * int(match["block"]) + (index + 1 if kind != "downsamplers" else stride)
        place = f"input_blocks.{number}.{1 if kind == 'attentions' else 0}"
    else:
        number = stride * int(match["block"]) + (index if kind != "upsamplers" else layers_per_block)
        place = f"output_blocks.{number}.{_UP_PART[kind]}"
    return f"{place}.{_sgm_rest(path, kind, rest)}"


_UP_PART = {"resnets": 0, "attentions": 1, "upsamplers": 2, "downsamplers": 0}


def _sgm_rest(path: str, kind: str, rest: str) -> str:
    if kind == "attentions" and _ATTENTION_REST.fullmatch(rest.replace(".", "_")):
        return rest
    if kind == "resnets" and rest in _RESNET_PARTS:
        return _RESNET_PARTS[rest]
    if kind in ("downsamplers", "upsamplers") and rest == "conv":
        return "op" if kind == "downsamplers" else "conv"
    raise ValueError(f"{path} is no layer of an SDXL UNet that a LoRA file can name")


def to_diffusers_paths(
    names: Collection[str], layers_per_block: int = SDXL_LAYERS_PER_BLOCK
) -> dict[str, str]:
    """Kohya name -> diffusers module path, the inverse of `to_kohya_names`.

    Raises:
        InputError: a name that is no layer of SDXL.
    """
    return {name: _diffusers_path(name, layers_per_block) for name in names}


def _diffusers_path(name: str, layers_per_block: int) -> str:
    if is_text_name(name):
        path = text_path_of(name)
        if not path:
            raise InputError(
                f"{name} is no layer of SDXL's text encoders: expected names such as "
                "lora_te1_text_model_encoder_layers_0_mlp_fc1"
            )
        return path
    match = _KOHYA.fullmatch(name)
    path = match and _place(match, layers_per_block)
    if not path:
        raise InputError(
            f"{name} is no layer of SDXL's UNet: expected names such as lora_unet_input_blocks_4_1_proj_in"
        )
    return path


def _place(match: re.Match[str], layers_per_block: int) -> str:
    """The diffusers path, or "" when there is no such layer."""
    part, rest, stride = int(match["part"]), match["rest"], layers_per_block + 1
    kind = "attentions" if part == 1 else "resnets"
    if match["side"] is None:
        prefix, index = "mid_block", part // 2
    elif match["side"] == "input":
        block, index = divmod(int(match["number"]) - 1, stride)
        prefix = f"down_blocks.{block}"
        if rest == "op":
            return f"{prefix}.downsamplers.0.conv" if index == layers_per_block and part == 0 else ""
    else:
        block, index = divmod(int(match["number"]), stride)
        prefix = f"up_blocks.{block}"
        if rest == "conv":
            return f"{prefix}.upsamplers.0.conv" if index == layers_per_block and part == 2 else ""
    own = _own_part(kind, rest)
    return f"{prefix}.{kind}.{index}.{own}" if own else ""


def _own_part(kind: str, rest: str) -> str:
    if kind == "resnets":
        return _RESNET_PARTS_BACK.get(rest, "")
    if not _ATTENTION_REST.fullmatch(rest):
        return ""
    rest = re.sub(r"^transformer_blocks_(\d+)_(attn\d)_", r"transformer_blocks.\1.\2.", rest)
    rest = re.sub(r"^transformer_blocks_(\d+)_ff_net_", r"transformer_blocks.\1.ff.net.", rest)
    return rest.replace("to_out_0", "to_out.0").replace("0_proj", "0.proj")
