"""Configs of the networks in a single-file SDXL checkpoint, deduced from the shapes of its tensors."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..files.safetensors_header import Entry
from .model_detection import CLIP_G, CLIP_L, SIZE_EMBEDDING, UNET, VAE
from .token_windows import END, PAD_CLIP_G, PAD_CLIP_L, START

Entries = Mapping[str, Entry]
LATENT_SCALE = 0.13025
# How wide an attention head is leaves no trace in any shape: SDXL's have 64 channels.
HEAD_CHANNELS = 64
SDXL_CHANNELS, SDXL_TEXT_WIDTH = 320, 768
# The bundled stand-in, narrower than any real model, has these.
STAND_IN_HEAD_CHANNELS, STAND_IN_TEXT_HEAD_CHANNELS = 32, 8


def unet_config(entries: Entries) -> dict[str, Any]:
    """Keyword arguments of diffusers' UNet2DConditionModel."""
    ops = _numbers(entries, rf"{re.escape(UNET)}input_blocks\.(\d+)\.0\.op\.weight")
    stride = min(ops, default=3)  # blocks of one resolution and their downsampler
    firsts = [f"{UNET}input_blocks.{1 + level * stride}" for level in range(len(ops) + 1)]
    channels = [_shape(entries, f"{first}.0.out_layers.3.weight")[0] for first in firsts]
    depths = [
        len(_numbers(entries, rf"{re.escape(first)}\.1\.transformer_blocks\.(\d+)\.norm1\.weight"))
        for first in firsts
    ]
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    heads = HEAD_CHANNELS if channels[0] >= SDXL_CHANNELS else STAND_IN_HEAD_CHANNELS
    return {
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": down,
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(down)],
        "block_out_channels": channels,
        "layers_per_block": stride - 1,
        "transformer_layers_per_block": [max(depth, 1) for depth in depths],
        "cross_attention_dim": _context(entries),
        "attention_head_dim": [c // heads for c in channels],  # diffusers calls the number of heads so
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE_EMBEDDING // 6,
        "projection_class_embeddings_input_dim": _shape(entries, f"{UNET}label_emb.0.0.weight")[-1],
    }


def vae_config(entries: Entries) -> dict[str, Any]:
    """Keyword arguments of diffusers' AutoencoderKL."""
    levels = _numbers(entries, rf"{re.escape(VAE)}encoder\.down\.(\d+)\.block\.0\.conv1\.weight")
    layers = _numbers(entries, rf"{re.escape(VAE)}encoder\.down\.0\.block\.(\d+)\.conv1\.weight")
    return {
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
        "block_out_channels": [
            _shape(entries, f"{VAE}encoder.down.{level}.block.0.conv1.weight")[0] for level in sorted(levels)
        ],
        "layers_per_block": len(layers),
        "latent_channels": _shape(entries, f"{VAE}decoder.conv_in.weight")[1],
        "norm_num_groups": 32,
        "scaling_factor": LATENT_SCALE,
    }


def clip_l_config(entries: Entries) -> dict[str, Any]:
    """Keyword arguments of transformers' CLIPTextConfig for the smaller text encoder."""
    model = f"{CLIP_L}text_model."
    vocabulary, width = _shape(entries, f"{model}embeddings.token_embedding.weight")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": _shape(entries, f"{model}encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": len(
            _numbers(entries, rf"{re.escape(model)}encoder\.layers\.(\d+)\.mlp\.fc1\.weight")
        ),
        "num_attention_heads": _text_heads(width),
        "hidden_act": "quick_gelu",
        **_special_tokens(PAD_CLIP_L),
    }


def clip_g_config(entries: Entries) -> dict[str, Any]:
    """Keyword arguments of transformers' CLIPTextConfig for the larger text encoder."""
    blocks = f"{CLIP_G}transformer.resblocks."
    vocabulary, width = _shape(entries, f"{CLIP_G}token_embedding.weight")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": _shape(entries, f"{blocks}0.mlp.c_fc.weight")[0],
        "num_hidden_layers": len(_numbers(entries, rf"{re.escape(blocks)}(\d+)\.mlp\.c_fc\.weight")),
        "num_attention_heads": _text_heads(width),
        "hidden_act": "gelu",
        "projection_dim": _shape(entries, f"{UNET}label_emb.0.0.weight")[-1] - SIZE_EMBEDDING,
        **_special_tokens(PAD_CLIP_G),
    }


def _text_heads(width: int) -> int:
    return width // (HEAD_CHANNELS if width >= SDXL_TEXT_WIDTH else STAND_IN_TEXT_HEAD_CHANNELS)


def _special_tokens(pad: int) -> dict[str, int]:
    return {"bos_token_id": START, "eos_token_id": END, "pad_token_id": pad}


def _context(entries: Entries) -> int:
    """Width of the text states that the UNet attends to."""
    return next(e.shape[-1] for name, e in entries.items() if name.endswith("attn2.to_k.weight"))


def _shape(entries: Entries, name: str) -> tuple[int, ...]:
    return entries[name].shape


def _numbers(names: Iterable[str], pattern: str) -> set[int]:
    """The different numbers that `pattern` finds in the names."""
    compiled = re.compile(pattern)
    return {int(found[1]) for name in names if (found := compiled.fullmatch(name))}
