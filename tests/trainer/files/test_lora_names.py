from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from sdxl_trainer.trainer.adapter.lora import TARGET_NAMES
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.lora_names import to_diffusers_paths, to_kohya_names

# path and name a line, written down from kohya's files as documented, not by the code under test
KNOWN = dict(line.split() for line in Path(__file__).with_name("kohya_names.txt").read_text().splitlines())


def all_targets(unet):
    endings = tuple(f".{name}" for name in TARGET_NAMES["attention+ff+conv"])
    return [path for path, _ in unet.named_modules() if path.endswith(endings)]


def test_names_are_those_of_known_files():
    assert to_kohya_names(KNOWN) == KNOWN


def test_names_lead_back_to_the_paths():
    assert to_diffusers_paths(KNOWN.values()) == {name: path for path, name in KNOWN.items()}


@pytest.mark.parametrize("layers_per_block", [1, 2, 3])
@pytest.mark.parametrize("num_blocks", [2, 3, 4])
def test_every_layer_of_any_unet_has_a_name_of_its_own_and_back(layers_per_block, num_blocks):
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (num_blocks - 1),
            up_block_types=("CrossAttnUpBlock2D",) * (num_blocks - 1) + ("UpBlock2D",),
            block_out_channels=(32,) * num_blocks,
            layers_per_block=layers_per_block,
            cross_attention_dim=8,
            use_linear_projection=True,
        )
    paths = all_targets(unet)
    names = to_kohya_names(paths, layers_per_block)
    assert len(set(names.values())) == len(paths)
    back = to_diffusers_paths(names.values(), layers_per_block)
    assert {back[name]: name for name in names.values()} == names


@pytest.mark.parametrize(
    "path",
    [
        "conv_in",
        "time_embedding.linear_1",
        "down_blocks.0.resnets.0.norm1",
        "mid_block.attentions.0.norm",
        "x",
    ],
)
def test_paths_without_a_name_are_refused(path):
    with pytest.raises(ValueError, match="no layer of an SDXL UNet"):
        to_kohya_names([path])


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_down_blocks_1_attentions_0_proj_in",
        "lora_unet_input_blocks_4_0_op",
        "lora_unet_input_blocks_4_1_in_layers_2",
        "lora_unet_output_blocks_1_2_conv",
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
        "lora_unet_middle_block_1_transformer_blocks_0_attn3_to_q",
        "",
    ],
)
def test_names_that_are_no_layer_are_refused(name):
    with pytest.raises(InputError, match="no layer of SDXL's UNet"):
        to_diffusers_paths([name])
