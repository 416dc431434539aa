"""Whether two runs would train on the same weights: a digest of shapes, strided samples and patches.

Reading 7 GB would take longer than many runs; a fixed number of values of each tensor tells two
checkpoints apart, because fine-tuning and merging move nearly every weight.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .new_words import known_words

# what of a patcher changes its results in ways that no digest here knows
UNKNOWN_CHANGES = ("forced_hooks", "hook_patches", "injections")
CAST_TYPE = "manual_cast_dtype"  # the one object patch of ComfyUI's own on text encoders
NUM_SAMPLES = 16  # values of each tensor
# no SDXL checkpoint holds it and nothing reads it: ComfyUI leaves it uninitialised
UNUSED = "clip_l.transformer.text_projection.weight"


def weights_fingerprint(model: Any, clip: Any, vae: Any) -> str:
    """64 hex digits that change with the weights, patches, sampling and words of the three inputs."""
    digest = hashlib.sha256()
    for patcher in (model, clip.patcher, vae.patcher):
        _add_weights(digest, patcher)
        _add_patches(digest, patcher)
    sampling = model.get_model_object("model_sampling")
    digest.update(repr([base.__name__ for base in type(sampling).__mro__]).encode())
    digest.update(_numbers([sampling.sigmas]).tobytes())
    digest.update(f"{sampling.sigma_data} {type(model.get_model_object('latent_format')).__name__}".encode())
    digest.update(f"clip layer {clip.layer_idx}".encode())
    _add_words(digest, clip)
    return digest.hexdigest()


def vae_fingerprint(model: Any, vae: Any) -> str:
    """Changes with all that latents depend on beside the pixels; "" where something unknown acts on the VAE.

    Args:
        model: whose scale and shift of latents is used.
        vae: as wired.
    """
    if _is_changed_unseen(vae.patcher, vae):
        return ""
    digest = hashlib.sha256()
    _add_weights(digest, vae.patcher)
    _add_patches(digest, vae.patcher)
    _add_kind(digest, vae, vae.first_stage_model, vae.patcher)
    ends = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, vae.latent_channels, 1, 1)
    processed = model.get_model_object("latent_format").process_in(ends)
    digest.update(f"{vae.vae_dtype} {vae.process_input(ends[:, :1]).flatten().tolist()}".encode())
    digest.update(processed.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def text_fingerprint(clip: Any) -> str:
    """Changes with all that conditions depend on beside the caption; "" where what acts on it is unknown."""
    if _is_changed_unseen(clip.patcher, clip, clip.tokenizer):
        return ""
    digest = hashlib.sha256()
    _add_weights(digest, clip.patcher)
    _add_patches(digest, clip.patcher)
    _add_kind(digest, clip, clip.cond_stage_model, clip.tokenizer, clip.patcher)
    options = sorted(getattr(clip, "tokenizer_options", {}).items())
    digest.update(f"clip layer {clip.layer_idx} {options}".encode())
    _add_words(digest, clip)
    return digest.hexdigest()


def _add_kind(digest: Any, *parts: Any) -> None:
    """Whose code computes, in which types, on which kind of device; the last part is the patcher."""
    patcher = parts[-1]
    types = sorted({str(weight.dtype) for weight in patcher.model.parameters()})
    names = [f"{type(part).__module__}.{type(part).__qualname__}" for part in parts[:-1]]
    types.append(str(patcher.object_patches.get(CAST_TYPE)))
    digest.update(f"{names} {types} {patcher.load_device.type}".encode())


def _is_changed_unseen(patcher: Any, *owners: Any) -> bool:
    """Whether something acts on the model, or has replaced code of it or of its `owners`."""
    has_changes = any(getattr(patcher, name, None) for name in UNKNOWN_CHANGES)
    has_patches = bool(patcher.object_patches.keys() - {CAST_TYPE})
    return has_changes or has_patches or any(map(_has_other_code, (*owners, *patcher.model.modules())))


def _has_other_code(part: Any) -> bool:
    """Whether an instance hides a method of its class, as packs do that tile a VAE or make it seamless."""
    hooks = getattr(part, "_forward_hooks", None) or getattr(part, "_forward_pre_hooks", None)
    hidden = (name for name, value in vars(part).items() if callable(value) and hasattr(type(part), name))
    return bool(hooks) or any(hidden)


def _add_weights(digest: Any, patcher: Any) -> None:
    """Base weights: what the backup holds where patches are merged at present."""
    names, tensors = [], []
    for name, weight in sorted(patcher.model.named_parameters()):
        if name == UNUSED:
            continue
        base = patcher.backup[name].weight if name in patcher.backup else weight
        names.append(f"{name}{tuple(base.shape)}{_kind(base)}")
        tensors.append(base)
    digest.update("\n".join(names).encode())
    digest.update(_numbers(tensors).tobytes())


def _kind(tensor: Tensor) -> str:
    """The class of a quantised tensor; plain ones differ in their values where the format matters."""
    return "" if type(tensor) in (Tensor, torch.nn.Parameter) else type(tensor).__name__


def _add_patches(digest: Any, patcher: Any) -> None:
    for key in sorted(patcher.patches, key=str):
        for strength, value, base_strength, *_ in patcher.patches[key]:
            tensors = list(_tensors_of(value))
            digest.update(f"{key} {strength} {base_strength} {[tuple(t.shape) for t in tensors]}".encode())
            digest.update(_numbers(tensors).tobytes())


def _add_words(digest: Any, clip: Any) -> None:
    """Words that captions and prompts are read with; nothing for a CLIP that knows none."""
    for word, vectors in sorted(known_words(clip).items()):
        digest.update(f"word {word} {[tuple(rows.shape) for rows in vectors]}".encode())
        for rows in vectors:
            digest.update(rows.detach().cpu().float().numpy().tobytes())


def _tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors and numbers inside a patch: an adapter object, or nested tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, bool | int | float):
        yield torch.tensor(float(value))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors_of(item)
    elif hasattr(value, "weights"):
        yield from _tensors_of(value.weights)


def _numbers(tensors: list[Tensor]) -> Any:
    """Strided samples of all tensors in their order, as one float32 array; one transfer for each device.

    ComfyUI may hold part of a model on the CPU; where a weight lies must not change the digest.
    """
    groups: dict[torch.device, list[Tensor]] = {}
    places: list[tuple[torch.device, int]] = []
    with torch.inference_mode():
        for tensor in tensors:
            packed = getattr(tensor, "_qdata", tensor)  # quantised: its packed numbers identify it
            flat = packed.detach().reshape(-1)
            stride = max(1, flat.numel() // NUM_SAMPLES)
            group = groups.setdefault(flat.device, [])
            places.append((flat.device, len(group)))
            group.append(flat[::stride][:NUM_SAMPLES].to(torch.float32))
        sizes = {device: [sample.numel() for sample in group] for device, group in groups.items()}
        fetched = {d: torch.cat(group).cpu().split(sizes[d]) for d, group in groups.items()}
        parts = [fetched[device][index] for device, index in places]
        return torch.cat(parts).numpy() if parts else torch.zeros(0).numpy()
