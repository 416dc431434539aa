"""The LoRA file: what ComfyUI, A1111, kohya and diffusers load.

kohya's layout: `<name>.lora_down.weight` (R, I) or (R, I, k, k), `<name>.lora_up.weight` (O, R) or
(O, R, 1, 1) and `<name>.alpha`, a scalar, with W' = W + alpha / R * up @ down (arXiv 2106.09685). Without
`.alpha` ComfyUI takes the scale as 1, so it is always written. Names: `lora_names.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from .atomic_file import write_atomically
from .config import LoRAConfig
from .errors import InputError
from .lora_names import SDXL_LAYERS_PER_BLOCK, to_diffusers_paths, to_kohya_names
from .metadata import content_hashes
from .safetensors_file import read_safetensors, serialize

SavePrecision = Literal["fp16", "bf16", "fp32"]
DTYPES: Mapping[SavePrecision, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}

MAX_ROUNDING = 2**-9
"""Largest share of its own length that a tensor may change by when saved: what bf16 does to any numbers."""

_DOWN, _UP, _ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
_CONTEXT_WIDTHS = {768: "SD 1.x", 1024: "SD 2.x", 1280: "the SDXL refiner"}
_FAMILIES = (
    (re.compile(r"lora_te_text_model"), "SD 1.x or 2.x"),
    (re.compile(r"(?:^|[._])(?:double|single)_(?:transformer_)?blocks|single_transformer_blocks"), "Flux"),
    (re.compile(r"(?:^|[._])joint_blocks"), "SD 3"),
    (re.compile(r"^(?:transformer|lora_transformer|diffusion_model)[._]"), "another model family"),
)


@dataclass(frozen=True, slots=True)
class LoRAFile:
    """A LoRA as it lies in its file: kohya's tensor names, metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    @property
    def names(self) -> list[str]:
        """Kohya names of the layers, such as `lora_unet_middle_block_1_proj_in`."""
        return [key.removesuffix(_DOWN) for key in self.tensors if key.endswith(_DOWN)]

    def rank_of(self, name: str) -> int:
        return self.tensors[name + _DOWN].shape[0]

    def alpha_of(self, name: str) -> float:
        """Alpha of a layer; a file without it means rank, that is scale 1."""
        alpha = self.tensors.get(name + _ALPHA)
        return float(self.rank_of(name)) if alpha is None else alpha.item()

    @property
    def ranks(self) -> set[int]:
        return {self.rank_of(name) for name in self.names}

    @property
    def alphas(self) -> set[float]:
        return {self.alpha_of(name) for name in self.names}


def write_lora(
    path: Path,
    adapter_state: Mapping[str, Tensor],
    config: LoRAConfig,
    metadata: Mapping[str, str],
    layers_per_block: int = SDXL_LAYERS_PER_BLOCK,
    precision: SavePrecision = "fp16",
) -> None:
    """Write a LoRA file, whole or not at all; the same input gives the same bytes.

    fp16 by default: every program reads it, it takes half of fp32, and its 11 bits of mantissa round 8 times
    finer than bf16's 8. A LoRA with numbers outside its range, too large or so small that they would lose
    more than bf16 loses anywhere, is written as fp32 instead.

    Args:
        path: the final name.
        adapter_state: `Adapter.state_dict()`.
        config: rank and alpha.
        metadata: texts, from `metadata.build_metadata`; the hashes of the content are added here.
        layers_per_block: of the UNet's config.
        precision: type of the weights; alpha is always fp32.

    Raises:
        InputError: a weight is not finite.
        OSError: no room or no permission; a former file of that name is still there.
    """
    tensors = to_kohya(adapter_state, config, layers_per_block)
    tensors = _rounded(tensors, DTYPES[precision])
    hashes = content_hashes(tensors, metadata)
    parts = serialize(tensors, {**metadata, **hashes})

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.writelines(parts)

    write_atomically(path, write)


def to_kohya(
    adapter_state: Mapping[str, Tensor], config: LoRAConfig, layers_per_block: int = SDXL_LAYERS_PER_BLOCK
) -> dict[str, Tensor]:
    """`Adapter.state_dict()` under kohya's names, float32, with `.alpha`."""
    paths = [key.removesuffix(".lora_down") for key in adapter_state if key.endswith(".lora_down")]
    tensors = {}
    for path, name in to_kohya_names(paths, layers_per_block).items():
        tensors[name + _DOWN] = adapter_state[f"{path}.lora_down"].float()
        tensors[name + _UP] = adapter_state[f"{path}.lora_up"].float()
        tensors[name + _ALPHA] = torch.tensor(config.effective_alpha)
    return tensors


def _rounded(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights as `dtype`, or all as they are where a tensor would lose too much; alphas stay."""
    weights = {key: x for key, x in tensors.items() if not key.endswith(_ALPHA)}
    bad = [key for key, x in weights.items() if not x.isfinite().all()]
    if bad:
        raise InputError(f"{bad[0]} holds numbers that are not finite: the LoRA is not written")
    rounded = {key: x.to(dtype) for key, x in weights.items()}
    for key, weight in weights.items():
        # "not <=" also holds when an overflow makes the loss infinite or NaN
        if not (rounded[key].float() - weight).norm() <= MAX_ROUNDING * weight.norm():
            return tensors
    return {**tensors, **rounded}


def read_lora(path: Path) -> LoRAFile:
    """Read and check a LoRA file in kohya's layout.

    Raises:
        InputError: not readable, cut off, a pickle, damaged, not finite, or of another model family.
    """
    tensors, metadata = read_safetensors(path)
    problem = _family_problem(tensors) or _layout_problem(tensors)
    if problem:
        raise InputError(f"{path.name} {problem}")
    return LoRAFile(tensors, metadata)


def _family_problem(tensors: Mapping[str, Tensor]) -> str:
    """What the file is instead of a LoRA for SDXL, or ""."""
    for key in tensors:
        for pattern, family in _FAMILIES:
            if pattern.search(key):
                return f"is a LoRA for {family} ({key}), but must be one for SDXL"
    for key, tensor in tensors.items():
        if key.endswith("attn2_to_k.lora_down.weight") and tensor.shape[-1] in _CONTEXT_WIDTHS:
            family = _CONTEXT_WIDTHS[tensor.shape[-1]]
            return f"is a LoRA for {family} (text of width {tensor.shape[-1]}), but must be one for SDXL"
    if not any(key.endswith(_DOWN) for key in tensors):
        first = next(iter(tensors), "nothing")
        return f"holds no LoRA in kohya's layout (it starts with {first}): expected <layer>.lora_down.weight"
    return ""


def _layout_problem(tensors: Mapping[str, Tensor]) -> str:
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            return f"is damaged: {key} holds numbers that are not finite"
        if not key.endswith((_DOWN, _UP, _ALPHA)):
            return f"holds {key}, which is no part of a plain LoRA"
        if key.endswith(_ALPHA):
            if tensor.numel() != 1:
                return f"is damaged: {key} must be one number"
            continue
        name, is_down = key.removesuffix(_DOWN).removesuffix(_UP), key.endswith(_DOWN)
        other = tensors.get(name + (_UP if is_down else _DOWN))
        if other is None:
            return f"is damaged: {key} is there, but its other half is missing"
        down, up = (tensor, other) if is_down else (other, tensor)
        if down.ndim not in (2, 4) or up.ndim != down.ndim or up.shape[1] != down.shape[0]:
            return f"is damaged: {name} has down {tuple(down.shape)} and up {tuple(up.shape)}"
    return ""


def to_diffusers(lora: LoRAFile, layers_per_block: int = SDXL_LAYERS_PER_BLOCK) -> dict[str, Tensor]:
    """The LoRA as diffusers' own training scripts write it, for `load_lora_weights`; float32.

    That format has no alpha and takes the scale as 1: alpha / rank is multiplied into `up`.

    Raises:
        InputError: a layer that is not in SDXL's UNet.
    """
    tensors = {}
    for name, path in to_diffusers_paths(lora.names, layers_per_block).items():
        scale = lora.alpha_of(name) / lora.rank_of(name)
        tensors[f"unet.{path}.lora.down.weight"] = lora.tensors[name + _DOWN].float()
        tensors[f"unet.{path}.lora.up.weight"] = lora.tensors[name + _UP].float() * scale
    return tensors


def write_diffusers_lora(path: Path, lora: LoRAFile, layers_per_block: int = SDXL_LAYERS_PER_BLOCK) -> None:
    """Write the diffusers-format copy of a LoRA, with `{"format": "pt"}` as its only metadata."""
    parts = serialize(to_diffusers(lora, layers_per_block), {"format": "pt"})

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.writelines(parts)

    write_atomically(path, write)
