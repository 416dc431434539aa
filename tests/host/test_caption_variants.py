"""Load Dataset -> Caption Variants -> Train SDXL LoRA in a real ComfyUI."""

import json

import pytest
from safetensors import safe_open


@pytest.fixture
def client(server, graphs):
    return graphs.Client(server)


def test_a_lora_is_trained_on_variants_and_says_so(client, graphs, base_directory):
    info = client.get("/object_info")

    def node(class_type, **values):
        made = graphs.node_of_defaults(info, class_type)
        return {**made, "inputs": {**made["inputs"], **values}}

    wires = {"model": ["load", 0], "clip": ["load", 1], "vae": ["load", 2], "dataset": ["vary", 0]}
    ways = {"prefix": "photo, ", "suffix": ", {big|small}, sharp", "wildcards": True, "keep_tags": 2}
    ended = client.run(
        {
            "load": node("StandInLoader"),
            "data": node("SDXLTrainer_LoadDataset", folder="input/zorp", resolution=128, trigger="zorp"),
            "vary": node("SDXLTrainer_CaptionVariants", dataset=["data", 0], tag_dropout=0.2, **ways),
            "train": node("SDXLTrainer_TrainSDXLLoRA", **wires, name="varied", steps=2, seed=1),
            "captions": node("PreviewAny", source=["vary", 1]),
            "report": node("PreviewAny", source=["vary", 2]),
        }
    )
    assert "12 pictures, 12 captions" in graphs.texts(ended, "report")
    captions = graphs.texts(ended, "captions")
    assert captions.count("  photo, ") > 8 and "zorp" in captions and "{" not in captions
    lora = base_directory / "models" / "loras" / "varied.safetensors"
    with safe_open(lora, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_shuffle_caption"] == "True" and metadata["ss_keep_tokens"] == "2"
    tags = json.loads(metadata["ss_tag_frequency"])
    assert all(folder.get("sharp", 0) == 12 for folder in tags.values())  # of the plain captions
