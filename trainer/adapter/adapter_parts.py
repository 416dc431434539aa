"""The kinds of update a layer can learn: which matrices each is made of, how they start, what they add up to.

W (O, I) or (O, I, k, k) is the frozen weight, R the rank, s the scale (`LoRAConfig.scale`):

    lora  W + s up down                                         arXiv 2106.09685, eq. 3
    dora  (W + s up down) * dora_scale / norm of its columns    arXiv 2402.09353, eq. 5
    loha  W + s (w1_a w1_b) * (w2_a w2_b), element by element   arXiv 2108.06098, prop. 1
    lokr  W + s w1 (x) (w2_a w2_b), a Kronecker product;        arXiv 2309.14859, sec. 3.2
          W + w1 (x) w2 where w2 is kept whole

Shapes and starting values are LyCORIS' (lycoris/modules), the sums those of ComfyUI's loader
(comfy/weight_adapter). A fresh update is nothing.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..settings.lora_config import AdapterKind, LoRAConfig

Shape = tuple[int, ...]

PARTS = (
    "lora_down",
    "lora_up",
    "dora_scale",
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "lokr_w1",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
)
"""Every part's name, as in LyCORIS' files but for `.weight` of the first two, in the flat buffer's order."""

STARTS_AT_ZERO = ("lora_up", "hada_w2_a", "lokr_w2", "lokr_w2_b")
"""The factor of each kind that makes a fresh update nothing; the update is linear in it."""

FASTER = ("lora_up", "hada_w2_a", "lokr_w1")
"""What LoRA+ (arXiv 2402.12354) speeds up, as kohya-style trainers choose it for each kind."""


def part_shapes(config: LoRAConfig, weight: Shape, rank: int) -> dict[str, Shape]:
    """The parts of one layer's update.

    Args:
        config: kind and, for lokr, the factor.
        weight: (O, I) or (O, I, k, k).
        rank: of this layer.
    """
    outputs, inputs, *kernel = weight
    patch = math.prod(kernel)
    if config.adapter == "loha":
        wide, tall = (rank, inputs * patch), (outputs, rank)
        return {"hada_w1_a": tall, "hada_w1_b": wide, "hada_w2_a": tall, "hada_w2_b": wide}
    if config.adapter == "lokr":
        return _kronecker_shapes(weight, rank, config.lokr_factor)
    ones = (1,) * len(kernel)
    shapes: dict[str, Shape] = {"lora_down": (rank, inputs, *kernel), "lora_up": (outputs, rank, *ones)}
    if config.adapter == "dora":
        shapes["dora_scale"] = (1, inputs, *ones)
    return shapes


def _kronecker_shapes(weight: Shape, rank: int, factor: int) -> dict[str, Shape]:
    """w2 is kept whole where two matrices of this rank would be no smaller, as in LyCORIS."""
    outputs, inputs, *kernel = weight
    (out_1, out_2), (in_1, in_2) = factorize(outputs, factor), factorize(inputs, factor)
    small = {"lokr_w1": (out_1, in_1)}
    if 2 * rank >= max(out_2, in_2):
        return {**small, "lokr_w2": (out_2, in_2, *kernel)}
    return {**small, "lokr_w2_a": (out_2, rank), "lokr_w2_b": (rank, in_2 * math.prod(kernel))}


def factorize(number: int, factor: int) -> tuple[int, int]:
    """`number` as (smaller, larger), the smaller as close to `factor` as it goes; -1 = as square as can be.

    Source: `factorization` in lycoris/functional/general.py.
    """
    if factor > 0 and number % factor == 0:
        small = factor
    else:
        largest = number if factor < 0 else factor
        divisors = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0 and n <= largest]
        small = divisors[-1]
    return min(small, number // small), max(small, number // small)


def start_value(part: str, shape: Shape, generator: torch.Generator) -> Tensor:
    """Float32 on the CPU. Not for `dora_scale`, which starts as the length of the weight's columns."""
    if part in STARTS_AT_ZERO:
        return torch.zeros(shape)
    if part.startswith("hada"):
        return torch.randn(shape, generator=generator) * (0.1 if part == "hada_w1_a" else 1.0)
    return kaiming_uniform(shape, generator)


def kaiming_uniform(shape: Shape, generator: torch.Generator) -> Tensor:
    """In +-1 / sqrt(inputs): `nn.init.kaiming_uniform_(a=sqrt(5))`, as kohya's."""
    bound = 1.0 / math.sqrt(math.prod(shape[1:]))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def update_of(parts: Mapping[str, Tensor], shape: Shape, scale: float) -> Tensor:
    """What is added to W, before `dora_scale`: a tensor of W's shape and the parts' type.

    Args:
        parts: by part name.
        shape: of W.
        scale: not applied to a lokr update whose w2 is whole: those have none (LyCORIS, ComfyUI).
    """
    if "lora_up" in parts:
        return _scaled(parts["lora_up"].flatten(1) @ parts["lora_down"].flatten(1), scale).view(shape)
    if "hada_w1_a" in parts:
        first = parts["hada_w1_a"] @ parts["hada_w1_b"]
        return _scaled(first * (parts["hada_w2_a"] @ parts["hada_w2_b"]), scale).view(shape)
    if "lokr_w2" in parts:
        return torch.kron(parts["lokr_w1"], parts["lokr_w2"].flatten(1)).view(shape)
    large = _scaled(parts["lokr_w2_a"] @ parts["lokr_w2_b"], scale)
    return torch.kron(parts["lokr_w1"], large).view(shape)


def _scaled(product: Tensor, scale: float) -> Tensor:
    return product if scale == 1.0 else product * scale


def updated(weight: Tensor, parts: Mapping[str, Tensor], scale: float) -> Tensor:
    """W with its update, as ComfyUI's loader computes it at strength 1."""
    changed = weight + update_of(parts, tuple(weight.shape), scale)
    magnitude = parts.get("dora_scale")
    if magnitude is None:
        return changed
    return changed * (magnitude / (column_norm(changed) + torch.finfo(weight.dtype).eps))


def column_norm(weight: Tensor) -> Tensor:
    """Length of what each input is multiplied with: (O, I) -> (1, I), (O, I, k, k) -> (1, I, 1, 1)."""
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return torch.linalg.vector_norm(wide, dim=[0, *range(2, weight.ndim)], keepdim=True)


def kind_of(parts: Mapping[str, object]) -> AdapterKind:
    """The kind that has these parts."""
    if "dora_scale" in parts:
        return "dora"
    if "lora_up" in parts:
        return "lora"
    return "loha" if "hada_w1_a" in parts else "lokr"


def rank_of(parts: Mapping[str, Tensor]) -> int:
    """Rank of a layer's update; 0 for a lokr update whose w2 is whole."""
    for part in ("lora_down", "hada_w1_b", "lokr_w2_b"):
        if part in parts:
            return parts[part].shape[0]
    return 0


def update_size(parts: Mapping[str, Tensor]) -> tuple[int, int]:
    """Outputs and inputs (times the kernel's area) of the weight that the parts belong to."""
    if "lora_up" in parts:
        return len(parts["lora_up"]), math.prod(parts["lora_down"].shape[1:])
    if "hada_w1_a" in parts:
        return len(parts["hada_w1_a"]), parts["hada_w1_b"].shape[1]
    tall = parts["lokr_w2"] if "lokr_w2" in parts else parts["lokr_w2_a"]
    wide = parts["lokr_w2"] if "lokr_w2" in parts else parts["lokr_w2_b"]
    small = parts["lokr_w1"].shape
    return small[0] * len(tall), small[1] * math.prod(wide.shape[1:])
