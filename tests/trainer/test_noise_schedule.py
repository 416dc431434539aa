import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.noise_schedule import NoiseSchedule

TIMESTEPS = torch.tensor([0, 500, 999])


def reference(**options):
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **options)


@pytest.fixture
def mixture():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, 8, 6, generator=generator), torch.randn(3, 4, 8, 6, generator=generator)


def test_noisy_latents_and_velocity_equal_diffusers(mixture):
    latents, noise = mixture
    schedule = NoiseSchedule.sdxl("v_prediction")

    noisy = schedule.add_noise(latents, noise, TIMESTEPS)
    velocity = schedule.velocity(latents, noise, TIMESTEPS)

    torch.testing.assert_close(noisy, reference().add_noise(latents, noise, TIMESTEPS), rtol=1e-5, atol=1e-6)
    expected = reference().get_velocity(latents, noise, TIMESTEPS)
    torch.testing.assert_close(velocity, expected, rtol=1e-5, atol=1e-6)


def test_snr_equals_diffusers_and_the_published_ends():
    snr = NoiseSchedule.sdxl().snr(TIMESTEPS)

    torch.testing.assert_close(snr, compute_snr(reference(), TIMESTEPS), rtol=1e-4, atol=0)
    assert snr[0].item() == pytest.approx(1175, rel=1e-3)
    assert snr[-1].item() == pytest.approx(0.00468, rel=1e-3)


def test_target_follows_the_prediction_type(mixture):
    latents, noise = mixture
    v_schedule = NoiseSchedule.sdxl("v_prediction")

    assert torch.equal(NoiseSchedule.sdxl("epsilon").target(latents, noise, TIMESTEPS), noise)
    v_target = v_schedule.target(latents, noise, TIMESTEPS)
    assert torch.equal(v_target, v_schedule.velocity(latents, noise, TIMESTEPS))


def test_sigmas_table_gives_the_same_schedule_back():
    own = NoiseSchedule.sdxl()
    sigmas = ((1 - own.alphas_cumprod) / own.alphas_cumprod).sqrt()

    rebuilt = NoiseSchedule.from_sigmas(sigmas, "epsilon")

    torch.testing.assert_close(rebuilt.alphas_cumprod, own.alphas_cumprod, rtol=1e-5, atol=1e-8)
    assert sigmas[0].item() == pytest.approx(0.0292, abs=1e-4)
    assert sigmas[-1].item() == pytest.approx(14.615, abs=1e-3)


def test_zero_terminal_snr_equals_diffusers_but_for_the_last_trace_of_signal():
    schedule = NoiseSchedule.sdxl("v_prediction", zero_terminal_snr=True)
    expected = reference(rescale_betas_zero_snr=True).alphas_cumprod

    torch.testing.assert_close(schedule.alphas_cumprod, expected, rtol=1e-3, atol=1e-6)
    assert 0 < schedule.alphas_cumprod[-1].item() < 1e-7


def test_infinite_last_sigma_is_safe_for_v_prediction(mixture):
    latents, noise = mixture
    sigmas = torch.linspace(0.03, 20, 1000)
    sigmas[-1] = torch.inf
    schedule = NoiseSchedule.from_sigmas(sigmas, "v_prediction")

    assert schedule.snr(TIMESTEPS)[-1] == 0
    assert torch.equal(schedule.add_noise(latents, noise, TIMESTEPS)[-1], noise[-1])
    assert torch.equal(schedule.target(latents, noise, TIMESTEPS)[-1], -latents[-1])


def test_epsilon_with_zero_terminal_snr_is_refused():
    with pytest.raises(InputError, match="v_prediction"):
        NoiseSchedule.sdxl("epsilon", zero_terminal_snr=True)


@pytest.mark.parametrize("sigmas", [torch.linspace(0.03, 14, 50), torch.linspace(14, 0.03, 1000)])
def test_patched_sigma_tables_are_refused(sigmas):
    with pytest.raises(InputError, match="1000 rising sigmas"):
        NoiseSchedule.from_sigmas(sigmas, "epsilon")
