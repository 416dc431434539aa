"""Names of the text encoders' layers: diffusers' paths in the pipeline, and kohya's names in files.

    text_encoder.text_model.encoder.layers.0.mlp.fc1      lora_te1_text_model_encoder_layers_0_mlp_fc1
    text_encoder_2.text_model.encoder.layers.0.mlp.fc1    lora_te2_text_model_encoder_layers_0_mlp_fc1

`text_model` is part of every path, also where transformers 5 has no module of that name between CLIPTextModel
and its layers. Same names: `create_modules` of sd-scripts' networks/lora.py; `model_lora_keys_clip` in
ComfyUI, comfy/lora.py.
"""

import re
from collections.abc import Mapping
from typing import Literal

TextEncoderName = Literal["clip_l", "clip_g"]

TEXT_FOLDERS: Mapping[TextEncoderName, str] = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
"""What diffusers' pipeline calls them."""
TEXT_PREFIXES: Mapping[TextEncoderName, str] = {"clip_l": "lora_te1_", "clip_g": "lora_te2_"}
"""What kohya's names begin with."""

_LAYER = r"text_model\.encoder\.layers\.\d+\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])"
_PATH = re.compile(rf"text_encoder(?:_2)?\.(?P<layer>{_LAYER})")
_NAME = re.compile(
    r"lora_te(?P<number>[12])_text_model_encoder_layers_(?P<index>\d+)_"
    r"(?:self_attn_(?P<matrix>q|k|v|out)_proj|mlp_(?P<fc>fc[12]))"
)


def is_text_path(path: str) -> bool:
    """Whether a path leads into a text encoder."""
    return path.startswith(tuple(f"{folder}." for folder in TEXT_FOLDERS.values()))


def encoder_of(path: str) -> TextEncoderName:
    """Which encoder a path leads into."""
    return "clip_l" if path.startswith(f"{TEXT_FOLDERS['clip_l']}.") else "clip_g"


def is_text_name(name: str) -> bool:
    """Whether a kohya name is one of a text encoder's layer."""
    return name.startswith(tuple(TEXT_PREFIXES.values()))


def text_path(name: TextEncoderName, module_path: str) -> str:
    """The path of a module of an encoder; "" for what is no layer that a LoRA changes.

    Args:
        name: which encoder.
        module_path: within it, with or without `text_model.` in front (transformers 4 or 5).
    """
    layer = "text_model." + module_path.removeprefix("text_model.")
    return f"{TEXT_FOLDERS[name]}.{layer}" if re.fullmatch(_LAYER, layer) else ""


def text_kohya_name(path: str) -> str:
    """Path -> kohya name.

    Raises:
        ValueError: a path that is no layer of a CLIP text encoder.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise ValueError(f"{path} is no layer of a text encoder that a LoRA file can name")
    return TEXT_PREFIXES[encoder_of(path)] + match["layer"].replace(".", "_")


def text_path_of(kohya: str) -> str:
    """Kohya name -> path, the inverse of `text_kohya_name`; "" where there is no such layer."""
    match = _NAME.fullmatch(kohya)
    if match is None:
        return ""
    folder = TEXT_FOLDERS["clip_l" if match["number"] == "1" else "clip_g"]
    part = f"mlp.{match['fc']}" if match["fc"] else f"self_attn.{match['matrix']}_proj"
    return f"{folder}.text_model.encoder.layers.{match['index']}.{part}"
