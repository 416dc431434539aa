"""Add a LoRA file's update to the weights of private networks, for sampling without ComfyUI."""

from collections.abc import Mapping

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from ..adapter.adapter_parts import update_size, updated
from ..adapter.text_layers import choose_text_layers
from ..errors import InputError
from .lora_file import LoRAFile
from .lora_names import to_diffusers_paths
from .text_lora_names import TEXT_PREFIXES, TextEncoderName, is_text_name


def merge_lora(unet: UNet2DConditionModel, lora: LoRAFile, strength: float = 1.0) -> int:
    """W + strength * (W' - W) for every layer of the file but the text encoders', whatever its kind.

    The changed weights are new tensors, so files mapped into memory stay as they are.

    Args:
        unet: changed in place; nobody else may hold it.
        lora: what `read_lora` gives.
        strength: of the update.

    Returns:
        How many layers it was.

    Raises:
        InputError: a layer of the file that the UNet does not have, or has in another size.
    """
    names = [name for name in lora.names if not is_text_name(name)]
    paths = to_diffusers_paths(names, unet.config["layers_per_block"])
    _merge(dict(unet.named_modules()), lora, paths, strength, "UNet")
    return len(paths)


def merge_text_lora(encoder: nn.Module, name: TextEncoderName, lora: LoRAFile, strength: float = 1.0) -> int:
    """As `merge_lora`, for the layers of one text encoder; its weights must lie in plain linear layers.

    Raises:
        InputError: a layer of the file that the encoder does not have, or has in another size.
    """
    names = [layer for layer in lora.names if layer.startswith(TEXT_PREFIXES[name])]
    _merge(choose_text_layers(encoder, name), lora, to_diffusers_paths(names), strength, "text encoder")
    return len(names)


@torch.no_grad()
def _merge(
    modules: Mapping[str, nn.Module], lora: LoRAFile, paths: Mapping[str, str], strength: float, network: str
) -> None:
    layers = lora.parts
    for name, path in paths.items():
        module = modules.get(path)
        parts = {part: tensor.float() for part, tensor in layers[name].items()}
        if module is None or update_size(parts) != tuple(module.weight.flatten(1).shape):
            raise InputError(
                f"the LoRA's layer {path} is not in this {network}, or in another size: use it with the "
                "model family it was trained on"
            )
        weight = module.weight
        wide = weight.float()
        parts = {part: tensor.to(weight.device) for part, tensor in parts.items()}
        wide = wide.lerp(updated(wide, parts, lora.scale_of(name)), strength)
        module.weight = nn.Parameter(wide.to(weight.dtype), requires_grad=False)
