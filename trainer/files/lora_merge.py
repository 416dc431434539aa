"""Add a LoRA file's update to the weights of a private UNet, for sampling without ComfyUI."""

import torch
from diffusers import UNet2DConditionModel

from ..adapter.adapter_parts import update_size, updated
from ..errors import InputError
from .lora_file import LoRAFile
from .lora_names import to_diffusers_paths


@torch.no_grad()
def merge_lora(unet: UNet2DConditionModel, lora: LoRAFile, strength: float = 1.0) -> int:
    """W + strength * (W' - W) for every layer of the file, whatever its kind; says how many.

    The changed weights are new tensors, so files mapped into memory stay as they are.

    Args:
        unet: changed in place; nobody else may hold it.
        lora: what `read_lora` gives.
        strength: of the update.

    Raises:
        InputError: a layer of the file that the UNet does not have, or has in another size.
    """
    modules = dict(unet.named_modules())
    layers = lora.parts
    for name, path in to_diffusers_paths(layers, unet.config["layers_per_block"]).items():
        module = modules.get(path)
        parts = {part: tensor.float() for part, tensor in layers[name].items()}
        if module is None or update_size(parts) != tuple(module.weight.flatten(1).shape):
            raise InputError(
                f"the LoRA's layer {path} is not in this UNet, or in another size: use it with the model "
                "family it was trained on"
            )
        weight = module.weight
        wide = weight.float()
        parts = {part: tensor.to(weight.device) for part, tensor in parts.items()}
        wide = wide.lerp(updated(wide, parts, lora.scale_of(name)), strength)
        module.weight = torch.nn.Parameter(wide.to(weight.dtype), requires_grad=False)
    return len(layers)
