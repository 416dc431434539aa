"""Embeddings that a LoRA file carries with it: `bundle_emb.<name>.clip_l` and `.clip_g`.

Each is what a file `<name>.safetensors` among the embeddings would hold: (n, width) vectors of n tokens for
each of SDXL's text encoders, 768 and 1280 wide. Layout: A1111 pull request 13568; OneTrainer's as well.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..settings.text_config import ENCODERS

BUNDLE_PREFIX = "bundle_emb."


def is_bundled(key: str) -> bool:
    """Whether a key of a LoRA file belongs to an embedding."""
    return key.startswith(BUNDLE_PREFIX)


def bundle_keys(name: str, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One embedding's keys in a LoRA file; float32 on the CPU, with memory of their own.

    Args:
        name: of the embedding, without ending.
        vectors: encoder -> (n, width).
    """
    return {f"{BUNDLE_PREFIX}{name}.{encoder}": plain_copy(vectors[encoder]) for encoder in ENCODERS}


def plain_copy(vectors: Tensor) -> Tensor:
    """What a file holds of vectors: float32 on the CPU, in memory of its own."""
    return vectors.detach().to("cpu", torch.float32, copy=True).contiguous()


def embeddings_of(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Name of each embedding in a file -> encoder -> (n, width)."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if is_bundled(key):
            name, _, encoder = key.removeprefix(BUNDLE_PREFIX).rpartition(".")
            found.setdefault(name, {})[encoder] = tensor
    return found


def bundle_problem(tensors: Mapping[str, Tensor]) -> str:
    """What is wrong with the embeddings in a file, or ""."""
    for name, vectors in embeddings_of(tensors).items():
        problem = vectors_problem(vectors)
        if problem:
            return f"has an embedding '{name}' that {problem}"
    return ""


def vectors_problem(vectors: Mapping[str, Tensor]) -> str:
    """Why this is no embedding for SDXL, or ""."""
    if set(vectors) != set(ENCODERS):
        return f"holds {', '.join(sorted(vectors)) or 'nothing'}, but one for SDXL holds clip_l and clip_g"
    small, large = (tuple(vectors[encoder].shape) for encoder in ENCODERS)
    # CLIP-G is the wider one in every SDXL: swapped, or both of one encoder, fits no prompt
    if len(small) != 2 or len(large) != 2 or not 0 < small[1] < large[1]:
        return f"is not for SDXL: clip_l is {small} and clip_g {large}, but must be (n, 768) and (n, 1280)"
    if small[0] != large[0] or not small[0]:
        return f"is damaged: it has {small[0]} rows in clip_l and {large[0]} in clip_g"
    for encoder in ENCODERS:
        if not vectors[encoder].is_floating_point() or not vectors[encoder].isfinite().all():
            return f"is damaged: {encoder} holds numbers that are not finite"
    return ""
