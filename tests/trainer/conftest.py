"""The stand-in in other clothes: as one file in the original SDXL layout."""

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sdxl_trainer.trainer.sdxl.original_layout import clip_g_place, clip_l_place, unet_place, vae_place


def original_tensors(folder):
    """Weights of a diffusers folder under the names of a single-file checkpoint."""
    configs = {part: json.loads((folder / part / "config.json").read_text()) for part in ("unet", "vae")}
    places = {
        "unet/diffusion_pytorch_model": partial(unet_place, config=configs["unet"]),
        "vae/diffusion_pytorch_model": partial(vae_place, config=configs["vae"]),
        "text_encoder/model": partial(clip_l_place, config={}),
        "text_encoder_2/model": partial(clip_g_place, config={}),
    }
    tensors, thirds = {}, {}
    for file, locate in places.items():
        for name, tensor in load_file(folder / f"{file}.safetensors").items():
            place = locate(name)
            if place.third is not None:
                thirds.setdefault(place.name, {})[place.third] = tensor
            elif ".mid.attn_1." in place.name and tensor.ndim == 2:
                tensors[place.name] = tensor[:, :, None, None]
            else:
                tensors[place.name] = tensor.T.contiguous() if place.transposed else tensor
    fused = {name: torch.cat([parts[i] for i in range(3)]) for name, parts in thirds.items()}
    return tensors | fused


@pytest.fixture(scope="session")
def stand_in_tensors(stand_in_folder):
    return original_tensors(stand_in_folder)


@pytest.fixture(scope="session")
def single_file(stand_in_tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors"
    save_file(stand_in_tensors, path)
    return path


def load_sibling(name):
    """A module beside this file that holds no tests."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_run():
    """The module tests/trainer/tiny_run.py: whole runs on a very small UNet."""
    return load_sibling("tiny_run")


@pytest.fixture(scope="session")
def watched_run(tiny_run):
    """The module tests/trainer/watched_run.py: such runs, and everything that they show."""
    return load_sibling("watched_run")
