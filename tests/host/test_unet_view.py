"""ComfyUI's UNet inside diffusers' classes: the same weights, the same numbers."""

import pytest
import torch

NUM_SDXL_PARAMETERS = 2_567_463_684


@pytest.fixture
def bridge():
    from sdxl_trainer.nodes.comfy_bridge import resident_weights, unet_view

    return resident_weights, unet_view


def open_view(bridge, model, precision="auto"):
    resident_weights, unet_view = bridge
    with torch.inference_mode(False):
        weights = resident_weights.load_resident(model, precision, 0)
        return unet_view.build_view(model.model.model_config.unet_config, weights.tensors), weights


def comfy_forward(model, latents, timesteps, context, pooled, time_ids):
    """ComfyUI's UNet on its own conditioning vector (comfy/model_base.py, SDXL.encode_adm)."""
    embedder = model.model.embedder
    sizes = torch.stack([torch.cat([embedder(row[i : i + 1]) for i in range(6)], 1)[0] for row in time_ids])
    with torch.inference_mode():
        return model.model.diffusion_model(
            latents, timesteps, context=context, y=torch.cat([pooled, sizes], dim=1)
        )


def conditioning(batch=2):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, 4, 16, 24, generator=generator)
    context = torch.randn(batch, 154, 40, generator=generator)
    pooled = torch.randn(batch, 24, generator=generator)
    time_ids = torch.tensor([[1280.0, 1025, 64, 0, 768, 1344]]).repeat(batch, 1)
    return latents, torch.tensor([7, 731])[:batch], context, pooled, time_ids


def test_the_view_computes_what_comfyui_computes(bridge, stand_in):
    model = stand_in[0]
    view, _ = open_view(bridge, model)
    latents, timesteps, context, pooled, time_ids = conditioning()
    with torch.no_grad():
        conditions = {"text_embeds": pooled, "time_ids": time_ids}
        ours = view(latents, timesteps, context, added_cond_kwargs=conditions).sample
    theirs = comfy_forward(model, latents, timesteps, context, pooled, time_ids)
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5


def test_the_view_shares_every_weight_with_the_host(bridge, stand_in):
    view, weights = open_view(bridge, stand_in[0])
    hosts = {p.data_ptr() for p in stand_in[0].model.diffusion_model.parameters()}
    assert weights.copied_bytes == 0
    assert all(p.data_ptr() in hosts for p in view.parameters())
    assert len(list(view.parameters())) == len(hosts)


def test_the_view_takes_part_in_autograd_though_the_host_loaded_inference_tensors(bridge, stand_in):
    assert next(stand_in[0].model.diffusion_model.parameters()).is_inference()
    view, _ = open_view(bridge, stand_in[0])
    latents, timesteps, context, pooled, time_ids = conditioning()
    latents.requires_grad_()
    conditions = {"text_embeds": pooled, "time_ids": time_ids}
    view(latents, timesteps, context, added_cond_kwargs=conditions).sample.sum().backward()
    assert latents.grad.abs().sum() > 0
    assert all(not p.requires_grad and p.grad is None for p in view.parameters())


def test_full_size_sdxl_has_the_published_number_of_parameters_and_a_place_for_each(bridge):
    import comfy.supported_models
    from diffusers import UNet2DConditionModel

    sizes = {
        "in_channels": 4,
        "out_channels": 4,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
    }
    config = comfy.supported_models.SDXL({**comfy.supported_models.SDXL.unet_config, **sizes}).unet_config
    with torch.device("meta"):
        unet = UNet2DConditionModel(**bridge[1].diffusers_config(config))
    assert sum(p.numel() for p in unet.parameters()) == NUM_SDXL_PARAMETERS
    assert set(unet.state_dict()) <= set(bridge[1].unet_key_map(config))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_another_precision_is_a_private_copy(bridge, stand_in, precision, dtype):
    model = stand_in[0]
    view, weights = open_view(bridge, model, precision)
    assert {p.dtype for p in view.parameters()} == {dtype}
    assert {p.dtype for p in model.model.diffusion_model.parameters()} == {torch.float32}
    assert weights.copied_bytes == 2 * sum(p.numel() for p in view.parameters())


def test_fp8_weights_become_a_private_copy_that_computes(bridge, loading):
    import comfy.utils

    with torch.inference_mode():
        model = loading.load_model(options={"dtype": torch.float8_e4m3fn})
    weights = list(model.model.diffusion_model.parameters())
    assert {w.dtype for w in weights} == {torch.float8_e4m3fn}
    view, resident = open_view(bridge, model)
    assert {p.dtype for p in view.parameters()} == {torch.float32}  # the CPU has no fast bfloat16
    assert resident.copied_bytes == 4 * sum(p.numel() for p in view.parameters())
    name = "conv_in.weight"
    key = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)[name]
    held = model.model.diffusion_model.state_dict()[key].float()
    assert torch.equal(view.state_dict()[name], held)


def test_lora_patches_in_front_are_part_of_the_base(bridge, stand_in):
    model = stand_in[0]
    key = "diffusion_model.input_blocks.3.1.transformer_blocks.0.attn1.to_q.weight"
    key = key if key in model.model.state_dict() else _first_attention_key(model)
    before = model.model.state_dict()[key].clone()
    patched = model.clone()
    patched.add_patches({key: ("diff", (torch.ones_like(before),))}, 0.5)
    view, weights = open_view(bridge, patched)
    names = {ldm: name for name, ldm in bridge[1].unet_key_map(model.model.model_config.unet_config).items()}
    merged = view.state_dict()[names[key.removeprefix("diffusion_model.")]]
    assert torch.allclose(merged, before + 0.5, atol=1e-6)
    assert weights.copied_bytes == 0


def _first_attention_key(model):
    return next(k for k in model.model.state_dict() if k.endswith("attn1.to_q.weight"))


def test_paged_weights_are_read_through_an_ordinary_clone(bridge, stand_in, paged):
    model = stand_in[0]
    resident_weights, _ = bridge
    view, weights = open_view(bridge, paged(model, can_reload=True))
    assert not resident_weights.is_dynamic(weights.patcher)
    assert weights.copied_bytes == 0
    assert view.conv_in.weight.data_ptr() in {p.data_ptr() for p in model.model.diffusion_model.parameters()}


def test_paged_weights_whose_loader_cannot_read_again_are_copied(bridge, stand_in, paged):
    import inspect

    model = stand_in[0]
    if "return_weight" not in inspect.signature(model.patch_weight_to_device).parameters:
        pytest.skip("this ComfyUI has no paged weights")
    key = _first_attention_key(model)
    before = model.model.state_dict()[key].clone()
    patched = model.clone()
    patched.add_patches({key: ("diff", (torch.ones_like(before),))}, 0.5)
    view, _ = open_view(bridge, paged(patched, can_reload=False))
    names = {ldm: name for name, ldm in bridge[1].unet_key_map(model.model.model_config.unet_config).items()}
    merged = view.state_dict()[names[key.removeprefix("diffusion_model.")]]
    assert torch.allclose(merged, before + 0.5, atol=1e-6)
    assert torch.equal(model.model.state_dict()[key], before)


class HeldWeights:
    """As much of a MODEL as says in which type it is held and in which ComfyUI computes."""

    def __init__(self, held, cast):
        self.model = self
        self.manual_cast_dtype = cast
        self.load_device = torch.device("cpu")
        self._held = held

    def get_dtype(self):
        return self._held


@pytest.mark.parametrize(
    ("held", "cast", "expected"),
    [
        (torch.bfloat16, torch.float32, torch.bfloat16),  # --bf16-unet on the CPU: a float32 copy is 10 GB
        (torch.float32, None, torch.float32),
        (torch.float16, None, torch.float16),
        (torch.float16, torch.float32, torch.float32),
        (torch.float8_e4m3fn, torch.bfloat16, torch.bfloat16),
    ],
)
def test_weights_are_trained_in_the_type_they_are_held_in(held, cast, expected):
    from sdxl_trainer.nodes.comfy_bridge.resident_weights import compute_dtype

    assert compute_dtype(HeldWeights(held, cast), "auto") == expected
