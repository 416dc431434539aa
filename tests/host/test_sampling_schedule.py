"""The schedule trained on is the one that ComfyUI samples with."""

import pytest
import torch


@pytest.fixture
def schedules():
    from sdxl_trainer.nodes.comfy_bridge import sampling_schedule

    return sampling_schedule


def test_epsilon_and_its_sigmas_are_read(schedules, stand_in):
    model = stand_in[0]
    schedule = schedules.noise_schedule(model)
    sigmas = model.get_model_object("model_sampling").sigmas.double()
    assert schedule.prediction_type == "epsilon"
    assert torch.allclose(schedule.alphas_cumprod.double(), 1 / (1 + sigmas**2), rtol=1e-5)
    assert not schedule.alphas_cumprod.is_inference()


def test_v_prediction_with_zero_terminal_snr_is_read_from_the_checkpoint(schedules, loading):
    keys = {"v_pred": torch.tensor(1), "ztsnr": torch.tensor(1)}
    model = loading.load_model(extra_keys=keys)
    schedule = schedules.noise_schedule(model)
    assert schedule.prediction_type == "v_prediction"
    assert schedule.alphas_cumprod[-1].item() == pytest.approx(4.9e-8, rel=0.1)


def test_a_v_prediction_patch_on_the_model_is_honoured(schedules, stand_in):
    assert schedules.noise_schedule(patched(stand_in[0], "v_prediction")).prediction_type == "v_prediction"
    assert schedules.noise_schedule(stand_in[0]).prediction_type == "epsilon"


@pytest.mark.parametrize(("sampling", "name"), [("lcm", "LCM"), ("x0", "X0")])
def test_other_samplings_are_refused_by_name(schedules, stand_in, sampling, name):
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match=name):
        schedules.noise_schedule(patched(stand_in[0], sampling))


def test_cosxl_checkpoints_are_refused_by_name(schedules, loading):
    from sdxl_trainer.trainer.errors import InputError

    model = loading.load_model(extra_keys={"edm_vpred.sigma_max": torch.tensor(120.0)})
    with pytest.raises(InputError, match=r"ModelSamplingContinuousEDM \+ V_PREDICTION"):
        schedules.noise_schedule(model)


@pytest.mark.parametrize("sampling", ["v_prediction", "eps", "cosmos_rflow"])
def test_other_continuous_samplings_are_refused_by_name(schedules, stand_in, sampling):
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match="ModelSampling"):
        schedules.noise_schedule(continuous(stand_in[0], sampling))


def test_playground_is_read_from_the_checkpoint(schedules, playground):
    schedule = schedules.noise_schedule(playground)
    assert schedule.prediction_type == "edm"
    assert schedule.sigma_data == 0.5
    sampling = playground.get_model_object("model_sampling")
    told = sampling.timestep((schedule.c_noise * 4).exp())
    torch.testing.assert_close(schedule.c_noise, told, rtol=1e-5, atol=1e-6)
    assert sampling.sigma_min < (schedule.c_noise[0] * 4).exp() < (schedule.c_noise[-1] * 4).exp() < 80


def test_an_edm_patch_keeps_training_within_its_sigmas(schedules, stand_in):
    schedule = schedules.noise_schedule(continuous(stand_in[0], "edm", sigma_max=5.0, sigma_min=0.1))
    sigmas = (schedule.c_noise * 4).exp()
    assert sigmas[0].item() == pytest.approx(0.1, rel=1e-4)
    assert sigmas[-1].item() == pytest.approx(5.0, rel=1e-4)


@pytest.mark.parametrize("way", ["checkpoint", "patch"])
def test_playground_latents_are_scaled_and_shifted_its_own_way(loading, stand_in, playground, way):
    from sdxl_trainer.nodes.comfy_bridge.families import require_sdxl
    from sdxl_trainer.nodes.comfy_bridge.pixels import encode_pixels

    model, clip, vae = stand_in
    changed = playground if way == "checkpoint" else continuous(model, "edm_playground_v2.5")
    require_sdxl(changed, clip, vae)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    raw = encode_pixels(model, vae, pixels) / 0.13025

    mean = torch.tensor([-1.6574, 1.886, -1.383, 2.5155]).view(1, 4, 1, 1)
    std = torch.tensor([8.4927, 5.9022, 6.5498, 5.2299]).view(1, 4, 1, 1)
    torch.testing.assert_close(encode_pixels(changed, vae, pixels), (raw - mean) * 0.5 / std)


def test_runs_on_other_samplings_are_other_runs(stand_in):
    from sdxl_trainer.nodes.comfy_bridge.fingerprint import weights_fingerprint

    model, clip, vae = stand_in
    models = [model, patched(model, "v_prediction"), continuous(model, "edm"), continuous(model, "edm", 80.0)]
    models.append(continuous(model, "edm_playground_v2.5"))
    fingerprints = [weights_fingerprint(m, clip, vae) for m in models]
    assert len(set(fingerprints)) == len(models)
    assert weights_fingerprint(model, clip, vae) == fingerprints[0]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "edm"])
def test_what_is_trained_is_the_denoiser_that_comfyui_samples_with(schedules, loading, playground, kind):
    """The clean latents that follow from the network's output are those of ComfyUI's apply_model."""
    from sdxl_trainer.nodes.comfy_bridge import resident_weights, unet_view

    v_keys = {"v_pred": torch.tensor(1), "ztsnr": torch.tensor(1)}
    model = (
        playground if kind == "edm" else loading.load_model(extra_keys=v_keys if kind != "epsilon" else {})
    )
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 16, 16, generator=generator) for _ in range(2))
    context = torch.randn(3, 77, 40, generator=generator)
    pooled = torch.randn(3, 24, generator=generator)
    time_ids = torch.tensor([[128.0, 128, 0, 0, 128, 128]]).repeat(3, 1)
    timesteps = torch.tensor([0, 500, 998])
    schedule = schedules.noise_schedule(model)
    assert schedule.prediction_type == kind
    alphas_cumprod = schedule.alphas_cumprod[timesteps].view(-1, 1, 1, 1).double()
    signal, spread = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    sigmas = spread / signal * schedule.sigma_data

    weights = resident_weights.load_resident(model, "auto", 0)
    unet = unet_view.build_view(model.model.model_config.unet_config, weights.tensors)
    noisy = schedule.add_noise(latents, noise, timesteps)
    told = schedule.model_timesteps(timesteps)
    with torch.no_grad():
        conditions = {"text_embeds": pooled, "time_ids": time_ids}
        output = unet(noisy, told, context, added_cond_kwargs=conditions).sample.double()
    ours = {
        "epsilon": lambda: (noisy - spread * output) / signal,
        "v_prediction": lambda: signal * noisy - spread * output,
        "edm": lambda: (signal * noisy + spread * output) * schedule.sigma_data,
    }[kind]()

    embedder = model.model.embedder
    sizes = torch.stack([torch.cat([embedder(row[i : i + 1]) for i in range(6)], 1)[0] for row in time_ids])
    with torch.inference_mode():
        theirs = model.model.apply_model(
            (latents + sigmas * noise).float(),
            sigmas.flatten().float(),
            c_crossattn=context,
            y=torch.cat([pooled, sizes], dim=1),
        ).double()
    distances = (ours - theirs).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1)
    assert distances.max().item() < 1e-5


@pytest.fixture
def playground(loading):
    """The stand-in with the marks of Playground 2.5, and so with its sampling and latents."""
    return loading.load_model(extra_keys={"edm_mean": torch.zeros(1), "edm_std": torch.ones(1)})


def continuous(model, sampling, sigma_max=120.0, sigma_min=0.002):
    """What core's ModelSamplingContinuousEDM node gives out."""
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    return ModelSamplingContinuousEDM().patch(model, sampling, sigma_max, sigma_min)[0]


def patched(model, sampling):
    """What core's ModelSamplingDiscrete node gives out."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(model, sampling, zsnr=False)[0]
