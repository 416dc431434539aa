"""What family a checkpoint is of, told from the names and shapes of its tensors alone.

Only SDXL base and its finetunes can be trained; everything else is refused by its own name.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files.safetensors_header import Entry, Header, read_header

UNET = "model.diffusion_model."
CLIP_L, CLIP_G = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
VAE = "first_stage_model."
SIZE_EMBEDDING = 6 * 256

SDXL = "SDXL"
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
ADAPTER_ENDINGS = (
    *(".lora_down.weight", ".lora_up.weight", ".lora.down.weight", ".lora.up.weight"),
    *(".lora_A.weight", ".lora_B.weight", ".lora_A.default.weight", "_lora.down.weight", "_lora.up.weight"),
    *(".hada_w1_a", ".lokr_w1", ".lokr_w1_a", ".oft_blocks", ".oft_diag", ".dora_scale", ".diff", ".diff_b"),
)
# the first tensor found decides, so narrower signs stand before wider ones; names without the UNet's prefix
SIGNS = (
    ("input_hint_block.0.weight", "a ControlNet"),
    ("controlnet_cond_embedding.conv_in.weight", "a ControlNet"),
    ("joint_blocks.0.context_block.adaLN_modulation.1.weight", "Stable Diffusion 3"),
    ("distilled_guidance_layer.in_proj.weight", "Chroma"),
    ("single_stream_modulation.lin.weight", "Flux 2"),
    ("double_blocks.0.img_attn.norm.key_norm.scale", "Flux"),
    ("double_blocks.0.img_attn.qkv.weight", "Flux"),
    ("single_transformer_blocks.0.attn.to_q.weight", "Flux"),
    ("double_layers.0.attn.w1q.weight", "AuraFlow"),
    ("clip_txt_mapper.weight", "Stable Cascade"),
    ("cap_embedder.0.weight", "Lumina 2 or Z-Image"),
    ("head.modulation", "Wan"),
    ("text_model.encoder.layers.0.mlp.fc1.weight", "a text encoder"),
    ("decoder.conv_in.weight", "a VAE"),
)
NO_BASE = {9: "an SDXL inpainting model", 8: "an SDXL editing model"}


def require_sdxl_file(path: Path) -> Header:
    """The header of a single-file SDXL checkpoint.

    Raises:
        InputError: a pickle, a damaged file, or anything but SDXL base, named for what it is.
    """
    if path.suffix.lower() in PICKLES:
        raise InputError(
            f"{path.name} is a pickle file, which can run any code when it is read: "
            "use the .safetensors version of the checkpoint"
        )
    header = read_header(path)
    family = describe_family(header.entries)
    if family != SDXL:
        raise InputError(f"{path.name} is {family}; training needs a whole SDXL base checkpoint or finetune")
    return header


def describe_family(entries: Mapping[str, Entry]) -> str:
    """`SDXL`, or what else the tensors are, to be read after "this file is"."""
    if any(name.endswith(ADAPTER_ENDINGS) for name in entries):
        return "a LoRA or another adapter, no checkpoint"
    bare = {name.removeprefix("control_model.").removeprefix(UNET): entry for name, entry in entries.items()}
    for sign, family in SIGNS:
        if sign in bare and not _has_unet(bare):
            return family
    if {"clip_l", "clip_g"} & entries.keys() or "emb_params" in entries:
        return "an embedding (textual inversion), no checkpoint"
    if "conv_in.weight" in entries and "down_blocks.0.resnets.0.conv1.weight" in entries:
        return "a UNet alone in diffusers' names, without text encoders and VAE"
    if _has_unet(bare):
        return _describe_unet(entries, bare)
    return f"no model this trainer knows ({len(entries)} tensors, first {next(iter(entries), 'none')!r})"


def _has_unet(bare: Mapping[str, Entry]) -> bool:
    return "input_blocks.0.0.weight" in bare and "out.2.weight" in bare


def _describe_unet(entries: Mapping[str, Entry], bare: Mapping[str, Entry]) -> str:
    """Names a UNet in the layout of Stable Diffusion's first release, which SDXL kept."""
    if "label_emb.0.0.weight" not in bare:
        return _describe_sd(bare)
    if any(name in entries for name in ("edm_mean", "edm_vpred.sigma_max")):
        return "an SDXL trained with EDM sigmas (Playground 2.5, CosXL)"
    if "middle_block.1.norm.weight" not in bare:
        return "a pruned SDXL (SSD-1B, Segmind Vega or the like)"
    if bare["label_emb.0.0.weight"].shape[-1] == 1280 + 5 * 256:
        return "an SDXL refiner"
    channels = bare["input_blocks.0.0.weight"].shape[1]
    if channels != 4:
        return NO_BASE.get(channels, f"an SDXL with {channels} input channels")
    parts = {"CLIP-L": CLIP_L, "OpenCLIP bigG": CLIP_G, "VAE": VAE}
    absent = [part for part, prefix in parts.items() if not any(n.startswith(prefix) for n in entries)]
    if absent:
        return f"an SDXL without {' and '.join(absent)} in it"
    return SDXL


def _describe_sd(bare: Mapping[str, Entry]) -> str:
    contexts = {e.shape[-1] for name, e in bare.items() if name.endswith("attn2.to_k.weight")}
    version = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2"}.get(max(contexts, default=0))
    channels = bare["input_blocks.0.0.weight"].shape[1]
    kind = {4: "", 9: " inpainting"}.get(channels, f" with {channels} input channels")
    return f"{version}{kind}" if version else "a UNet that is not SDXL's"


def require_sdxl_folder(folder: Path) -> None:
    """Check that `folder` is a diffusers folder of SDXL base.

    Raises:
        InputError: another pipeline or no diffusers folder, named for what it is.
    """
    if not (folder / "model_index.json").is_file():
        raise InputError(
            f"{folder.name} is no diffusers folder: it has no model_index.json; "
            "choose that folder itself or a .safetensors file"
        )
    pipeline = str(read_json(folder / "model_index.json").get("_class_name"))
    config = read_json(folder / "unet" / "config.json") if (folder / "unet").is_dir() else {}
    family = _describe_pipeline(pipeline, config)
    if family != SDXL:
        raise InputError(f"{folder.name} is {family}; training needs SDXL base or a finetune of it")


def _describe_pipeline(pipeline: str, config: Mapping[str, Any]) -> str:
    if not config:
        return f"a {pipeline} without a UNet"
    if config.get("addition_embed_type") != "text_time":
        version = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2"}
        return version.get(_as_number(config.get("cross_attention_dim")), f"a {pipeline}, not SDXL")
    if _as_number(config.get("projection_class_embeddings_input_dim")) == 1280 + 5 * 256:
        return "an SDXL refiner"
    channels = _as_number(config.get("in_channels"))
    if channels != 4:
        return NO_BASE.get(channels, f"an SDXL with {channels} input channels")
    return SDXL


def _as_number(value: object) -> int:
    return value if isinstance(value, int) else 0


def read_json(path: Path) -> dict[str, Any]:
    """The table in a small JSON file.

    Raises:
        InputError: no such file, or no table in it.
    """
    place = f"{path.parent.name}/{path.name}"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise InputError(
            f"{place} cannot be read: {problem.strerror}; download the folder again"
        ) from problem
    except (ValueError, RecursionError) as problem:
        raise InputError(f"{place} is not readable JSON; download the folder again") from problem
    if not isinstance(values, dict):
        raise InputError(f"{place} holds no table of settings; download the folder again")
    return values


def name_a_few(names: Iterable[str]) -> str:
    """The first names of a long list, for a sentence."""
    found = list(names)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
