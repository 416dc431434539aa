"""The stand-in as ComfyUI's own MODEL, CLIP and VAE, and what "left as found" means for them."""

import hashlib
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def loading():
    """The stand-in pack's loading functions; needs ComfyUI's modules."""
    return load("stand_in_loading", HERE / "stand_in_pack" / "loading.py")


@pytest.fixture(scope="session")
def graphs():
    """Reading and queueing graphs: tests/host/graphs.py."""
    return load("host_graphs", HERE / "graphs.py")


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def base_directory(tmp_path_factory, example_folder):
    """A ComfyUI folder of its own, with the example pictures as input/zorp."""
    folder = tmp_path_factory.mktemp("comfyui")
    shutil.copytree(example_folder, folder / "input" / "zorp")
    return folder


@pytest.fixture(scope="session")
def start_server(comfyui_folder, base_directory):
    """A context manager that runs ComfyUI in `base_directory` with this pack and the stand-in loader."""
    environment = sys.modules["environment"]
    (comfy,) = [c for c in environment.find_comfyui() if c.folder == comfyui_folder]
    python, packs = Path(sys.executable), [HERE / "stand_in_pack"]
    return lambda: environment.start_comfyui(comfy, python, base_directory, packs)


@pytest.fixture(scope="session")
def server(start_server):
    with start_server() as running:
        yield running


@pytest.fixture
def stand_in(loading):
    """(MODEL, CLIP, VAE), freshly loaded as inside a running prompt."""
    import torch

    with torch.inference_mode():
        return loading.load_stand_in()


@pytest.fixture
def host_state():
    """A function that sums up everything of MODEL, CLIP and VAE that a run must not change."""
    return describe_host


def describe_host(model, clip, vae):
    modules = {"model": model.model, "clip": clip.cond_stage_model, "vae": vae.first_stage_model}
    state = {}
    for name, module in modules.items():
        digest = hashlib.sha256()
        for key, weight in sorted(module.state_dict().items()):
            if not key.endswith("text_projection.weight") or name != "clip":  # ComfyUI leaves L's unset
                digest.update(key.encode() + weight.float().cpu().numpy().tobytes())
        state[name] = {
            "weights": digest.hexdigest(),
            "grads": [k for k, p in module.named_parameters() if p.grad is not None],
            "requires_grad": [k for k, p in module.named_parameters() if p.requires_grad],
            "training": [k for k, m in module.named_modules() if m.training],
            "hooks": [k for k, m in module.named_modules() if _hooks(m)],
            "forwards": [k for k, m in module.named_modules() if "forward" in vars(m)],
            "classes": [type(m).__name__ for m in module.modules()],
        }
    for name, patcher in (("model", model), ("clip", clip.patcher), ("vae", vae.patcher)):
        state[f"{name} patcher"] = {
            "patches": sorted(map(str, patcher.patches)),
            "backup": sorted(patcher.backup),
            "object_patches": sorted(patcher.object_patches),
            "options": repr(sorted(patcher.model_options)),
        }
    return state


def _hooks(module):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [kind for kind in kinds if getattr(module, kind, None)]
