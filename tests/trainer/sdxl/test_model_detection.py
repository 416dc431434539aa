import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.safetensors_header import Entry, read_header
from sdxl_trainer.trainer.sdxl.model_detection import (
    SDXL,
    UNET,
    describe_family,
    require_sdxl_file,
    require_sdxl_folder,
)


def entries(shapes):
    return {name: Entry("F16", shape, 0, 0) for name, shape in shapes.items()}


def unet(context, channels=4, labels=0, middle=True):
    shapes = {
        "input_blocks.0.0.weight": (320, channels, 3, 3),
        "out.2.weight": (4, 320, 3, 3),
        "output_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, context),
    }
    if labels:
        shapes["label_emb.0.0.weight"] = (1280, labels)
    if middle:
        shapes["middle_block.1.norm.weight"] = (1280,)
    return {UNET + name: shape for name, shape in shapes.items()}


SDXL_REST = {
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (768,),
    "conditioner.embedders.1.model.ln_final.weight": (1280,),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
}
SDXL_BASE = unet(2048, labels=2816) | SDXL_REST


def test_sdxl_base_is_recognised():
    assert describe_family(entries(SDXL_BASE)) == SDXL


@pytest.mark.parametrize(
    ("shapes", "family"),
    [
        (unet(768), "Stable Diffusion 1.5"),
        (unet(768, channels=9), "Stable Diffusion 1.5 inpainting"),
        (unet(1024), "Stable Diffusion 2"),
        (unet(1280, labels=2560), "an SDXL refiner"),
        (unet(2048, channels=9, labels=2816) | SDXL_REST, "an SDXL inpainting model"),
        (unet(2048, channels=8, labels=2816) | SDXL_REST, "an SDXL editing model"),
        (unet(2048, labels=2816, middle=False) | SDXL_REST, "a pruned SDXL"),
        (SDXL_BASE | {"edm_mean": (1, 4, 1, 1)}, "EDM"),
        (unet(2048, labels=2816), "without CLIP-L and OpenCLIP bigG and VAE"),
        ({UNET + "joint_blocks.0.context_block.adaLN_modulation.1.weight": (1, 1)}, "Stable Diffusion 3"),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": (128,)}, "Flux"),
        ({UNET + "double_blocks.0.img_attn.norm.key_norm.scale": (128,)}, "Flux"),
        ({"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}, "a ControlNet"),
        ({"decoder.conv_in.weight": (512, 4, 3, 3)}, "a VAE"),
        ({"text_model.encoder.layers.0.mlp.fc1.weight": (8, 8)}, "a text encoder"),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "an embedding"),
        ({"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": (4, 640)}, "a LoRA"),
        ({"unet.down_blocks.1.attentions.0.proj_in.lora_A.weight": (4, 640)}, "a LoRA"),
        ({"conv_in.weight": (320, 4, 3, 3), "down_blocks.0.resnets.0.conv1.weight": (1,)}, "UNet alone"),
        ({"something": (1,)}, "no model this trainer knows"),
        ({}, "no model this trainer knows"),
    ],
)
def test_everything_else_is_named_for_what_it_is(shapes, family):
    found = describe_family(entries(shapes))
    assert family in found
    assert found != SDXL


def test_the_stand_in_is_sdxl_in_both_forms(single_file, stand_in_folder):
    assert describe_family(read_header(single_file).entries) == SDXL
    require_sdxl_folder(stand_in_folder)


def test_a_lora_file_is_refused_by_name(tmp_path):
    path = tmp_path / "cat.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(InputError, match=r"cat\.safetensors is a LoRA or another adapter"):
        require_sdxl_file(path)


@pytest.mark.parametrize("name", ["model.ckpt", "model.PT"])
def test_pickles_are_refused_unread(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x02")
    with pytest.raises(InputError, match="pickle"):
        require_sdxl_file(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({"in_channels": 9}, "inpainting"),
        ({"addition_embed_type": None, "cross_attention_dim": 768}, "Stable Diffusion 1.5"),
        ({"addition_embed_type": None, "cross_attention_dim": 1024}, "Stable Diffusion 2"),
        ({"projection_class_embeddings_input_dim": 2560}, "refiner"),
        (None, "without a UNet"),
    ],
)
def test_other_diffusers_folders_are_named_for_what_they_are(stand_in_folder, tmp_path, changes, family):
    shutil.copy(stand_in_folder / "model_index.json", tmp_path)
    if changes is not None:
        config = json.loads((stand_in_folder / "unet" / "config.json").read_text())
        (tmp_path / "unet").mkdir()
        (tmp_path / "unet" / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError, match=family):
        require_sdxl_folder(tmp_path)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no model_index\.json"):
        require_sdxl_folder(tmp_path)


def test_an_unreadable_config_is_named(stand_in_folder, tmp_path):
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(InputError, match=r"model_index\.json is not readable JSON"):
        require_sdxl_folder(tmp_path)
