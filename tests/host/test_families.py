"""What is no SDXL is refused by its name, before anything is trained."""

import pytest
import torch

LATENT_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 1, 2],
    "transformer_depth_output": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": 2,
    "use_linear_in_transformer": True,
    "context_dim": 64,
    "num_classes": "sequential",
    "adm_in_channels": 1568,
    "use_temporal_attention": False,
    "use_spatial_transformer": True,
    "legacy": False,
    "dtype": torch.float32,
}
UNCLASSED = {"num_classes": None, "adm_in_channels": None}


def host_model(family, **changes):
    """A MODEL of a real ComfyUI class, without weights."""
    import comfy.model_patcher
    import comfy.supported_models

    kind = getattr(comfy.supported_models, family)
    config = kind({**LATENT_UNET, **changes})
    config.unet_config |= {"num_heads": -1, "num_head_channels": 8}
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="meta")
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def refusal(model, clip, vae):
    from sdxl_trainer.nodes.comfy_bridge.families import require_sdxl
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError) as caught:
        require_sdxl(model, clip, vae)
    return str(caught.value)


def test_sdxl_is_accepted(stand_in):
    from sdxl_trainer.nodes.comfy_bridge.families import require_sdxl

    require_sdxl(*stand_in)


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("SD15", {**UNCLASSED, "context_dim": 768}, "Stable Diffusion 1.5"),
        ("SD20", {**UNCLASSED, "context_dim": 1024}, "Stable Diffusion 2"),
        ("SDXLRefiner", {}, "the SDXL refiner"),
        ("SDXL", {"in_channels": 9}, "inpainting model (9 input channels)"),
        ("SDXL_instructpix2pix", {"in_channels": 8}, "instruct-pix2pix (8 input channels)"),
        ("SSD1B", {"transformer_depth_output": [0, 0, 1, 2, 2, 2]}, "SSD-1B, a pruned SDXL"),
    ],
)
def test_other_unets_are_named(stand_in, family, changes, words):
    assert words in refusal(host_model(family, **changes), *stand_in[1:])


def test_flux_is_named(stand_in):
    import comfy.supported_models
    from comfy.ldm.flux.model import FluxParams

    config = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 16}
    config |= {"context_in_dim": 16, "dtype": torch.float32}
    if "txt_ids_dims" in FluxParams.__annotations__:
        config |= {"txt_ids_dims": []}
    config |= {"hidden_size": 32, "mlp_ratio": 4.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1}
    config |= {
        "axes_dim": [4, 6, 6],
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": False,
    }
    made = comfy.supported_models.FluxSchnell(config)
    made.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    model = type(stand_in[0])(made.get_model({}, "", device="meta"), cpu, cpu)
    assert "model is Flux schnell, but must be SDXL" in refusal(model, *stand_in[1:])


def test_every_wrong_input_is_named_at_once(stand_in):
    said = refusal(host_model("SD15", **UNCLASSED, context_dim=768), None, None)
    assert "model is Stable Diffusion 1.5" in said
    assert "clip is missing" in said
    assert "vae is missing" in said


def test_sd1_clip_is_named(stand_in):
    import comfy.sd
    import comfy.sd1_clip
    import comfy.supported_models_base

    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    clip = comfy.sd.CLIP(target, model_options={"clip_l_model_config": sizes})
    assert "clip is Stable Diffusion 1.5's text encoder" in refusal(stand_in[0], clip, stand_in[2])


def test_a_vae_of_16_channels_is_refused(stand_in):
    vae = stand_in[2]
    vae.latent_channels = 16
    assert "vae has 16 latent channels" in refusal(*stand_in)
