import pytest
import torch
from diffusers import DDPMScheduler
from sdxl_trainer.trainer.conditioning import Batch
from sdxl_trainer.trainer.config import ObjectiveConfig
from sdxl_trainer.trainer.noise_schedule import NoiseSchedule
from sdxl_trainer.trainer.objective import denoising_losses, draw_noise, min_snr_weights

SHAPE = (3, 4, 8, 6)


def batch_of(latents):
    rows = len(latents)
    return Batch(latents, torch.zeros(rows, 77, 40), torch.zeros(rows, 24), torch.zeros(rows, 6))


def test_draws_are_a_pure_function_of_seed_and_index():
    noise, timesteps = draw_noise(SHAPE, seed=7, index=12, num_timesteps=1000)
    torch.randn(5)
    again, timesteps_again = draw_noise(SHAPE, seed=7, index=12, num_timesteps=1000)

    assert torch.equal(noise, again)
    assert torch.equal(timesteps, timesteps_again)
    assert timesteps.dtype == torch.int64


def test_draws_leave_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    draw_noise(SHAPE, 1, 2, 1000)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("seed", "index"), [(7, 13), (8, 12), (8, 11), (2**64 - 1, 12)])
def test_another_seed_or_index_gives_other_noise(seed, index):
    noise, _ = draw_noise(SHAPE, 7, 12, 1000)
    other, _ = draw_noise(SHAPE, seed, index, 1000)
    assert not torch.equal(noise, other)


def test_timesteps_cover_the_whole_schedule_evenly():
    drawn = torch.cat([draw_noise((64, 4, 1, 1), 1, i, 1000)[1] for i in range(200)])
    counts = torch.histc(drawn.float(), bins=10, min=0, max=1000)
    assert drawn.min() == 0
    assert drawn.max() == 999
    assert (counts / len(drawn) - 0.1).abs().max() < 0.015


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_losses_equal_a_hand_written_reference(prediction_type):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(SHAPE, generator=generator)
    noise, timesteps = torch.randn(SHAPE, generator=generator), torch.tensor([0, 500, 999])
    reference = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    noisy = reference.add_noise(latents, noise, timesteps)
    target = noise if prediction_type == "epsilon" else reference.get_velocity(latents, noise, timesteps)

    losses = denoising_losses(
        lambda noisy_latents, steps, batch: noisy_latents * 0.5 + steps.view(-1, 1, 1, 1) / 1000,
        batch_of(latents),
        noise,
        timesteps,
        NoiseSchedule.sdxl(prediction_type),
        ObjectiveConfig(min_snr_gamma=5),
    )

    for row, timestep in enumerate(timesteps.tolist()):
        prediction = noisy[row] * 0.5 + timestep / 1000
        alpha = reference.alphas_cumprod[timestep].item()
        snr = alpha / (1 - alpha)
        weight = min(snr, 5) / (snr if prediction_type == "epsilon" else snr + 1)
        expected = weight * ((prediction - target[row]) ** 2).mean().item()
        assert losses[row].item() == pytest.approx(expected, rel=1e-4)


def test_gamma_zero_turns_the_weights_off():
    latents = torch.zeros(SHAPE)
    noise, timesteps = torch.ones(SHAPE), torch.tensor([0, 500, 999])

    def losses(gamma):
        config = ObjectiveConfig(min_snr_gamma=gamma)
        predict = lambda noisy, steps, batch: torch.zeros_like(noisy)  # noqa: E731
        return denoising_losses(predict, batch_of(latents), noise, timesteps, NoiseSchedule.sdxl(), config)

    assert losses(0).tolist() == [1, 1, 1]
    assert losses(5)[0].item() == pytest.approx(5 / 1175, rel=1e-2)
    assert losses(5)[1:].tolist() == [1, 1]


def test_min_snr_reaches_the_published_share_of_timesteps():
    snr = NoiseSchedule.sdxl().snr(torch.arange(1000))
    weights = min_snr_weights(snr, 5.0, "epsilon")
    assert int((weights < 1).sum()) == 147
    assert weights.mean().item() == pytest.approx(0.917, abs=1e-3)


def test_v_weights_are_zero_not_nan_where_no_signal_is_left():
    weights = min_snr_weights(torch.tensor([0.0, 1.0, 100.0]), 5.0, "v_prediction")
    assert weights.tolist() == pytest.approx([0, 0.5, 5 / 101])


def test_losses_are_float32_and_their_gradient_reaches_the_prediction():
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    scale = torch.tensor(0.5, requires_grad=True)
    noise, timesteps = draw_noise(SHAPE, 0, 0, 1000)

    losses = denoising_losses(
        lambda noisy, steps, batch: (noisy * scale).bfloat16(),
        batch_of(latents),
        noise,
        timesteps,
        NoiseSchedule.sdxl(),
        ObjectiveConfig(),
    )
    losses.mean().backward()

    assert losses.shape == (3,)
    assert losses.dtype == torch.float32
    assert scale.grad is not None
    assert scale.grad.abs() > 0
