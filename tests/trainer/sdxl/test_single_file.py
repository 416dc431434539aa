import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from sdxl_trainer.trainer.files.safetensors_header import Entry, read_header
from sdxl_trainer.trainer.sdxl.original_layout import unet_place
from sdxl_trainer.trainer.sdxl.single_file import clip_g_config, clip_l_config, unet_config, vae_config


def agree(deduced, folder):
    written = json.loads((folder / "config.json").read_text())
    tidy = {k: list(v) if isinstance(v, tuple) else v for k, v in deduced.items()}
    assert tidy == {k: written[k] for k in tidy}


def test_configs_of_the_stand_in_are_deduced_from_its_shapes(single_file, stand_in_folder):
    entries = read_header(single_file).entries
    agree(unet_config(entries), stand_in_folder / "unet")
    agree(vae_config(entries), stand_in_folder / "vae")
    agree(clip_l_config(entries), stand_in_folder / "text_encoder")
    agree(clip_g_config(entries), stand_in_folder / "text_encoder_2")


@pytest.mark.parametrize(
    ("channels", "layers", "depths", "heads"),
    [((320, 640, 1280), 2, (1, 2, 10), (5, 10, 20)), ((320, 640), 3, (1, 4), (5, 10))],
)
def test_depth_and_width_of_any_unet_are_deduced_from_its_shapes(channels, layers, depths, heads):
    cross = ["CrossAttnDownBlock2D"] * (len(channels) - 1)
    config = {
        "down_block_types": ["DownBlock2D", *cross],
        "up_block_types": [*[c.replace("Down", "Up") for c in cross], "UpBlock2D"],
        "block_out_channels": list(channels),
        "layers_per_block": layers,
        "transformer_layers_per_block": list(depths),
        "attention_head_dim": list(heads),
        "cross_attention_dim": 2048,
        "projection_class_embeddings_input_dim": 2816,
    }
    fixed = {
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
    }
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config, **fixed)
    entries = {
        unet_place(name, unet.config).name: Entry("F16", tuple(weight.shape), 0, 0)
        for name, weight in unet.state_dict().items()
    }

    assert unet_config(entries) == {**config, **fixed, "in_channels": 4, "out_channels": 4}
