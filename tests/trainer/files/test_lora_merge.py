import pytest
import torch
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.lora_file import LoRAFile
from sdxl_trainer.trainer.files.lora_merge import merge_lora
from sdxl_trainer.trainer.sdxl.sdxl_model import HeadlessSDXL

LINEAR = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v"
CONV = "lora_unet_input_blocks_1_0_in_layers_2"


@pytest.fixture
def unet(stand_in_folder):
    with HeadlessSDXL.load(stand_in_folder).open_denoiser(0) as denoiser:
        yield denoiser.unet


def layer(name, down, up, alpha=None):
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    return LoRAFile(tensors if alpha is None else tensors | {f"{name}.alpha": torch.tensor(float(alpha))}, {})


def test_linear_layers_gain_up_times_down_scaled_by_alpha_over_rank(unet):
    module = unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v
    before = module.weight.clone()
    down, up = torch.randn(4, 40), torch.randn(128, 4)

    assert merge_lora(unet, layer(LINEAR, down, up, alpha=2)) == 1

    torch.testing.assert_close(module.weight, before + up @ down * 0.5)


def test_without_alpha_the_scale_is_the_strength_alone(unet):
    module = unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v
    before = module.weight.clone()
    down, up = torch.randn(4, 40), torch.randn(128, 4)
    merge_lora(unet, layer(LINEAR, down, up), strength=0.25)
    torch.testing.assert_close(module.weight, before + up @ down * 0.25)


def test_convolutions_act_as_the_two_convolutions_of_the_file(unet):
    module = unet.down_blocks[0].resnets[0].conv1
    picture = torch.randn(1, 64, 8, 8)
    down, up = torch.randn(3, 64, 3, 3), torch.randn(64, 3, 1, 1)
    side = torch.nn.functional.conv2d(torch.nn.functional.conv2d(picture, down, padding=1), up)
    expected = module(picture) + side * 2

    merge_lora(unet, layer(CONV, down, up, alpha=6))

    torch.testing.assert_close(module(picture), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_input_blocks_99_1_proj_in",
        "lora_unet_middle_block_1_transformer_blocks_7_attn1_to_q",
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
    ],
)
def test_layers_without_a_place_are_refused(unet, name):
    with pytest.raises(InputError, match=r"not in this UNet|no layer of SDXL"):
        merge_lora(unet, layer(name, torch.zeros(1, 2), torch.zeros(2, 1)))


def test_layers_of_another_size_are_refused(unet):
    with pytest.raises(InputError, match="another size"):
        merge_lora(unet, layer(LINEAR, torch.zeros(4, 77), torch.zeros(128, 4)))
