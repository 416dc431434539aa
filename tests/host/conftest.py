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


@pytest.fixture(scope="session")
def conditions():
    """Conditions and their distance: tests/host/conditions.py."""
    return load("host_conditions", HERE / "conditions.py")


@pytest.fixture(scope="session")
def tiny_captioners():
    """Captioning models of random weights: tests/trainer/captioning/tiny_captioners.py."""
    return load("tiny_captioners", HERE.parent / "trainer" / "captioning" / "tiny_captioners.py")


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
def load_clip(loading):
    """A function that loads the stand-in's CLIP in any type, as inside a running prompt."""
    import torch

    def load_in(dtype=None):
        with torch.inference_mode():
            return loading.load_clip(dtype=dtype)

    return load_in


@pytest.fixture
def open_host(stand_in):
    """A function that makes a HostModel of the stand-in, with another CLIP where one is given."""
    from sdxl_trainer.nodes.comfy_bridge.host_model import HostModel

    return lambda clip=None: HostModel(stand_in[0], clip or stand_in[1], stand_in[2], "stand-in")


@pytest.fixture
def new_tokens():
    """A function that puts random vectors for TOK into open text encoders: (NewTokens, TokenVectors)."""
    from sdxl_trainer.trainer.config import PivotalConfig
    from sdxl_trainer.trainer.text.new_tokens import NewTokens
    from sdxl_trainer.trainer.text.token_vectors import attach_new_tokens

    def attach(encoders, count=2):
        config = PivotalConfig(token="TOK", new_tokens=str(count))
        words = NewTokens.parse(config)
        return words, attach_new_tokens(encoders, words, config, seed=3)

    return attach


@pytest.fixture
def paged():
    """A function that makes a patcher look like the dynamic one of ComfyUI, which a CPU does not have."""
    return paged_patcher


def paged_patcher(patcher, can_reload):
    import comfy.model_patcher

    class Paged(comfy.model_patcher.ModelPatcher):
        def is_dynamic(self):
            return True

        def clone(self, disable_dynamic=False):
            if disable_dynamic and not can_reload:
                raise RuntimeError(
                    "Cannot create non-dynamic delegate: cached_patcher_init is not initialized."
                )
            return patcher.clone()

    made = Paged(patcher.model, patcher.load_device, patcher.offload_device)
    made.patches = patcher.patches
    return made


@pytest.fixture
def host_state():
    """A function that sums up everything of MODEL, CLIP and VAE that a run must not change."""
    return describe_host


@pytest.fixture
def loras_folder(tmp_path, monkeypatch):
    """An empty folder that ComfyUI takes for its only loras folder."""
    import folder_paths

    folder = tmp_path / "loras"
    folder.mkdir()
    registered = {**folder_paths.folder_names_and_paths, "loras": ([str(folder)], {".safetensors"})}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", registered)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return folder


@pytest.fixture
def embeddings_folder(stand_in, loras_folder, monkeypatch):
    """An empty folder that ComfyUI, and the stand-in's CLIP, take for their only embeddings folder."""
    import folder_paths

    folder = loras_folder.parent / "embeddings"
    folder.mkdir()
    registered = {**folder_paths.folder_names_and_paths, "embeddings": ([str(folder)], {".safetensors"})}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", registered)
    for tokenizer, width in ((stand_in[1].tokenizer.clip_l, 16), (stand_in[1].tokenizer.clip_g, 24)):
        tokenizer.embedding_directory, tokenizer.embedding_size = [str(folder)], width
    return folder


@pytest.fixture
def kept_loras(stand_in, loras_folder):
    """cat.safetensors and its checkpoints of steps 2 and 4, random and ever stronger; their folder."""
    import torch
    from sdxl_trainer.nodes.comfy_bridge.host_model import HostModel
    from sdxl_trainer.trainer.adapter.lora import attach_adapter
    from sdxl_trainer.trainer.config import LoRAConfig
    from sdxl_trainer.trainer.files.lora_file import write_lora

    config = LoRAConfig(rank=4, alpha=2.0)
    generator = torch.Generator().manual_seed(5)
    with torch.inference_mode(), HostModel(*stand_in, "stand-in").open_denoiser(0) as denoiser:
        with torch.inference_mode(False):
            adapter = attach_adapter(denoiser.unet, config, seed=3)
            shapes = {name: weight.shape for name, weight in adapter.state_dict().items()}
            adapter.detach()
        layers = denoiser.unet.config["layers_per_block"]
    for name, scale in (("cat-step000002", 0.1), ("cat-step000004", 0.2), ("cat", 0.3)):
        state = {key: scale * torch.randn(s, generator=generator) for key, s in shapes.items()}
        write_lora(loras_folder / f"{name}.safetensors", state, config, {}, layers)
    return loras_folder


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
