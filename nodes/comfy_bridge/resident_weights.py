"""The weights of the UNet and the text encoders as ordinary tensors on the training device.

A weight is used in place when it is a plain tensor on the device, of the type to compute in where one is
asked for. Quantised, fp8 and dynamically paged weights get a private dequantised copy; what cannot be read
at all is refused.
"""

import inspect
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...trainer.errors import InputError
from .unet_view import alias

log = logging.getLogger(__name__)

UNET = "diffusion_model"
TEXT_ENCODERS = ("clip_l.transformer.text_model", "clip_g.transformer")  # L's projection is in no use
FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
GB = 1e9


@dataclass(frozen=True, slots=True)
class ResidentWeights:
    """`tensors`: ComfyUI's parameter name -> tensor; `copied_bytes`: size of private copies.

    Names are those of the state dict, the UNet's without prefix. `patcher` must be kept alive while the
    tensors are in use: ComfyUI only holds weak references to it.
    """

    patcher: Any
    tensors: dict[str, Tensor]
    copied_bytes: int


@dataclass(frozen=True, slots=True)
class _Request:
    """What is to be resident: the modules `roots` of `patcher.model`, on `device` in `dtype`.

    Without dtype a weight stays in the type it is held in. `free_bytes` of memory are needed beside it.
    """

    patcher: Any
    roots: Sequence[str]
    device: torch.device
    dtype: torch.dtype | None
    free_bytes: int = 0


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


def load_resident(
    model: Any, precision: str, activation_bytes: int, beside: Sequence[Any] = ()
) -> ResidentWeights:
    """Load the whole UNet onto its device and give out its weights.

    Must be called outside inference mode.

    Args:
        model: MODEL as wired.
        precision: type to train in, see `compute_dtype`.
        activation_bytes: memory that training needs beside the weights.
        beside: patchers that must stay whole where they are, as their weights are in use.

    Raises:
        InputError: the device is too small, with the sizes; or the weights are of an unknown format.
    """
    patcher = _without_paging(model)
    dtype = compute_dtype(patcher, precision)
    request = _Request(patcher, (UNET,), patcher.load_device, dtype, activation_bytes)
    resident = _load(request, beside)
    tensors = {name.removeprefix(f"{UNET}."): tensor for name, tensor in resident.tensors.items()}
    return ResidentWeights(patcher, tensors, resident.copied_bytes)


def load_resident_clip(clip: Any, device: torch.device, beside: Sequence[Any] = ()) -> ResidentWeights:
    """Load both text encoders and give out their weights on `device`, in the type they are held in.

    CLIP's own device may be another: with little memory ComfyUI encodes on the CPU. Then all weights are
    copied. Must be called outside inference mode.

    Args:
        clip: CLIP as wired.
        device: where training runs.
        beside: patchers that must stay whole where they are, as their weights are in use.

    Raises:
        InputError: the device is too small, with the sizes; or the weights are of an unknown format.
    """
    # CLIP's own clone(disable_dynamic) keeps the paged modules in `cond_stage_model`: only its patcher serves
    return _load(_Request(_without_paging(clip.patcher), TEXT_ENCODERS, device, None), beside)


def _load(request: _Request, beside: Sequence[Any]) -> ResidentWeights:
    patcher = request.patcher
    if not is_dynamic(patcher):
        # ComfyUI unloads nothing that the same request names, and leaves what is loaded already as it is:
        # weights in use elsewhere do not move. --lowvram gives way to force_full_load. --novram does not,
        # and paged weights have no place of their own: then a private copy is made below
        wanted = [patcher, *(other for other in beside if not is_dynamic(other))]
        comfy.model_management.load_models_gpu(
            wanted, memory_required=request.free_bytes, force_full_load=True
        )
    if not _is_resident(request):
        _require_space(request, beside)
    tensors: dict[str, Tensor] = {}
    copied_bytes = 0
    for name, module, leaf in _parameters(request):
        held = getattr(module, leaf)
        tensor = _weight(patcher, name, module, leaf)
        dtype = request.dtype or _type_at_rest(held, tensor)
        tensor = tensor.to(device=request.device, dtype=dtype)
        copied_bytes += tensor.nbytes if tensor.data_ptr() != held.data_ptr() else 0
        tensors[name] = alias(tensor.detach())
    return ResidentWeights(patcher, tensors, copied_bytes)


def _type_at_rest(held: Tensor, plain: Tensor) -> torch.dtype:
    """fp8 becomes float16, which holds each of its numbers; the rest stays what it is."""
    return torch.float16 if held.dtype.itemsize == 1 and plain.dtype == torch.float32 else plain.dtype


def _weight(patcher: Any, name: str, module: torch.nn.Module, leaf: str) -> Tensor:
    """One weight as ComfyUI would use it, patches merged: the host's own tensor wherever it can be."""
    held = getattr(module, leaf)
    is_here = held.device.type == patcher.load_device.type and not is_dynamic(patcher)
    if is_here or name not in patcher.patches:
        return _plain(held, module, leaf)
    return _merged_copy(patcher, name)


def _without_paging(patcher: Any) -> Any:
    """`patcher` with ordinary weights; the same paged one when its loader cannot give them."""
    if not is_dynamic(patcher) or "disable_dynamic" not in inspect.signature(patcher.clone).parameters:
        return patcher
    try:
        return patcher.clone(disable_dynamic=True)
    except RuntimeError:
        log.info("the model's loader cannot read it again; its weights are copied one by one")
        return patcher


def _parameters(request: _Request) -> Iterator[tuple[str, torch.nn.Module, str]]:
    """(name in the state dict, owning module, attribute name) of each parameter of the request."""
    for root in request.roots:
        for path, module in request.patcher.model.get_submodule(root).named_modules(prefix=root):
            for leaf, parameter in module.named_parameters(recurse=False):
                if parameter is not None:
                    yield f"{path}.{leaf}", module, leaf


def _is_resident(request: _Request) -> bool:
    weights = (getattr(module, leaf) for _, module, leaf in _parameters(request))
    return all(w.device.type == request.device.type for w in weights) and not is_dynamic(request.patcher)


def _require_space(request: _Request, beside: Sequence[Any]) -> None:
    """Refuse when a private copy of the weights and the activations do not fit into the free memory."""
    if request.device.type == "cpu":
        return
    weights = [getattr(module, leaf) for _, module, leaf in _parameters(request)]
    sizes = (w.numel() * (request.dtype.itemsize if request.dtype else max(2, w.itemsize)) for w in weights)
    needed = request.free_bytes + sum(sizes)
    loaded = comfy.model_management.current_loaded_models
    keep = [entry for entry in loaded if any(entry.model is patcher for patcher in beside)]
    comfy.model_management.free_memory(needed, request.device, keep)
    free = comfy.model_management.get_free_memory(request.device)
    if free < needed:
        raise InputError(
            f"training needs {needed / GB:.1f} GB on {request.device}, but {free / GB:.1f} GB are free: "
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
            "model or clip is a GGUF file, which cannot be trained: load the SDXL checkpoint as fp16 or fp8"
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
