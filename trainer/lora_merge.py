"""Add a LoRA file's update to the weights of a private UNet, for sampling without ComfyUI."""

import torch
from diffusers import UNet2DConditionModel

from .errors import InputError
from .lora_file import LoRAFile, to_diffusers

DOWN, UP = ".lora.down.weight", ".lora.up.weight"


@torch.no_grad()
def merge_lora(unet: UNet2DConditionModel, lora: LoRAFile, strength: float = 1.0) -> int:
    """W + strength · alpha/rank · up @ down for every layer of the file; says how many.

    The changed weights are new tensors, so files mapped into memory stay as they are.

    Args:
        unet: changed in place; nobody else may hold it.
        lora: what `read_lora` gives.
        strength: of the update.

    Raises:
        InputError: a layer of the file that the UNet does not have, or has in another size.
    """
    modules = dict(unet.named_modules())
    tensors = to_diffusers(lora, unet.config["layers_per_block"])
    paths = [name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN)]
    for path in paths:
        module = modules.get(path.removeprefix("unet."))
        # a convolution's down is (rank, in, k, k), its up (out, rank, 1, 1)
        update = tensors[path + UP].flatten(1) @ tensors[path + DOWN].flatten(1)
        if module is None or module.weight.numel() != update.numel():
            raise InputError(
                f"the LoRA's layer {path} is not in this UNet, or in another size: use it with the model "
                "family it was trained on"
            )
        weight = module.weight
        update = update.reshape(weight.shape).to(weight.device)
        changed = (weight.float() + strength * update).to(weight.dtype)
        module.weight = torch.nn.Parameter(changed, requires_grad=False)
    return len(paths)
