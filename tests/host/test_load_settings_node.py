"""Load Training Settings: what a LoRA was trained with, on the wires of the trainer's sockets."""

import pytest
import torch


@pytest.fixture
def trained(loras_folder, kept_loras):
    """cat.safetensors with the metadata of a run; its TrainConfig."""
    import json

    from safetensors.torch import load_file, save_file
    from sdxl_trainer.trainer.config import LoRAConfig, NoiseConfig, TrainConfig
    from sdxl_trainer.trainer.files.metadata import SETTINGS_KEY

    lora = LoRAConfig(rank=4, alpha=2.0)
    config = TrainConfig(name="cat", steps=9, batch_size=2, lora=lora, noise=NoiseConfig(noise_offset=0.05))
    path = loras_folder / "cat.safetensors"
    saved = json.dumps({"train": config.to_json(), "dataset": {"trigger": "zorp"}})
    save_file(load_file(path), path, {SETTINGS_KEY: saved})
    return config


def load(lora_name="cat.safetensors", lora=None):
    from sdxl_trainer.nodes.load_settings import LoadTrainingSettings

    return LoadTrainingSettings.execute(lora_name, lora).args


def test_each_output_is_the_section_of_its_name(trained):
    from sdxl_trainer.nodes.load_settings import LoadTrainingSettings

    names = [output.id for output in LoadTrainingSettings.define_schema().outputs]
    found = dict(zip(names, load(), strict=True))
    for name, value in found.items():
        if name.endswith("_settings"):
            assert value == getattr(trained, name.removesuffix("_settings"))
    assert (found["steps"], found["batch_size"], found["seed"]) == (9, 2, 42)
    assert "trigger zorp" in found["report"]


def test_a_wired_lora_goes_before_the_menu(trained, kept_loras):
    from sdxl_trainer.nodes.lora_model import TrainedLoRA

    wired = TrainedLoRA({}, kept_loras / "cat.safetensors")
    assert load("none", wired)[0] == trained.lora
    assert load("none", "cat.safetensors")[0] == trained.lora


def test_what_tells_no_settings_is_refused(kept_loras):
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match=r"cat-step000002\.safetensors holds no settings"):
        load("cat-step000002.safetensors")
    with pytest.raises(InputError, match="comes from no file"):
        load("none", {"a": torch.zeros(1)})
    with pytest.raises(InputError, match="no LoRA: wire one"):
        load("none")
