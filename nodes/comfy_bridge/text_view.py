"""The weights of ComfyUI's CLIP pair inside transformers' text encoders, without a copy.

ComfyUI's own layers add in place (comfy/clip_model.py, CLIPLayer), which autograd refuses; transformers'
compute the same numbers from the same weights.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import comfy.clip_model
import torch
from torch import Tensor

from ...trainer.diffusion.conditioning import WINDOW_TOKENS
from ...trainer.errors import InputError
from .families import CHOOSE_SDXL

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ...trainer.sdxl.model import TextEncoders

PROJECTION = "text_projection.weight"
TEXT_MODEL = "text_model."
START, END = 49406, 49407
SDXL_LAYER = -2


def build_text_encoders(clip: Any, weights: Mapping[str, Tensor]) -> "TextEncoders":
    """Both encoders, frozen, whose parameters are `weights`; those of half precision compute in float32.

    Must be called outside inference mode, with a pair that `require_trainable` accepts.

    Args:
        clip: CLIP as wired; its output layer is taken over.
        weights: ComfyUI's parameter name in the state dict of the pair -> tensor, all on one device.
    """
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from ...trainer.sdxl.half_linear import hold_in_half
    from ...trainer.sdxl.model import TextEncoders

    encoders = []
    for name, kind in (("clip_l", CLIPTextModel), ("clip_g", CLIPTextModelWithProjection)):
        prefix = f"{name}.transformer."
        own = {key.removeprefix(prefix): w for key, w in weights.items() if key.startswith(prefix)}
        encoders.append(hold_in_half(_view(kind, _transformer(clip, name), own)))
    return TextEncoders(encoders[0], encoders[1], output_layer(clip))


def output_layer(clip: Any) -> int:
    """Which hidden state both encoders give out, as "CLIP Set Last Layer" counts: -1 is the last."""
    return SDXL_LAYER if clip.layer_idx is None else clip.layer_idx


def require_trainable(clip: Any) -> None:
    """Refuse a pair whose text encoders cannot be trained, before any of it is loaded.

    Raises:
        InputError: encoders of other layers than SDXL's, or that read another number of tokens; an output
            layer that one of the two does not have.
    """
    for name, title in (("clip_l", "CLIP-L"), ("clip_g", "CLIP-G")):
        transformer = _transformer(clip, name)
        if not isinstance(transformer, comfy.clip_model.CLIPTextModel):
            raise InputError(
                f"clip's {title} is a {type(transformer).__name__}, but only SDXL's own text encoders can be "
                f"trained: {CHOOSE_SDXL}"
            )
        positions = transformer.text_model.embeddings.position_embedding.weight.shape[0]
        if positions != WINDOW_TOKENS:
            raise InputError(
                f"clip's {title} reads {positions} tokens at once, but text encoders can only be trained "
                f"with SDXL's {WINDOW_TOKENS}: {CHOOSE_SDXL}"
            )
        # beyond it ComfyUI 0.3 gives out the last layer, normed, and 0.33 the one before the last
        layer, depth = output_layer(clip), transformer.num_layers
        if not 1 <= -layer <= depth:
            raise InputError(
                f"clip stops at layer {layer}, but {title} has {depth}: to train text encoders, set CLIP Set "
                f"Last Layer to {-depth} up to -1, or remove it"
            )


def _transformer(clip: Any, name: str) -> Any:
    return getattr(clip.cond_stage_model, name).transformer


def transformers_config(transformer: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of transformers' CLIPTextConfig for one of ComfyUI's encoders.

    Args:
        transformer: ComfyUI's CLIPTextModel: what its weights do not tell, heads and activation.
        weights: its parameters by ComfyUI's names.
    """
    layers = transformer.text_model.encoder.layers
    vocabulary, width = weights["text_model.embeddings.token_embedding.weight"].shape
    activation = next(
        name for name, act in comfy.clip_model.ACTIVATIONS.items() if act is layers[0].mlp.activation
    )
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": weights["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "projection_dim": weights[PROJECTION].shape[0] if PROJECTION in weights else width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": layers[0].self_attn.heads,
        "max_position_embeddings": len(weights["text_model.embeddings.position_embedding.weight"]),
        "hidden_act": activation,
        "bos_token_id": START,
        "eos_token_id": END,
    }


def _view(kind: "type[PreTrainedModel]", transformer: Any, weights: Mapping[str, Tensor]) -> Any:
    """One encoder of transformers' class `kind` on `weights`, by ComfyUI's names."""
    from transformers import CLIPTextConfig

    config = CLIPTextConfig(**transformers_config(transformer, weights))
    with torch.device("meta"):
        encoder = kind(config)
    # without a projection transformers 5 leaves out the `text_model.` that ComfyUI and transformers 4 write
    state = {
        name: weights[name if name.startswith((TEXT_MODEL, PROJECTION)) else TEXT_MODEL + name]
        for name in encoder.state_dict()
    }
    encoder.load_state_dict(state, assign=True, strict=True)
    for name, buffer in list(encoder.named_buffers()):  # position_ids: computed, in no file
        path, _, leaf = name.rpartition(".")
        positions = torch.arange(buffer.shape[-1], device=next(iter(state.values())).device)
        encoder.get_submodule(path).register_buffer(leaf, positions.expand(buffer.shape), persistent=False)
    return encoder.requires_grad_(False).eval()
