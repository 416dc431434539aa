"""Runs on ComfyUI's own objects that find everything encoded: neither VAE nor CLIP is loaded for them."""

import re

import pytest
import torch


@pytest.fixture
def start(stand_in, example_folder, tmp_path):
    """Train under a name with one cache for all; the Result."""
    from sdxl_trainer.nodes.comfy_bridge.host_model import HostModel
    from sdxl_trainer.trainer.config import DatasetConfig, LoRAConfig, TrainConfig
    from sdxl_trainer.trainer.data.dataset import load_dataset
    from sdxl_trainer.trainer.events import SilentListener
    from sdxl_trainer.trainer.runs.run import Job, train

    dataset = load_dataset(example_folder, DatasetConfig(resolution=64, trigger="zorp"))

    def run(name, clip=None, vae=None, **sections):
        config = TrainConfig(name=name, steps=2, lora=LoRAConfig(rank=4), **sections)
        job = Job(
            config=config,
            dataset=dataset,
            loras_folder=tmp_path / "loras",
            run_folder=tmp_path / "runs",
            cache_folder=tmp_path / "runs" / ".cache",
        )
        with torch.inference_mode():  # as ComfyUI runs every node
            host = HostModel(stand_in[0], clip or stand_in[1], vae or stand_in[2], "stand-in")
            return train(job, host, SilentListener())

    return run


@pytest.fixture
def loaded(stand_in, monkeypatch):
    """A function that tells what ComfyUI was asked to load since it was last asked: "unet", "clip", "vae"."""
    import comfy.model_management as management

    model, clip, vae = stand_in
    names = {id(model.model): "unet", id(clip.cond_stage_model): "clip", id(vae.first_stage_model): "vae"}
    asked, load = [], management.load_models_gpu

    def load_and_note(models, *args, **kwargs):
        asked.extend(names.get(id(patcher.model), "another") for patcher in models)
        return load(models, *args, **kwargs)

    monkeypatch.setattr(management, "load_models_gpu", load_and_note)

    def since_last_asked():
        found = set(asked)
        asked.clear()
        return found

    return since_last_asked


def weights(result):
    content = result.lora_path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]  # the header tells the name


def clip_with_lora(clip):
    key = next(
        k
        for k in clip.cond_stage_model.state_dict()
        if k.endswith("clip_g.transformer.text_projection.weight")
    )
    patched = clip.clone()
    patched.add_patches({key: ("diff", (torch.ones_like(clip.cond_stage_model.state_dict()[key]),))}, 0.5)
    return patched


def test_a_second_run_loads_neither_vae_nor_clip_and_gives_the_same_lora(start, loaded, stand_in, host_state):
    import comfy.model_management

    cold = start("cold")
    assert loaded() == {"unet", "clip", "vae"}
    assert "cache" not in cold.report
    comfy.model_management.unload_all_models()
    state = host_state(*stand_in)
    warm = start("warm")
    assert loaded() == {"unet"}
    resident = [known.model.model for known in comfy.model_management.current_loaded_models]
    assert not any(module is stand_in[1].cond_stage_model for module in resident)
    assert not any(module is stand_in[2].first_stage_model for module in resident)
    assert "read from the cache: 12 of 12 latents, 13 of 13 captions" in warm.report
    assert weights(warm) == weights(cold)
    assert host_state(*stand_in) == state


def test_a_lora_on_clip_encodes_the_captions_anew_and_no_picture(start, loaded, stand_in):
    plain = start("plain")
    loaded()
    patched = start("patched", clip=clip_with_lora(stand_in[1]))
    assert loaded() == {"unet", "clip"}
    assert "12 of 12 latents, 0 of 13 captions" in patched.report
    assert weights(patched) != weights(plain)
    start("again", clip=clip_with_lora(stand_in[1]))
    assert loaded() == {"unet"}


def test_another_vae_encodes_the_pictures_anew_and_no_caption(start, loaded, stand_in):
    start("plain")
    loaded()
    with torch.inference_mode():
        next(stand_in[2].first_stage_model.parameters()).mul_(1.5)
    assert "0 of 12 latents, 13 of 13 captions" in start("other").report
    assert loaded() == {"unet", "vae"}


def test_previews_and_trained_text_load_what_they_need(start, loaded):
    from sdxl_trainer.trainer.config import PreviewConfig, TextEncoderConfig

    start("plain")
    loaded()
    start("drawn", preview=PreviewConfig(preview_every=2, steps=1))
    assert loaded() == {"unet", "clip", "vae"}
    trained = start("text", text_encoder=TextEncoderConfig(train_text_encoder="both"))
    assert (
        "12 of 12 latents" in trained.report and "captions" not in trained.report.partition("cache: ")[2][:40]
    )


def test_the_node_keeps_its_cache_beside_the_runs(
    stand_in, example_folder, tmp_path, monkeypatch, loras_folder
):
    import folder_paths
    from sdxl_trainer.nodes.train import TrainSDXLLoRA
    from sdxl_trainer.trainer.config import DatasetConfig, LoRAConfig, RunConfig
    from sdxl_trainer.trainer.data.dataset import load_dataset

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    dataset = load_dataset(example_folder, DatasetConfig(resolution=64, trigger="zorp"))
    widgets = {"preset": "object", "steps": 2, "epochs": 0, "rank": 0, "alpha": 0.0, "targets": "preset"}
    widgets |= {"learning_rate": 0.0, "batch_size": 0, "seed": 1, "resume": "auto"}

    def report(name, **sections):
        with torch.inference_mode():
            lora = {"lora_settings": LoRAConfig(rank=4)}
            return TrainSDXLLoRA.execute(*stand_in, dataset, name=name, **widgets, **lora, **sections).args[5]

    assert "read from the cache" not in report("one")
    cache = tmp_path / "output" / "sdxl_trainer" / ".cache"
    assert {path.suffix for path in cache.rglob("*") if path.is_file()} == {".safetensors"}
    second = report("two")
    assert re.search(r"read from the cache: (\d+) of \1 latents, (\d+) of \2 captions", second)
    assert str(tmp_path) not in second
    assert "read from the cache" not in report("three", run_settings=RunConfig(cache_encoded=False))
