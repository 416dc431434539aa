"""The LoRA file: what ComfyUI, A1111, kohya and diffusers load. Its layout: `lora_layout.py`.

Its layers are the UNet's and the text encoders'; it may carry embeddings, or hold nothing else (`bundle.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..adapter.adapter_parts import kind_of, rank_of
from ..config import AdapterKind, LoRAConfig, SavePrecision
from ..errors import InputError
from .atomic_file import write_atomically
from .bundle import embeddings_of, is_bundled
from .lora_layout import ALPHA, SUFFIXES, family_problem, layout_problem, parts_by_layer, to_kohya
from .lora_names import SDXL_LAYERS_PER_BLOCK, to_diffusers_paths
from .metadata import content_hashes
from .safetensors_file import read_safetensors, serialize
from .text_lora_names import is_text_path

__all__ = [
    "DTYPES",
    "LoRAFile",
    "SavePrecision",
    "read_lora",
    "to_diffusers",
    "to_kohya",
    "write_diffusers_lora",
    "write_lora",
]

DTYPES: Mapping[SavePrecision, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}

MAX_ROUNDING = 2**-8
"""Largest share of its own length that a tensor may change by when saved: the most bf16 does to any."""

_ALWAYS_FLOAT32 = (ALPHA, SUFFIXES["dora_scale"])
"""A DoRA's lengths differ little from the frozen weight's: rounded to fp16 they would drown the update."""


@dataclass(frozen=True, slots=True)
class LoRAFile:
    """A LoRA of any kind as it lies in its file: tensors under its names, embeddings too, and metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    @property
    def names(self) -> list[str]:
        """Kohya names of the layers, such as `lora_unet_middle_block_1_proj_in`."""
        return list(self.parts)

    @property
    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Kohya name -> part (`adapter_parts.PARTS`) -> tensor."""
        return parts_by_layer(self.tensors)

    @property
    def embeddings(self) -> dict[str, dict[str, Tensor]]:
        """Name of each embedding that the file carries -> "clip_l" and "clip_g" -> (n, width)."""
        return embeddings_of(self.tensors)

    @property
    def kinds(self) -> set[AdapterKind]:
        """One, but for files that mix them, and none for a file of embeddings alone."""
        return {kind_of(parts) for parts in self.parts.values()}

    def rank_of(self, name: str) -> int:
        """Rank of a layer; 0 for a LoKr layer that is kept whole."""
        return rank_of(self._parts_of(name))

    def alpha_of(self, name: str) -> float:
        """Alpha of a layer; a file without it means rank, that is scale 1."""
        alpha = self.tensors.get(name + ALPHA)
        return float(self.rank_of(name)) if alpha is None else alpha.item()

    def scale_of(self, name: str) -> float:
        """What the update of a layer is multiplied with."""
        rank = self.rank_of(name)
        return self.alpha_of(name) / rank if rank else 1.0

    def _parts_of(self, name: str) -> dict[str, Tensor]:
        keys = {part: name + suffix for part, suffix in SUFFIXES.items()}
        return {part: self.tensors[key] for part, key in keys.items() if key in self.tensors}

    @property
    def ranks(self) -> set[int]:
        return {self.rank_of(name) for name in self.names}

    @property
    def alphas(self) -> set[float]:
        return {self.alpha_of(name) for name in self.names}


def write_lora(  # noqa: PLR0913 - all that a file is made of
    path: Path,
    adapter_state: Mapping[str, Tensor],
    config: LoRAConfig,
    metadata: Mapping[str, str],
    layers_per_block: int = SDXL_LAYERS_PER_BLOCK,
    precision: SavePrecision = "fp16",
    bundled: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a LoRA file, whole or not at all; the same input gives the same bytes.

    fp16 by default: every program reads it, it takes half of fp32, and its 11 bits of mantissa round 8 times
    finer than bf16's 8. A LoRA with numbers outside its range, too large or so small that they would lose
    more than bf16 loses anywhere, is written as fp32 instead.

    Args:
        path: the final name.
        adapter_state: `Adapter.state_dict()`, those of several adapters together; empty where only embeddings
            were trained.
        config: kind, rank and alpha.
        metadata: texts, from `metadata.build_metadata`; the hashes of the content are added here.
        layers_per_block: of the UNet's config.
        precision: type of the weights; alpha, a DoRA's lengths and embeddings are always fp32.
        bundled: embeddings, as `embedding_file.bundle` gives them.

    Raises:
        InputError: a weight is not finite.
        OSError: no room or no permission; a former file of that name is still there.
        ValueError: neither layers nor embeddings.
    """
    tensors = to_kohya(adapter_state, config, layers_per_block) | dict(bundled or {})
    if not tensors:
        raise ValueError("a LoRA file needs layers or embeddings")
    tensors = rounded(tensors, precision)
    write_tensors(path, tensors, {**metadata, **content_hashes(tensors, metadata)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        OSError: no room or no permission; a former file of that name is still there.
    """
    parts = serialize(tensors, metadata)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.writelines(parts)

    write_atomically(path, write)


def rounded(tensors: Mapping[str, Tensor], precision: SavePrecision) -> dict[str, Tensor]:
    """All weights in that precision, or all as they are where a tensor would lose too much.

    Raises:
        InputError: a weight is not finite.
    """
    weights = {
        key: x for key, x in tensors.items() if not key.endswith(_ALWAYS_FLOAT32) and not is_bundled(key)
    }
    bad = [key for key, x in tensors.items() if not x.isfinite().all()]
    if bad:
        raise InputError(f"{bad[0]} holds numbers that are not finite: the LoRA is not written")
    short = {key: x.to(DTYPES[precision]) for key, x in weights.items()}
    for key, weight in weights.items():
        # "not <=" also holds when an overflow makes the loss infinite or NaN
        if not (short[key].float() - weight).norm() <= MAX_ROUNDING * weight.norm():
            return dict(tensors)
    return {**tensors, **short}


def read_lora(path: Path) -> LoRAFile:
    """Read and check a LoRA, DoRA, LoHa or LoKr file in kohya's or LyCORIS' layout, and what it carries.

    Raises:
        InputError: not readable, cut off, a pickle, damaged, not finite, or of another model family.
    """
    tensors, metadata = read_safetensors(path)
    problem = family_problem(tensors) or layout_problem(tensors)
    if problem:
        raise InputError(f"{path.name} {problem}")
    return LoRAFile(tensors, metadata)


def to_diffusers(lora: LoRAFile, layers_per_block: int = SDXL_LAYERS_PER_BLOCK) -> dict[str, Tensor]:
    """The LoRA as diffusers' own training scripts write it, for `load_lora_weights`; float32.

    That format has no alpha and takes the scale as 1: alpha / rank is multiplied into `up`. It has no place
    for embeddings either: diffusers reads those from their own file, with `load_textual_inversion`.

    Raises:
        InputError: a kind that diffusers' format has no place for, or a layer that is not in SDXL.
    """
    others = sorted(lora.kinds - {"lora"})
    if others:
        raise InputError(
            f"diffusers' format holds plain LoRAs only, but this is a {others[0]}: use the file itself, or "
            "train with adapter lora"
        )
    tensors = {}
    layers = lora.parts
    for name, path in to_diffusers_paths(layers, layers_per_block).items():
        key = f"{path}.lora_linear_layer" if is_text_path(path) else f"unet.{path}.lora"
        tensors[f"{key}.down.weight"] = layers[name]["lora_down"].float()
        tensors[f"{key}.up.weight"] = layers[name]["lora_up"].float() * lora.scale_of(name)
    return tensors


def write_diffusers_lora(path: Path, lora: LoRAFile, layers_per_block: int = SDXL_LAYERS_PER_BLOCK) -> bool:
    """Write the diffusers-format copy of a plain LoRA, with `{"format": "pt"}` as its only metadata.

    Returns:
        Whether there was a layer to write: a file of embeddings alone has no such copy.

    Raises:
        InputError: see `to_diffusers`.
    """
    tensors = to_diffusers(lora, layers_per_block)
    if tensors:
        write_tensors(path, tensors, {"format": "pt"})
    return bool(tensors)
