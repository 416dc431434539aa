import math

import pytest
import torch
from diffusers import DDPMScheduler
from sdxl_trainer.trainer.config import ObjectiveConfig
from sdxl_trainer.trainer.diffusion.loss_kinds import distance, huber_threshold
from sdxl_trainer.trainer.diffusion.noise_schedule import NoiseSchedule

TIMESTEPS = torch.tensor([0, 500, 999])
SCHEDULE = NoiseSchedule.sdxl()


def pair():
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(3, 4, 8, 6, generator=generator)
    return prediction.requires_grad_(), torch.randn(3, 4, 8, 6, generator=generator)


def kohya_threshold(timesteps, c, schedule):
    """sd-scripts 48d368f, library/train_util.py, get_huber_threshold_if_needed (huber_scale 1)."""
    reference = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    if schedule == "exponential":
        return torch.exp(math.log(c) / 1000 * timesteps)
    if schedule == "constant":
        return torch.full((len(timesteps),), c)
    alphas_cumprod = torch.index_select(reference.alphas_cumprod, 0, timesteps)
    sigmas = ((1.0 - alphas_cumprod) / alphas_cumprod) ** 0.5
    return (1 - c) / (1 + sigmas) ** 2 + c


def kohya_loss(prediction, target, loss, c):
    """The same file, conditional_loss."""
    if loss == "l2":
        return torch.nn.functional.mse_loss(prediction, target, reduction="none")
    if loss == "l1":
        return torch.nn.functional.l1_loss(prediction, target, reduction="none")
    c = c.view(-1, 1, 1, 1)
    rounded = torch.sqrt((prediction - target) ** 2 + c**2) - c
    return 2 * c * rounded if loss == "huber" else 2 * rounded


@pytest.mark.parametrize("schedule", ["snr", "exponential", "constant"])
@pytest.mark.parametrize("c", [0.05, 0.1, 0.5])
def test_thresholds_equal_kohyas(schedule, c):
    found = huber_threshold(SCHEDULE, TIMESTEPS, ObjectiveConfig(huber_c=c, huber_schedule=schedule))
    torch.testing.assert_close(found, kohya_threshold(TIMESTEPS, c, schedule), rtol=1e-4, atol=0)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("loss", ["l2", "l1", "smooth_l1", "huber"])
@pytest.mark.parametrize("schedule", ["snr", "exponential", "constant"])
def test_losses_and_gradients_equal_kohyas(loss, schedule):
    config = ObjectiveConfig(loss=loss, huber_schedule=schedule)
    prediction, target = pair()
    found = distance(prediction, target, TIMESTEPS, SCHEDULE, config)
    (gradient,) = torch.autograd.grad(found.sum(), prediction)

    again, _ = pair()
    expected = kohya_loss(again, target, loss, kohya_threshold(TIMESTEPS, 0.1, schedule))
    (expected_gradient,) = torch.autograd.grad(expected.sum(), again)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_huber_is_squared_for_small_errors_and_plain_for_large_ones():
    config = ObjectiveConfig(loss="huber", huber_schedule="constant", huber_c=0.1)
    small, large = torch.full((1, 1), 1e-3), torch.full((1, 1), 100.0)
    zero, first = torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64)
    assert distance(small, zero, first, SCHEDULE, config).item() == pytest.approx(1e-6, rel=1e-2)
    assert distance(large, zero, first, SCHEDULE, config).item() == pytest.approx(2 * 0.1 * 100, rel=1e-2)


def test_schedules_fall_with_noise():
    for schedule in ("snr", "exponential"):
        config = ObjectiveConfig(huber_schedule=schedule)
        thresholds = huber_threshold(SCHEDULE, torch.arange(1000), config)
        assert bool((thresholds.diff() < 0).all())
        assert thresholds[0].item() == pytest.approx(1, abs=0.06)
    assert thresholds[-1].item() == pytest.approx(0.1, rel=0.01)


def test_a_last_timestep_without_signal_has_the_plain_threshold():
    sigmas = torch.linspace(0.03, 20, 1000)
    sigmas[-1] = torch.inf
    schedule = NoiseSchedule.from_sigmas(sigmas, "v_prediction")
    assert huber_threshold(schedule, TIMESTEPS, ObjectiveConfig())[-1].item() == pytest.approx(0.1)


@pytest.mark.parametrize("loss", ["l2", "l1", "smooth_l1", "huber"])
def test_half_precision_is_compared_in_float32(loss):
    prediction, target = pair()
    found = distance(prediction.detach().bfloat16(), target, TIMESTEPS, SCHEDULE, ObjectiveConfig(loss=loss))
    exact = distance(
        prediction.detach().bfloat16().float(), target, TIMESTEPS, SCHEDULE, ObjectiveConfig(loss=loss)
    )
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)
