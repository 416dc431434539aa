"""Load Dataset -> Augment Dataset -> Train SDXL LoRA in a real ComfyUI."""

import json

import pytest


@pytest.fixture
def client(server, graphs):
    return graphs.Client(server)


def test_a_lora_is_trained_on_the_variants(client, graphs, base_directory):
    info = client.get("/object_info")

    def node(class_type, **values):
        made = graphs.node_of_defaults(info, class_type)
        return {**made, "inputs": {**made["inputs"], **values}}

    colours = {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.02}
    ways = {"variants_per_picture": 3, "flip": 0.5, "rotation": 5.0, "crop_jitter": 0.1}
    wires = {"model": ["load", 0], "clip": ["load", 1], "vae": ["load", 2], "dataset": ["augment", 0]}
    ended = client.run(
        {
            "load": node("StandInLoader"),
            "data": node("SDXLTrainer_LoadDataset", folder="input/zorp", resolution=128, trigger="zorp"),
            "augment": node("SDXLTrainer_AugmentDataset", dataset=["data", 0], **ways, **colours),
            "train": node("SDXLTrainer_TrainSDXLLoRA", **wires, name="augmented", steps=2, seed=1),
            "report": node("PreviewAny", source=["augment", 2]),
            "sheet": node("PreviewImage", images=["augment", 1]),
        }
    )
    report = graphs.texts(ended, "report")
    assert "12 pictures x 3 variants" in report and "36 passes of the VAE" in report
    assert ended["outputs"]["sheet"]["images"]
    assert (base_directory / "models" / "loras" / "augmented.safetensors").is_file()
    log = base_directory / "output" / "sdxl_trainer" / "augmented" / "metrics.jsonl"
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2]
