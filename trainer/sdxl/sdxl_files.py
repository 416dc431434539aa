"""An SDXL checkpoint on disk, as a diffusers folder or one file: its parts, configs and noise schedule.

Everything is read from the user's disk; no config, tokenizer or weight is ever looked up on a hub.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ..diffusion.noise_schedule import BETA_END, BETA_START, NoiseSchedule
from ..errors import InputError
from .model_detection import read_json, require_sdxl_file, require_sdxl_folder
from .original_layout import Place, clip_g_place, clip_l_place, unet_place, vae_place
from .single_file import clip_g_config, clip_l_config, unet_config, vae_config
from .weight_files import WeightFiles

OLD_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One of the four networks: how to make it empty, and where its weights stand."""

    build: Callable[[], Any]
    files: WeightFiles
    locate: Callable[[str], Place]

    def empty(self) -> Any:
        with torch.device("meta"):
            return self.build()

    def load(self, device: torch.device, dtype: torch.dtype) -> Any:
        """The network with its weights, frozen, in evaluation mode."""
        module: nn.Module = self.empty()
        self.files.fill(module, self.locate, device, dtype)
        return module

    def fingerprint(self) -> str:
        """Tells this network from others: weights and config, whatever else its files hold."""
        module = self.empty()
        config = module.config if isinstance(module.config, Mapping) else module.config.to_dict()
        # what the libraries note for themselves, in any order
        plain = {k: v for k, v in config.items() if k[0] != "_" and k != "transformers_version"}
        weights = self.files.fingerprint({self.locate(name).name for name in module.state_dict()})
        described = json.dumps([weights, plain], sort_keys=True, default=str)
        return hashlib.sha256(described.encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class SDXLFiles:
    """The parts of one checkpoint; `title` is its file or folder name without the path."""

    title: str
    unet: Part
    vae: Part
    clip_l: Part
    clip_g: Part
    scaling_factor: float
    schedule: NoiseSchedule

    def fingerprint(self) -> str:
        """Tells these weights and this schedule from others."""
        parts = {id(p.files): p.files for p in (self.unet, self.vae, self.clip_l, self.clip_g)}
        hashes = [files.fingerprint() for files in parts.values()]
        terminal = float(self.schedule.alphas_cumprod[-1])
        return "-".join([*(h[:16] for h in hashes), self.schedule.prediction_type, f"{terminal:.3e}"])


def open_checkpoint(path: Path) -> SDXLFiles:
    """Look at a diffusers folder or a .safetensors file; weights are read later, part by part.

    Raises:
        InputError: nothing there, no SDXL base model (named for what it is), damaged or incomplete.
    """
    if path.is_dir():
        found = _open_folder(path)
    elif path.exists():
        found = _open_file(path)
    else:
        raise InputError(
            f"{path} is neither a file nor a folder on this machine: give an SDXL .safetensors file or a "
            "diffusers folder; nothing is downloaded"
        )
    for part in (found.unet, found.vae, found.clip_l, found.clip_g):
        part.files.check(part.empty(), part.locate, found.title)
    return found


def _open_file(path: Path) -> SDXLFiles:
    header = require_sdxl_file(path)
    files = WeightFiles([path], [header])
    unet, vae = unet_config(header.entries), vae_config(header.entries)
    small, large = clip_l_config(header.entries), clip_g_config(header.entries)
    projection = clip_g_place("text_projection.weight", {}).name
    linear_projection = f"{projection}.weight" in header.entries

    def locate_clip_g(name: str) -> Place:
        # some finetunes keep the projection as a linear layer's weight, which needs no turning
        if linear_projection and name == "text_projection.weight":
            return Place(f"{projection}.weight")
        return clip_g_place(name, large)

    return SDXLFiles(
        title=path.name,
        unet=Part(partial(UNet2DConditionModel.from_config, unet), files, partial(unet_place, config=unet)),
        vae=Part(partial(AutoencoderKL.from_config, vae), files, partial(vae_place, config=vae)),
        clip_l=Part(lambda: CLIPTextModel(CLIPTextConfig(**small)), files, partial(clip_l_place, config={})),
        clip_g=Part(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**large)), files, locate_clip_g),
        scaling_factor=vae["scaling_factor"],
        # the marks that ComfyUI goes by: empty tensors of these names
        schedule=NoiseSchedule.sdxl(
            "v_prediction" if "v_pred" in header.entries else "epsilon", "ztsnr" in header.entries
        ),
    )


def _open_folder(folder: Path) -> SDXLFiles:
    require_sdxl_folder(folder)
    vae = read_json(folder / "vae" / "config.json")

    def part(name: str, build: Callable[[Mapping[str, Any]], Any]) -> Part:
        files = WeightFiles(_weight_paths(folder / name))
        return Part(
            partial(build, read_json(folder / name / "config.json")), files, partial(_folder_place, files)
        )

    def clip(kind: type, config: Mapping[str, Any]) -> Any:
        return kind(CLIPTextConfig.from_dict(dict(config)))

    return SDXLFiles(
        title=folder.resolve().name,
        unet=part("unet", UNet2DConditionModel.from_config),
        vae=part("vae", AutoencoderKL.from_config),
        clip_l=part("text_encoder", partial(clip, CLIPTextModel)),
        clip_g=part("text_encoder_2", partial(clip, CLIPTextModelWithProjection)),
        scaling_factor=float(vae.get("scaling_factor", 0.13025)),
        schedule=_folder_schedule(read_json(folder / "scheduler" / "scheduler_config.json"), folder.name),
    )


def _weight_paths(folder: Path) -> Sequence[Path]:
    """The safetensors files of one part: full precision before fp16, all shards of a sharded one."""
    for variant in ("", ".fp16", ".bf16"):
        for stem in ("diffusion_pytorch_model", "model"):
            whole = f"{stem}{variant}.safetensors"
            for index in (f"{whole}.index.json", f"{stem}.safetensors.index{variant}.json"):
                if (folder / index).is_file():
                    shards = sorted(set(read_json(folder / index).get("weight_map", {}).values()))
                    return [folder / Path(shard).name for shard in shards]
            if (folder / whole).is_file():
                return [folder / whole]
    raise InputError(
        f"{folder.parent.name}/{folder.name} holds no .safetensors weights: download the safetensors version "
        "of the model (pickles such as .bin are not read)"
    )


def _folder_place(files: WeightFiles, name: str) -> Place:
    """The same name, but for what versions of transformers and diffusers changed."""
    bare = name.removeprefix("text_model.")
    old = name
    for new_word, old_word in OLD_ATTENTION.items():
        old = old.replace(new_word, old_word)
    for candidate in (name, bare, f"text_model.{bare}", old):
        if candidate in files.entries:
            return Place(candidate)
    return Place(name)


def _folder_schedule(config: Mapping[str, Any], title: str) -> NoiseSchedule:
    kind = str(config.get("_class_name"))
    betas = (config.get("beta_schedule"), config.get("beta_start"), config.get("beta_end"))
    prediction = config.get("prediction_type", "epsilon")
    known = betas == ("scaled_linear", BETA_START, BETA_END) and prediction in ("epsilon", "v_prediction")
    if "EDM" in kind or not known:
        raise InputError(
            f"{title} has the noise schedule {kind} with {betas} and prediction {prediction!r}; expected "
            f"SDXL's scaled_linear {BETA_START} to {BETA_END} with epsilon or v_prediction; use such a model"
        )
    return NoiseSchedule.sdxl(prediction, bool(config.get("rescale_betas_zero_snr")))
