"""The UNet's weights as ordinary tensors on the training device, copied only where that is unavoidable.

A weight is used in place when it is a plain tensor of the compute dtype on the device. Quantised, fp8
and dynamically paged weights get a private dequantised copy; what cannot be read at all is refused.
"""

import inspect
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...trainer.errors import InputError
from .unet_view import alias

log = logging.getLogger(__name__)

PREFIX = "diffusion_model."
FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
GB = 1e9


@dataclass(frozen=True, slots=True)
class ResidentWeights:
    """`tensors`: ComfyUI's parameter name without prefix -> tensor; `copied_bytes`: size of private copies.

    `patcher` must be kept alive while the tensors are in use: ComfyUI only holds weak references to it.
    """

    patcher: Any
    tensors: dict[str, Tensor]
    copied_bytes: int


def is_dynamic(model: Any) -> bool:
    """Whether ComfyUI pages this model's weights in and out by itself (ComfyUI 0.12 and newer)."""
    probe = getattr(model, "is_dynamic", None)
    return bool(probe and probe())


def compute_dtype(model: Any, precision: str) -> torch.dtype:
    """The dtype to train in: `precision`, or for "auto" the one the weights are held in.

    ComfyUI casts bfloat16 weights to float32 where its own kernels are slow in bfloat16, as on the CPU. A
    trainer would need a private copy of the whole UNet for that, so only float16 weights, whose gradients
    such a device cannot hold, are cast.
    """
    if precision in DTYPES:
        return DTYPES[precision]
    held, cast = model.model.get_dtype(), model.model.manual_cast_dtype
    if held in (torch.bfloat16, torch.float32) or (held == torch.float16 and cast is None):
        return held
    if cast in FLOAT_DTYPES:
        return cast
    use_bf16 = comfy.model_management.should_use_bf16(model.load_device)
    return torch.bfloat16 if use_bf16 else torch.float32


def load_resident(model: Any, precision: str, activation_bytes: int) -> ResidentWeights:
    """Load the whole UNet onto its device and give out its weights.

    Must be called outside inference mode.

    Raises:
        InputError: the device is too small, with the sizes; or the weights are of an unknown format.
    """
    patcher = _without_paging(model)
    dtype = compute_dtype(model, precision)
    if not is_dynamic(patcher):
        comfy.model_management.load_models_gpu(
            [patcher], memory_required=activation_bytes, force_full_load=True
        )
    if not _is_resident(patcher):
        _require_space(patcher, dtype, activation_bytes)
    tensors: dict[str, Tensor] = {}
    copied_bytes = 0
    for name, module, leaf in _unet_parameters(patcher):
        held = getattr(module, leaf)
        tensor = _weight(patcher, name, module, leaf).to(device=patcher.load_device, dtype=dtype)
        copied_bytes += tensor.nbytes if tensor.data_ptr() != held.data_ptr() else 0
        tensors[name] = alias(tensor.detach())
    return ResidentWeights(patcher, tensors, copied_bytes)


def _weight(patcher: Any, name: str, module: torch.nn.Module, leaf: str) -> Tensor:
    """One weight as ComfyUI would use it, patches merged: the host's own tensor wherever it can be."""
    held = getattr(module, leaf)
    is_here = held.device.type == patcher.load_device.type and not is_dynamic(patcher)
    if is_here or PREFIX + name not in patcher.patches:
        return _plain(held, module, leaf)
    return _merged_copy(patcher, PREFIX + name)


def _without_paging(model: Any) -> Any:
    """`model` with ordinary weights; the same paged model when its loader cannot give them."""
    if not is_dynamic(model) or "disable_dynamic" not in inspect.signature(model.clone).parameters:
        return model
    try:
        return model.clone(disable_dynamic=True)
    except RuntimeError:
        log.info("the model's loader cannot read it again; its weights are copied one by one")
        return model


def _unet_parameters(model: Any) -> Iterator[tuple[str, torch.nn.Module, str]]:
    """(name without prefix, owning module, attribute name) of each parameter of the UNet."""
    unet = model.model.diffusion_model
    for path, module in unet.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter is not None:
                yield f"{path}.{leaf}" if path else leaf, module, leaf


def _is_resident(model: Any) -> bool:
    device = model.load_device
    on_device = all(p.device.type == device.type for p in model.model.diffusion_model.parameters())
    return on_device and not is_dynamic(model)


def _require_space(model: Any, dtype: torch.dtype, activation_bytes: int) -> None:
    """Refuse when a private copy of the UNet and the activations do not fit into the free memory."""
    num_weights = sum(p.numel() for p in model.model.diffusion_model.parameters())
    needed = num_weights * dtype.itemsize + activation_bytes
    if model.load_device.type == "cpu":
        return
    comfy.model_management.free_memory(needed, model.load_device)
    free = comfy.model_management.get_free_memory(model.load_device)
    if free < needed:
        raise InputError(
            f"training needs {needed / GB:.1f} GB on {model.load_device}, but {free / GB:.1f} GB are free: "
            "choose a smaller resolution or batch, or start ComfyUI without --novram and --lowvram"
        )


def _merged_copy(model: Any, key: str) -> Tensor:
    """A private copy of one weight with the patches of the MODEL merged, on the load device."""
    signature = inspect.signature(model.patch_weight_to_device).parameters
    if "return_weight" not in signature:
        raise InputError(
            "the model carries LoRA patches that did not fit onto the device with it: "
            "start ComfyUI with --highvram, or remove the LoRA in front of the trainer"
        )
    return _plain(model.patch_weight_to_device(key, device_to=model.load_device, return_weight=True))


def _plain(weight: Tensor, module: torch.nn.Module | None = None, leaf: str = "") -> Tensor:
    """The numbers of a weight: itself when it is an ordinary tensor, else a dequantised copy."""
    if hasattr(weight, "tensor_type"):  # city96's GGMLTensor
        raise InputError(
            "the model is a GGUF file, which cannot be trained: load the SDXL checkpoint as fp16 or fp8"
        )
    if hasattr(weight, "_qdata"):  # ComfyUI's QuantizedTensor
        return weight.dequantize()
    if weight.dtype in FLOAT_DTYPES:
        return weight
    if weight.dtype.is_floating_point:  # fp8; before ComfyUI 0.3.68 with a scale beside it
        scale = getattr(module, "scale_weight", None) if leaf == "weight" else None
        plain = weight.to(torch.float32)
        return plain if scale is None else plain * scale.to(plain)
    raise InputError(
        f"the model holds {str(weight.dtype).removeprefix('torch.')} weights, which cannot be trained: "
        "load the SDXL checkpoint as fp16, bf16 or fp8"
    )
