from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler
from sdxl_trainer.trainer.config import NoiseConfig, ObjectiveConfig
from sdxl_trainer.trainer.diffusion.conditioning import Batch
from sdxl_trainer.trainer.diffusion.noise_draw import NoiseDraw, draw_noise
from sdxl_trainer.trainer.diffusion.noise_schedule import NoiseSchedule, schedule_for
from sdxl_trainer.trainer.diffusion.objective import denoising_losses, masked_mean, preservation_losses
from torch.utils._python_dispatch import TorchDispatchMode

SHAPE = (3, 4, 8, 6)
TIMESTEPS = torch.tensor([0, 500, 999])
PLAIN = ObjectiveConfig(min_snr_gamma=0)
SCHEDULES = {
    "epsilon": NoiseSchedule.sdxl("epsilon"),
    "v_prediction": NoiseSchedule.sdxl("v_prediction"),
    "zero_snr": NoiseSchedule.sdxl("v_prediction", zero_terminal_snr=True),
    "edm": NoiseSchedule.edm(0.002, 80.0, 0.5),
}


def batch_of(latents, **values):
    rows = len(latents)
    texts = torch.zeros(rows, 77, 40), torch.zeros(rows, 24), torch.zeros(rows, 6)
    return Batch(latents, *texts, **values)


@pytest.fixture
def latents():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def draw():
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    return NoiseDraw(noise, noise, TIMESTEPS)


def half(noisy_latents, timesteps, batch):
    return noisy_latents * 0.5 + timesteps.view(-1, 1, 1, 1) / 1000


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_losses_equal_a_hand_written_reference(latents, draw, prediction_type):
    reference = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    noisy = reference.add_noise(latents, draw.noise, TIMESTEPS)
    velocity = reference.get_velocity(latents, draw.noise, TIMESTEPS)
    target = draw.noise if prediction_type == "epsilon" else velocity

    config = ObjectiveConfig(min_snr_gamma=5)
    losses = denoising_losses(half, batch_of(latents), draw, SCHEDULES[prediction_type], config)

    for row, timestep in enumerate(TIMESTEPS.tolist()):
        prediction = noisy[row] * 0.5 + timestep / 1000
        alpha = reference.alphas_cumprod[timestep].item()
        snr = alpha / (1 - alpha)
        weight = min(snr, 5) / (snr if prediction_type == "epsilon" else snr + 1)
        expected = weight * ((prediction - target[row]) ** 2).mean().item()
        assert losses[row].item() == pytest.approx(expected, rel=1e-4)


def test_edm_checkpoints_get_karras_own_loss(latents, draw):
    """λ(σ)·‖D(y + σn) - y‖², λ = (σ² + σ_data²)/(σ·σ_data)², D by diffusers; gradients too."""
    schedule = SCHEDULES["edm"]
    reference = EDMEulerScheduler(sigma_data=0.5)
    sigmas = (schedule.c_noise[TIMESTEPS].double() * 4).exp().view(-1, 1, 1, 1)
    noisy = latents.double() + sigmas * draw.noise
    scales = [torch.tensor(0.7, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    told = []

    def predict(noisy_latents, timesteps, batch):
        told.append(timesteps)
        return scales[0] * noisy_latents.double().sin()

    losses = denoising_losses(predict, batch_of(latents), draw, schedule, ObjectiveConfig())

    output = scales[1] * reference.precondition_inputs(noisy, sigmas).sin()
    clean = reference.precondition_outputs(noisy, output, sigmas)
    karras = (sigmas**2 + 0.25) / (sigmas * 0.5) ** 2
    expected = (karras * (clean - latents) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(losses.double(), expected, rtol=2e-3, atol=0)
    gradients = [
        torch.autograd.grad(found.sum(), at)[0] for found, at in zip((losses, expected), scales, strict=True)
    ]
    torch.testing.assert_close(*gradients, rtol=2e-3, atol=0)
    c_noise = reference.precondition_noise(sigmas.flatten()).float()
    torch.testing.assert_close(told[0], c_noise, rtol=1e-5, atol=1e-6)


def test_other_models_are_told_the_timesteps(latents, draw):
    told = []

    def predict(noisy_latents, timesteps, batch):
        told.append(timesteps)
        return noisy_latents

    for name in ("epsilon", "v_prediction", "zero_snr"):
        denoising_losses(predict, batch_of(latents), draw, SCHEDULES[name], PLAIN)
    assert all(torch.equal(timesteps, TIMESTEPS) for timesteps in told)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("loss", ["l2", "l1", "smooth_l1", "huber"])
def test_a_perfect_prediction_costs_nothing(latents, draw, name, loss):
    schedule = SCHEDULES[name]
    config = ObjectiveConfig(min_snr_gamma=0, loss=loss)
    perfect = schedule.target(latents, draw.noise, TIMESTEPS)
    losses = denoising_losses(lambda *_: perfect, batch_of(latents), draw, schedule, config)
    worse = denoising_losses(lambda *_: perfect + 0.1, batch_of(latents), draw, schedule, config)
    assert losses.abs().max() < 1e-6
    assert worse.min() > 1e-4


def test_offset_noise_is_in_the_target_and_input_perturbation_is_not(latents):
    settings = NoiseConfig(noise_offset=0.3, input_perturbation=0.2)
    drawn = draw_noise(SHAPE, 1, 2, settings, 1000)
    schedule, seen = SCHEDULES["epsilon"], []

    def predict(noisy_latents, timesteps, batch):
        seen.append(noisy_latents)
        return drawn.noise

    losses = denoising_losses(predict, batch_of(latents), drawn, schedule, PLAIN)
    assert losses.tolist() == [0, 0, 0]
    assert torch.equal(seen[0], schedule.add_noise(latents, drawn.input_noise, drawn.timesteps))
    assert not torch.equal(seen[0], schedule.add_noise(latents, drawn.noise, drawn.timesteps))


LOSS_SETTINGS = {
    "min_snr_gamma": ({}, {"min_snr_gamma": 3}),
    "debiased_estimation": ({}, {"debiased_estimation": True}),
    "edm_training": ({}, {"edm_training": True}),
    "loss l1": ({}, {"loss": "l1"}),
    "loss smooth_l1": ({}, {"loss": "smooth_l1"}),
    "loss huber": ({}, {"loss": "huber"}),
    "huber_c": ({"loss": "huber"}, {"huber_c": 0.3}),
    "huber_schedule exponential": ({"loss": "huber"}, {"huber_schedule": "exponential"}),
    "huber_schedule constant": ({"loss": "huber"}, {"huber_schedule": "constant"}),
    "prediction_type": ({"prediction_type": "v_prediction"}, {"prediction_type": "epsilon"}),
    "zero_terminal_snr": ({"prediction_type": "v_prediction"}, {"zero_terminal_snr": "on"}),
    "unmasked_weight": ({}, {"unmasked_weight": 0.2}),
    "mask_normalization": ({}, {"mask_normalization": "mean"}),
    "caption_dropout": ({}, {"caption_dropout": 0.5}),
    "size_conditioning": ({}, {"size_conditioning": "true"}),
}
NOT_OF_THE_LOSS = {"caption_dropout", "size_conditioning"}
OF_THE_INPUT = {"zero_terminal_snr"}


@pytest.mark.parametrize("name", LOSS_SETTINGS)
def test_each_setting_changes_the_loss_and_only_the_schedule_the_input(latents, draw, name):
    base, change = LOSS_SETTINGS[name]
    masks = torch.rand(3, 1, 8, 6, generator=torch.Generator().manual_seed(2))
    results = []
    for values in (base, base | change):
        config = ObjectiveConfig(**{"min_snr_gamma": 0, **values})
        schedule, seen = schedule_for(SCHEDULES["v_prediction"], config), []

        def predict(noisy_latents, timesteps, batch, seen=seen):
            seen.append(noisy_latents)
            return noisy_latents * 0.5

        losses = denoising_losses(predict, batch_of(latents, masks=masks), draw, schedule, config)
        results.append((losses, seen[0]))
    (before, input_before), (after, input_after) = results
    assert torch.equal(before, after) == (name in NOT_OF_THE_LOSS)
    assert torch.equal(input_before, input_after) == (name not in OF_THE_INPUT)
    assert bool(after.isfinite().all())


def test_edm_training_does_not_change_an_epsilon_model(latents, draw):
    batch, schedule = batch_of(latents), SCHEDULES["epsilon"]
    edm = denoising_losses(half, batch, draw, schedule, replace(PLAIN, edm_training=True))
    assert torch.equal(edm, denoising_losses(half, batch, draw, schedule, PLAIN))


def test_gamma_zero_turns_the_weights_off(latents, draw):
    def losses(gamma):
        config, ones = ObjectiveConfig(min_snr_gamma=gamma), replace(draw, noise=torch.ones(SHAPE))
        zeros = torch.zeros(SHAPE)
        return denoising_losses(lambda *_: zeros, batch_of(latents), ones, SCHEDULES["epsilon"], config)

    assert losses(0).tolist() == [1, 1, 1]
    assert losses(5)[0].item() == pytest.approx(5 / 1175, rel=1e-2)
    assert losses(5)[1:].tolist() == [1, 1]


def test_sample_weights_multiply_the_losses(latents, draw):
    plain = denoising_losses(half, batch_of(latents), draw, SCHEDULES["epsilon"], PLAIN)
    weighted = batch_of(latents, loss_weights=torch.tensor([1.0, 0.5, 0.0]))
    found = denoising_losses(half, weighted, draw, SCHEDULES["epsilon"], PLAIN)
    torch.testing.assert_close(found, plain * torch.tensor([1.0, 0.5, 0.0]))


def test_masked_losses_equal_kohyas_and_onetrainers():
    generator = torch.Generator().manual_seed(0)
    errors, masks = torch.rand(SHAPE, generator=generator), torch.rand(3, 1, 8, 6, generator=generator)

    kohya = (errors * masks).mean([1, 2, 3])  # CT:487 apply_masked_loss, then the loss's mean
    torch.testing.assert_close(masked_mean(errors, masks, PLAIN), kohya)

    # OneTrainer, modules/util/loss/masked_loss.py: clamp, multiply, divide by each image's mean
    clamped = torch.clamp(masks, 0.3, 1)
    onetrainer = (errors * clamped / clamped.mean([1, 2, 3], keepdim=True)).mean([1, 2, 3])
    config = replace(PLAIN, unmasked_weight=0.3, mask_normalization="mean")
    torch.testing.assert_close(masked_mean(errors, masks, config), onetrainer)


def test_masks_are_those_of_the_batch(latents, draw):
    generator = torch.Generator().manual_seed(3)
    masks = (torch.rand(3, 1, 8, 6, generator=generator) > 0.5).float()
    schedule = SCHEDULES["epsilon"]
    inside = denoising_losses(half, batch_of(latents, masks=masks), draw, schedule, PLAIN)
    outside = denoising_losses(half, batch_of(latents, masks=1 - masks), draw, schedule, PLAIN)
    everything = denoising_losses(half, batch_of(latents), draw, schedule, PLAIN)
    torch.testing.assert_close(inside + outside, everything)
    config = replace(PLAIN, unmasked_weight=1.0)
    ignored = denoising_losses(half, batch_of(latents, masks=masks), draw, schedule, config)
    torch.testing.assert_close(ignored, everything)


def test_what_a_mask_leaves_out_gets_no_gradient(latents, draw):
    masks = torch.zeros(3, 1, 8, 6)
    masks[:, :, :4] = 1
    prediction = torch.zeros(SHAPE, requires_grad=True)
    batch = batch_of(latents, masks=masks)
    denoising_losses(lambda *_: prediction, batch, draw, SCHEDULES["epsilon"], PLAIN).sum().backward()
    assert prediction.grad[:, :, 4:].abs().max() == 0
    assert prediction.grad[:, :, :4].abs().min() > 0


def test_normalised_masks_weigh_alike_whatever_their_size(draw):
    errors, config = torch.ones(SHAPE), replace(PLAIN, mask_normalization="mean")
    masks = torch.zeros(3, 1, 8, 6)
    masks[0, :, :1, :1], masks[1] = 1, 1
    assert masked_mean(errors, masks, config).tolist() == pytest.approx([1, 1, 0])
    assert masked_mean(errors, masks, PLAIN).tolist() == pytest.approx([1 / 48, 1, 0])


def test_preservation_holds_the_model_to_its_base(latents, draw):
    weight = torch.tensor(0.5, requires_grad=True)
    base_weight = torch.tensor(0.4, requires_grad=True)
    schedule, config = SCHEDULES["v_prediction"], ObjectiveConfig(min_snr_gamma=5)
    batch = batch_of(latents, loss_weights=torch.tensor([1.0, 2.0, 1.0]), masks=torch.zeros(3, 1, 8, 6))
    losses = preservation_losses(
        lambda noisy, *_: noisy * weight, lambda noisy, *_: noisy * base_weight, batch, draw, schedule, config
    )

    noisy = schedule.add_noise(latents, draw.noise, TIMESTEPS)
    snr = schedule.snr(TIMESTEPS)
    expected = ((noisy * 0.1) ** 2).flatten(1).mean(1) * snr.clamp(max=5) / (snr + 1)
    torch.testing.assert_close(losses, expected * torch.tensor([1.0, 2.0, 1.0]), rtol=1e-4, atol=1e-9)
    losses.sum().backward()
    assert weight.grad.abs() > 0
    assert base_weight.grad is None


@pytest.mark.parametrize("name", SCHEDULES)
def test_an_unchanged_model_is_preserved_at_no_cost(latents, draw, name):
    losses = preservation_losses(
        half, half, batch_of(latents), draw, SCHEDULES[name], ObjectiveConfig(loss="huber")
    )
    assert losses.tolist() == [0, 0, 0]


def test_losses_are_float32_and_their_gradient_reaches_the_prediction(latents):
    scale = torch.tensor(0.5, requires_grad=True)
    drawn = draw_noise(SHAPE, 0, 0, NoiseConfig(), 1000)
    losses = denoising_losses(
        lambda noisy, *_: (noisy * scale).bfloat16(),
        batch_of(latents),
        drawn,
        SCHEDULES["epsilon"],
        ObjectiveConfig(),
    )
    losses.mean().backward()
    assert losses.shape == (3,)
    assert losses.dtype == torch.float32
    assert scale.grad.abs() > 0


class NoWaiting(TorchDispatchMode):
    """Refuses what an accelerator would have to be waited for, and moves between devices."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert "_local_scalar_dense" not in func.name()
        assert "nonzero" not in func.name()
        assert kwargs.get("device") in (None, torch.device("cpu"))
        return func(*args, **kwargs)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    "rule",
    [{}, {"min_snr_gamma": 0, "debiased_estimation": True}, {"min_snr_gamma": 0, "edm_training": True}],
)
@pytest.mark.parametrize("loss", ["l2", "l1", "smooth_l1", "huber"])
def test_nothing_waits_for_the_device_and_everything_is_finite(latents, draw, name, rule, loss):
    masks = torch.zeros(3, 1, 8, 6)
    masks[1:] = 0.5
    config = ObjectiveConfig(loss=loss, mask_normalization="mean", **rule)
    batch = batch_of(latents, masks=masks, loss_weights=torch.ones(3))
    output = torch.zeros(SHAPE, requires_grad=True)
    with NoWaiting():
        losses = denoising_losses(lambda *_: output, batch, draw, SCHEDULES[name], config)
        kept = preservation_losses(
            lambda *_: output, lambda *_: latents, batch, draw, SCHEDULES[name], config
        )
    (losses.sum() + kept.sum()).backward()
    assert bool(losses.isfinite().all())
    assert bool(output.grad.isfinite().all())
