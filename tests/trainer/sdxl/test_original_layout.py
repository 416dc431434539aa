import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file
from sdxl_trainer.trainer.files.lora_names import to_kohya_names
from sdxl_trainer.trainer.sdxl.original_layout import CLIP_G, CLIP_L, clip_g_place, unet_module, unet_place
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

SDXL_UNET = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "transformer_layers_per_block": (1, 2, 10),
}


def test_every_weight_of_full_size_sdxl_is_named_as_diffusers_names_it():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET)
    weights = unet.state_dict()
    original = {unet_place(name, unet.config).name: weight for name, weight in weights.items()}
    assert len(original) == len(weights) == 1680

    converted = convert_ldm_unet_checkpoint(dict(original), {**unet.config, "class_embed_type": None})

    assert converted.keys() == weights.keys()
    assert all(converted[name] is weight for name, weight in weights.items())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "down_blocks.2.attentions.1.transformer_blocks.9.attn1.to_q",
            "input_blocks.8.1.transformer_blocks.9.attn1.to_q",
        ),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
        ("mid_block.resnets.1.conv1", "middle_block.2.in_layers.2"),
        ("up_blocks.2.resnets.2.conv_shortcut", "output_blocks.8.0.skip_connection"),
    ],
)
def test_published_names_of_sdxl_modules(path, expected):
    assert unet_module(path, SDXL_UNET) == expected


def test_lora_files_use_the_same_names():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET)
    paths = [
        p for p, m in unet.named_modules() if hasattr(m, "weight") and ".attentions." in p and "norm" not in p
    ]
    assert len(paths) == 722

    expected = {path: "lora_unet_" + unet_module(path, unet.config).replace(".", "_") for path in paths}

    assert to_kohya_names(paths) == expected


def same(converted, folder, rename=lambda name: name):
    expected = load_file(folder)
    converted = {name: t for name, t in converted.items() if not name.endswith("position_ids")}
    assert {rename(name) for name in converted} == expected.keys()
    return all(
        torch.equal(t.reshape(expected[rename(n)].shape), expected[rename(n)]) for n, t in converted.items()
    )


def test_diffusers_reads_the_stand_ins_single_file_back(stand_in_folder, stand_in_tensors):
    unet_config, vae_config = (
        json.loads((stand_in_folder / part / "config.json").read_text()) for part in ("unet", "vae")
    )
    unet = convert_ldm_unet_checkpoint(dict(stand_in_tensors), unet_config)
    vae = convert_ldm_vae_checkpoint(dict(stand_in_tensors), vae_config)

    assert same(unet, stand_in_folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert same(vae, stand_in_folder / "vae" / "diffusion_pytorch_model.safetensors")


def test_diffusers_reads_the_text_encoders_of_the_single_file_back(stand_in_folder, stand_in_tensors):
    config = CLIPTextConfig.from_pretrained(stand_in_folder / "text_encoder_2")
    with torch.device("meta"):
        large = CLIPTextModelWithProjection(config)

    clip_l = convert_ldm_clip_checkpoint(dict(stand_in_tensors), remove_prefix=CLIP_L)
    clip_g = convert_open_clip_checkpoint(large, dict(stand_in_tensors), prefix=CLIP_G)

    expected = load_file(stand_in_folder / "text_encoder" / "model.safetensors")
    bare = {name.removeprefix("text_model."): tensor for name, tensor in clip_l.items()}
    assert {n.removeprefix("text_model.") for n in expected} == bare.keys()
    assert all(torch.equal(bare[n.removeprefix("text_model.")], t) for n, t in expected.items())
    assert same(clip_g, stand_in_folder / "text_encoder_2" / "model.safetensors")


def test_names_of_no_such_module_are_refused():
    with pytest.raises(ValueError, match="no module"):
        unet_module("encoder.conv_in", SDXL_UNET)
    with pytest.raises(ValueError, match="no weight"):
        clip_g_place("visual.proj", {})
