"""The tensors of a LoRA file: kohya's layout for LoRA, LyCORIS' for DoRA, LoHa and LoKr.

Each layer holds `<name>.<part>` for its parts (`adapter_parts.PARTS`, two of them with `.weight` after them)
and `<name>.alpha`, a scalar; readers scale the update by alpha / rank. Without `.alpha` ComfyUI takes the
scale as 1, so it is always written. Names: `lora_names.py`. Embeddings beside the layers: `bundle.py`.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..adapter.adapter_parts import PARTS, rank_of, update_size
from ..config import LoRAConfig
from .bundle import bundle_problem, is_bundled
from .lora_names import SDXL_LAYERS_PER_BLOCK, to_kohya_names

ALPHA = ".alpha"
SUFFIXES: Mapping[str, str] = {
    part: f".{part}.weight" if part in ("lora_down", "lora_up") else f".{part}" for part in PARTS
}
"""Part -> how its key ends."""

_CONTEXT_WIDTHS = {768: "SD 1.x", 1024: "SD 2.x", 1280: "the SDXL refiner"}
_FAMILIES = (
    (re.compile(r"lora_te_text_model"), "SD 1.x or 2.x"),
    (re.compile(r"(?:^|[._])(?:double|single)_(?:transformer_)?blocks|single_transformer_blocks"), "Flux"),
    (re.compile(r"(?:^|[._])joint_blocks"), "SD 3"),
    (re.compile(r"^(?:transformer|lora_transformer|diffusion_model)[._]"), "another model family"),
)
_COMPLETE = (
    {"lora_down", "lora_up"},
    {"lora_down", "lora_up", "dora_scale"},
    {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    {"lokr_w1", "lokr_w2"},
    {"lokr_w1", "lokr_w2_a", "lokr_w2_b"},
)


def to_kohya(
    adapter_state: Mapping[str, Tensor], config: LoRAConfig, layers_per_block: int = SDXL_LAYERS_PER_BLOCK
) -> dict[str, Tensor]:
    """`Adapter.state_dict()` under the file's names, float32, with the `.alpha` that gives the same scale.

    Args:
        adapter_state: of the UNet's adapter, the text encoders' or all of them together.
        config: kind, rank and alpha.
        layers_per_block: of the UNet's config.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in adapter_state.items():
        path, _, part = key.rpartition(".")
        layers.setdefault(path, {})[part] = tensor.float()
    tensors = {}
    for path, name in to_kohya_names(layers, layers_per_block).items():
        parts = layers[path]
        tensors |= {name + SUFFIXES[part]: tensor for part, tensor in parts.items()}
        # a whole lokr update has no rank and no scale; LyCORIS writes its nominal rank
        tensors[name + ALPHA] = torch.tensor(
            config.file_alpha(rank_of(parts)) if rank_of(parts) else float(config.rank)
        )
    return tensors


def parts_by_layer(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Kohya name -> part -> tensor, without alpha and without what is no part of any kind."""
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, part = split_key(key)
        if part:
            layers.setdefault(name, {})[part] = tensor
    return layers


def split_key(key: str) -> tuple[str, str]:
    """(kohya name, part); the part is "" for everything else."""
    if is_bundled(key):
        return key, ""
    name, _, part = key.removesuffix(".weight").rpartition(".")
    return (name, part) if part in SUFFIXES and key.endswith(SUFFIXES[part]) else (key, "")


def family_problem(tensors: Mapping[str, Tensor]) -> str:
    """What the file is instead of a LoRA for SDXL, or ""."""
    names = [key for key in tensors if not is_bundled(key)]
    for key in names:
        for pattern, family in _FAMILIES:
            if pattern.search(key):
                return f"is a LoRA for {family} ({key}), but must be one for SDXL"
    if tensors and not names:
        return ""
    layers = parts_by_layer(tensors)
    if not layers:
        first = next(iter(tensors), "nothing")
        return f"holds no LoRA in kohya's layout (it starts with {first}): expected <layer>.lora_down.weight"
    return _width_problem(layers)


def _width_problem(layers: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The family whose text is as wide as the file's layers expect it, if that is not SDXL's, or ""."""
    for name, parts in layers.items():
        width = _input_width(parts) if name.endswith("attn2_to_k") else 0
        if width in _CONTEXT_WIDTHS:
            family = _CONTEXT_WIDTHS[width]
            return f"is a LoRA for {family} (text of width {width}), but must be one for SDXL"
    return ""


def _input_width(parts: Mapping[str, Tensor]) -> int:
    """Of a linear layer, also where parts are missing; 0 where it cannot be told."""
    for part in ("lora_down", "hada_w1_b"):
        if part in parts:
            return parts[part].shape[-1]
    return update_size(parts)[1] if set(parts) in _COMPLETE else 0


def layout_problem(tensors: Mapping[str, Tensor]) -> str:
    """What is damaged or of a kind that this trainer does not know, or ""."""
    problem = bundle_problem(tensors)
    if problem:
        return problem
    for key, tensor in tensors.items():
        if is_bundled(key):
            continue
        if not tensor.isfinite().all():
            return f"is damaged: {key} holds numbers that are not finite"
        if key.endswith(ALPHA):
            if tensor.numel() != 1:
                return f"is damaged: {key} must be one number"
        elif not split_key(key)[1]:
            return f"holds {key}, which is no part of a LoRA, DoRA, LoHa or LoKr as this trainer reads them"
    for name, parts in parts_by_layer(tensors).items():
        problem = _layer_problem(parts)
        if problem:
            return f"is damaged: {name} {problem}"
    return ""


def _layer_problem(parts: Mapping[str, Tensor]) -> str:
    if set(parts) not in _COMPLETE:
        nearest = max(_COMPLETE, key=lambda kind: (len(kind & set(parts)), -len(kind)))
        missing, odd = sorted(nearest - set(parts)), sorted(set(parts) - nearest)
        if missing:
            return f"has no {', '.join(missing)}: its other half is missing"
        return f"has {', '.join(odd)} beside {', '.join(sorted(nearest))}, which is not read"
    if "lora_down" in parts:
        return _lora_problem(parts)
    pairs = [(a, a.replace("_a", "_b")) for a in parts if a.endswith("_a")]
    for a, b in pairs:
        if parts[a].ndim != 2 or parts[b].ndim != 2 or parts[a].shape[1] != parts[b].shape[0]:
            return f"has {a} {tuple(parts[a].shape)} and {b} {tuple(parts[b].shape)}"
    if "hada_w1_a" in parts and any(parts[f"hada_w1_{x}"].shape != parts[f"hada_w2_{x}"].shape for x in "ab"):
        return f"has hada_w1_a {tuple(parts['hada_w1_a'].shape)} and another hada_w2_a or _b"
    if "lokr_w1" in parts and parts["lokr_w1"].ndim != 2:
        return f"has lokr_w1 {tuple(parts['lokr_w1'].shape)}, but it must be a matrix"
    return ""


def _lora_problem(parts: Mapping[str, Tensor]) -> str:
    down, up, magnitude = parts["lora_down"], parts["lora_up"], parts.get("dora_scale")
    if down.ndim not in (2, 4) or up.ndim != down.ndim or up.shape[1] != down.shape[0]:
        return f"has down {tuple(down.shape)} and up {tuple(up.shape)}"
    if magnitude is None or magnitude.shape == (1, down.shape[1], *[1] * (down.ndim - 2)):
        return ""
    return (
        f"has dora_scale {tuple(magnitude.shape)}, but only the kind with one number for each of its "
        f"{down.shape[1]} inputs is read (LyCORIS: wd_on_out=False)"
    )
