"""Pictures drawn in the middle of a run equal those of KSampler with the same LoRA loaded by core."""

import numpy as np
import pytest
import torch

SIZE = (128, 96)
PROMPTS = ["a (red:1.3) circle", "a zorp"]


@pytest.fixture
def host(stand_in):
    from sdxl_trainer.nodes.comfy_bridge.host_model import HostModel

    return HostModel(*stand_in, "stand-in")


@pytest.fixture
def preview():
    from sdxl_trainer.trainer.config import PreviewConfig

    def make(**changes):
        return PreviewConfig(**{"steps": 4, "negative": "blurry", "seed": 7, **changes})

    return make


def moved_adapter(denoiser, kind="lora", scale=0.2):
    """An adapter whose weights are random instead of zero."""
    from sdxl_trainer.trainer.adapter.lora import attach_adapter
    from sdxl_trainer.trainer.config import LoRAConfig

    config = LoRAConfig(rank=4, alpha=2.0, targets="attention+ff+conv", adapter=kind)
    adapter = attach_adapter(denoiser.unet, config, seed=3)
    generator = torch.Generator().manual_seed(5)
    state = adapter.state_dict().items()
    moved = {key: x + scale * torch.randn(x.shape, generator=generator) for key, x in state}
    adapter.load_state_dict(moved)
    return adapter, config


def lora_tensors(adapter, config, denoiser, folder):
    from sdxl_trainer.trainer.files.lora_file import read_lora, write_lora

    layers = denoiser.unet.config["layers_per_block"]
    path = folder / "live.safetensors"
    write_lora(path, adapter.state_dict(), config, {}, layers, "fp32")
    return read_lora(path).tensors


def pixels(pictures):
    return np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures])


@pytest.mark.parametrize(
    ("sampler", "scheduler", "guidance", "kind"),
    [
        ("euler", "normal", 6.0, "lora"),
        ("dpmpp_2m_sde", "karras", 1.0, "dora"),
        ("euler_ancestral", "simple", 4.0, "loha"),
        ("euler", "normal", 4.0, "lokr"),
    ],
)
def test_a_live_picture_is_what_ksampler_draws_with_the_saved_lora(
    host, stand_in, preview, tmp_path, sampler, scheduler, guidance, kind
):
    from sdxl_trainer.nodes.comfy_bridge.lora_patches import apply_lora
    from sdxl_trainer.nodes.comfy_bridge.preview import sample_preview, to_pictures

    config = preview(sampler=sampler, scheduler=scheduler, guidance=guidance)
    encoded = host.encode_prompts(PROMPTS, config.negative)
    with torch.inference_mode(), host.open_denoiser(0) as denoiser:
        base = pixels(host.draw(denoiser, encoded, config, SIZE))
        adapter, lora = moved_adapter(denoiser, kind)
        live = pixels(host.draw(denoiser, encoded, config, SIZE))
        tensors = lora_tensors(adapter, lora, denoiser, tmp_path)
        adapter.detach()
    with torch.inference_mode():
        patched = apply_lora(*stand_in[:2], tensors, 1.0, 1.0)
        cores = pixels(to_pictures(sample_preview(*patched, stand_in[2], PROMPTS, config, SIZE)))
        plain = pixels(to_pictures(sample_preview(*stand_in, PROMPTS, config, SIZE)))
    assert live.shape == (2, SIZE[1], SIZE[0], 3)
    assert np.abs(base - plain).max() <= 1
    assert np.abs(live - plain).mean() > 3
    assert np.abs(live - cores).max() <= 1


@pytest.mark.parametrize(
    ("spacing", "prediction"),
    [("ModelSamplingDiscrete", "V_PREDICTION"), ("ModelSamplingContinuousEDM", "EDM")],
)
def test_a_sampling_patch_in_front_of_the_trainer_is_sampled_with(stand_in, preview, spacing, prediction):
    import comfy.model_sampling
    from sdxl_trainer.nodes.comfy_bridge.host_model import HostModel
    from sdxl_trainer.nodes.comfy_bridge.preview import sample_preview, to_pictures

    model, clip, vae = stand_in
    bases = (getattr(comfy.model_sampling, spacing), getattr(comfy.model_sampling, prediction))
    patched = model.clone()
    patched.add_object_patch("model_sampling", type("Patched", bases, {})(model.model.model_config))
    config = preview()
    held = model.model.model_sampling
    host = HostModel(patched, clip, vae, "stand-in")
    encoded = host.encode_prompts(PROMPTS, config.negative)
    with torch.inference_mode(), host.open_denoiser(0) as denoiser:
        live = pixels(host.draw(denoiser, encoded, config, SIZE))
    cores = pixels(to_pictures(sample_preview(patched, clip, vae, PROMPTS, config, SIZE)))
    assert np.abs(live - cores).max() <= 1
    sample_preview(model, clip, vae, PROMPTS[:1], config, SIZE)
    assert model.model.model_sampling is held


def test_drawing_leaves_host_randomness_and_training_as_they_were(host, stand_in, preview, host_state):
    state = host_state(*stand_in)
    encoded = host.encode_prompts(PROMPTS, "")
    with torch.inference_mode(), host.open_denoiser(0) as denoiser:
        adapter, _ = moved_adapter(denoiser)
        opened = host_state(*stand_in)
        names, weights = zip(*denoiser.unet.named_parameters(), strict=True)
        held = [(w.data_ptr(), w.detach().clone()) for w in weights]
        random = torch.get_rng_state()
        assert len(host.draw(denoiser, encoded, preview(sampler="dpmpp_sde"), SIZE)) == 2
        assert torch.equal(torch.get_rng_state(), random)
        assert host_state(*stand_in) == opened
        for name, weight, (place, value) in zip(names, weights, held, strict=True):
            assert weight.data_ptr() == place, name
            assert torch.equal(weight, value), name
        step_still_trains(denoiser, adapter)
        adapter.detach()
    assert host_state(*stand_in) == state


def step_still_trains(denoiser, adapter):
    """A forward and backward pass through the view, as the loop does one."""
    from sdxl_trainer.trainer.diffusion.conditioning import Batch, inference_time_ids, stack_time_ids

    with torch.inference_mode(False), torch.enable_grad():
        config = denoiser.unet.config
        width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        embeds = torch.zeros(1, 77, config["cross_attention_dim"])
        time_ids = stack_time_ids([inference_time_ids((64, 64))])
        batch = Batch(torch.ones(1, 4, 8, 8), embeds, torch.zeros(1, width), time_ids)
        denoiser.predict(batch.latents, torch.tensor([500]), batch).square().mean().backward()
        gradients = [p.grad for p in adapter.weights.parameters() if p.grad is not None]
    assert sum(g.abs().sum().item() for g in gradients) > 0


def test_cancel_while_drawing_gives_no_picture_and_is_not_lost(host, preview):
    import comfy.model_management

    encoded = host.encode_prompts(PROMPTS, "")
    with torch.inference_mode(), host.open_denoiser(0) as denoiser:
        comfy.model_management.interrupt_current_processing()
        assert host.draw(denoiser, encoded, preview(), SIZE) == []
        assert comfy.model_management.processing_interrupted()
        comfy.model_management.interrupt_current_processing(False)


@pytest.mark.parametrize("field", ["sampler", "scheduler"])
def test_a_sampler_that_this_comfyui_lacks_is_refused_by_name(host, preview, field):
    from sdxl_trainer.trainer.errors import InputError

    encoded = host.encode_prompts(PROMPTS, "")
    refusal = pytest.raises(InputError, match=f"{field} is 'eular'")
    with torch.inference_mode(), host.open_denoiser(0) as denoiser, refusal:
        host.draw(denoiser, encoded, preview(**{field: "eular"}), SIZE)
