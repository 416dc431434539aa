"""LoRA files as ComfyUI's ordinary patches, and the proof that every key of one found its place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.sd
from torch import Tensor

from ...trainer.errors import InputError
from ...trainer.files.bundle import is_bundled

# suffixes that core reads itself, beside those of its adapter classes
CORE_SUFFIXES = (".alpha", ".dora_scale", ".diff", ".diff_b", ".w_norm", ".b_norm", ".set_weight")
NUM_NAMED = 3  # missing keys that an error names


@dataclass(frozen=True, slots=True)
class KeyCount:
    """How many weights of the UNet and of the text encoders a LoRA patches."""

    model: int
    clip: int

    def __str__(self) -> str:
        return f"{self.model} weights of the model and {self.clip} of CLIP"


def layer_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What patches weights: all of a LoRA but the embeddings it carries, which ComfyUI has no place for."""
    return {key: tensor for key, tensor in tensors.items() if not is_bundled(key)}


def check_keys(model: Any, clip: Any, tensors: Mapping[str, Tensor], name: str) -> KeyCount:
    """Find the place of every layer's key with ComfyUI's own key map.

    Raises:
        InputError: keys of the file found no place; some are named.
    """
    places = comfy.lora.model_lora_keys_unet(model.model, {})
    places = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, places)
    converted = comfy.lora_convert.convert_lora(layer_tensors(tensors))
    patches = comfy.lora.load_lora(converted, places, log_missing=False)
    used = {f"{place}{suffix}" for place in places for suffix in CORE_SUFFIXES}
    for patch in patches.values():
        used |= set(getattr(patch, "loaded_keys", ()))
    unmatched = sorted(key for key in converted if key not in used)
    weights = {_state_key(target) for target in patches}
    in_model = weights & set(model.model.state_dict())
    in_clip = weights & set(clip.cond_stage_model.state_dict())
    unmatched += sorted(weights - in_model - in_clip)
    if unmatched:
        named = ", ".join(unmatched[:NUM_NAMED]) + (", ..." if len(unmatched) > NUM_NAMED else "")
        raise InputError(
            f"{name}: {len(unmatched)} of {len(converted)} keys fit neither model nor CLIP ({named}): "
            "the LoRA was trained for another kind of model; wire an SDXL checkpoint and an SDXL LoRA"
        )
    return KeyCount(model=len(in_model), clip=len(in_clip))


def _state_key(target: Any) -> str:
    """A patch may aim at a slice of a weight, as (key, slice)."""
    return target[0] if isinstance(target, tuple) else target


def apply_lora(
    model: Any, clip: Any, tensors: Mapping[str, Tensor], strength_model: float, strength_clip: float
) -> tuple[Any, Any]:
    """Clones of MODEL and CLIP that carry the LoRA as core's LoraLoader would have patched them."""
    layers = layer_tensors(tensors)
    return comfy.sd.load_lora_for_models(model, clip, layers, strength_model, strength_clip)
