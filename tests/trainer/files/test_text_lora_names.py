import pytest
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.lora_names import to_diffusers_paths, to_kohya_names

# what follows `text_encoder.text_model.encoder.layers.` and `lora_te1_text_model_encoder_layers_` in kohya's
# files for SDXL, not made by the code under test
LAYERS = {
    "0.self_attn.q_proj": "0_self_attn_q_proj",
    "3.self_attn.k_proj": "3_self_attn_k_proj",
    "11.self_attn.v_proj": "11_self_attn_v_proj",
    "31.self_attn.out_proj": "31_self_attn_out_proj",
    "11.mlp.fc1": "11_mlp_fc1",
    "1.mlp.fc2": "1_mlp_fc2",
}
PREFIXES = {
    "text_encoder.text_model.encoder.layers.": "lora_te1_text_model_encoder_layers_",
    "text_encoder_2.text_model.encoder.layers.": "lora_te2_text_model_encoder_layers_",
}
KNOWN = {a + path: b + name for a, b in PREFIXES.items() for path, name in LAYERS.items()}
UNET = {"mid_block.attentions.0.proj_in": "lora_unet_middle_block_1_proj_in"}


def test_names_are_those_of_known_files_both_ways():
    assert to_kohya_names([*KNOWN, *UNET]) == KNOWN | UNET
    back = {name: path for path, name in (KNOWN | UNET).items()}
    assert to_diffusers_paths(list(back)) == back


@pytest.mark.parametrize(
    "path",
    [
        "text_encoder.text_model.final_layer_norm",
        "text_encoder.encoder.layers.0.mlp.fc1",
        "text_encoder_2.text_projection",
        "text_encoder_3.text_model.encoder.layers.0.mlp.fc1",
        "text_encoder.text_model.encoder.layers.0.mlp.fc3",
        "text_encoder.text_model.encoder.layers.0.mlp.q_proj",
    ],
)
def test_paths_without_a_name_are_refused(path):
    with pytest.raises(ValueError, match="is no layer of"):
        to_kohya_names([path])


@pytest.mark.parametrize(
    "name",
    [
        "lora_te1_text_model_encoder_layers_0_mlp_fc3",
        "lora_te1_text_model_encoder_layers_0_mlp_q_proj",
        "lora_te2_text_model_encoder_layers_x_mlp_fc1",
        "lora_te2_text_projection",
    ],
)
def test_names_that_are_no_layer_are_refused(name):
    with pytest.raises(InputError, match="no layer of SDXL's text encoders"):
        to_diffusers_paths([name])
