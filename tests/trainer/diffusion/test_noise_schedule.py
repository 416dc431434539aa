import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler
from diffusers.training_utils import compute_snr
from sdxl_trainer.trainer.config import ObjectiveConfig
from sdxl_trainer.trainer.diffusion.noise_schedule import NoiseSchedule, schedule_for
from sdxl_trainer.trainer.errors import InputError

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


def edm_sigmas(schedule, timesteps):
    return (schedule.c_noise[timesteps].double() * 4).exp()


def test_edm_equals_diffusers_preconditioning(mixture):
    """Input, told noise level, and a target that brings back exactly the clean latents."""
    latents, noise = mixture
    schedule = NoiseSchedule.edm(0.002, 80.0, sigma_data=0.5)
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    sigmas = edm_sigmas(schedule, TIMESTEPS).view(-1, 1, 1, 1)
    noisy = latents.double() + sigmas * noise

    found = schedule.add_noise(latents, noise, TIMESTEPS)
    torch.testing.assert_close(
        found.double(), scheduler.precondition_inputs(noisy, sigmas), rtol=1e-3, atol=1e-4
    )

    target = schedule.target(latents, noise, TIMESTEPS).double()
    clean = scheduler.precondition_outputs(noisy, target, sigmas)
    torch.testing.assert_close(clean, latents.double(), rtol=1e-3, atol=1e-3)

    told = schedule.model_timesteps(TIMESTEPS)
    expected = scheduler.precondition_noise(sigmas.flatten()).float()
    torch.testing.assert_close(told, expected, rtol=1e-5, atol=1e-6)


def test_edm_levels_are_spread_as_karras_draws_them():
    """ln sigma ~ N(-1.2, 1.2^2): table 1 of arXiv 2206.00364."""
    schedule = NoiseSchedule.edm(0.002, 80.0, 0.5)
    logs = schedule.c_noise.double() * 4
    assert bool((logs.diff() > 0).all())
    assert logs.mean().item() == pytest.approx(-1.2, abs=1e-3)
    assert logs.std().item() == pytest.approx(1.2, rel=5e-3)
    assert ((logs + 1.2).abs() < 1.2).double().mean().item() == pytest.approx(0.6827, abs=2e-3)
    drawn = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.2 - 1.2
    levels = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
    torch.testing.assert_close(logs.quantile(levels), drawn.quantile(levels), rtol=0, atol=0.03)


def test_edm_stays_within_the_models_sigmas():
    logs = NoiseSchedule.edm(0.1, 2.0, 0.5).c_noise * 4
    assert logs.exp().min().item() == pytest.approx(0.1, rel=1e-4)
    assert logs.exp().max().item() == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize(
    "values", [(0.0, 80.0, 0.5), (2.0, 1.0, 0.5), (0.1, float("inf"), 0.5), (0.1, 80.0, 0.0)]
)
def test_impossible_edm_ranges_are_refused(values):
    with pytest.raises(InputError, match="ModelSamplingContinuousEDM"):
        NoiseSchedule.edm(*values)


def test_moving_keeps_all_of_a_schedule(mixture):
    schedule = NoiseSchedule.edm(0.002, 80.0, 0.5)
    moved = schedule.to("cpu")
    assert (moved.prediction_type, moved.sigma_data) == ("edm", 0.5)
    assert torch.equal(moved.add_noise(*mixture, TIMESTEPS), schedule.add_noise(*mixture, TIMESTEPS))
    assert torch.equal(moved.c_noise, schedule.c_noise)


def test_auto_keeps_the_models_schedule():
    for schedule in (
        NoiseSchedule.sdxl(),
        NoiseSchedule.sdxl("v_prediction", zero_terminal_snr=True),
        NoiseSchedule.edm(0.002, 80.0, 0.5),
    ):
        found = schedule_for(schedule, ObjectiveConfig())
        assert found.prediction_type == schedule.prediction_type
        assert torch.equal(found.alphas_cumprod, schedule.alphas_cumprod)
        assert found.c_noise is schedule.c_noise


def test_prediction_type_is_overridden():
    found = schedule_for(NoiseSchedule.sdxl(), ObjectiveConfig(prediction_type="v_prediction"))
    assert found.prediction_type == "v_prediction"
    assert torch.equal(found.alphas_cumprod, NoiseSchedule.sdxl().alphas_cumprod)
    back = schedule_for(NoiseSchedule.sdxl("v_prediction"), ObjectiveConfig(prediction_type="epsilon"))
    assert back.prediction_type == "epsilon"


def test_zero_terminal_snr_on_and_off():
    plain, zero = (
        NoiseSchedule.sdxl("v_prediction"),
        NoiseSchedule.sdxl("v_prediction", zero_terminal_snr=True),
    )
    on, off = (ObjectiveConfig(zero_terminal_snr=choice) for choice in ("on", "off"))
    expected = reference(rescale_betas_zero_snr=True).alphas_cumprod
    torch.testing.assert_close(schedule_for(plain, on).alphas_cumprod, expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(schedule_for(zero, off).alphas_cumprod, reference().alphas_cumprod)
    assert torch.equal(schedule_for(zero, on).alphas_cumprod, zero.alphas_cumprod)
    assert torch.equal(schedule_for(plain, off).alphas_cumprod, plain.alphas_cumprod)
    # its table of signal-to-noise ratios is that after the rescaling
    torch.testing.assert_close(
        schedule_for(plain, on).snr(TIMESTEPS)[1:2],
        compute_snr(reference(rescale_betas_zero_snr=True), TIMESTEPS)[1:2],
        rtol=1e-3,
        atol=0,
    )


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (NoiseSchedule.sdxl(), {"zero_terminal_snr": "on"}),
        (NoiseSchedule.sdxl("v_prediction"), {"zero_terminal_snr": "on", "prediction_type": "epsilon"}),
        (NoiseSchedule.sdxl("v_prediction", zero_terminal_snr=True), {"prediction_type": "epsilon"}),
        (NoiseSchedule.edm(0.002, 80.0, 0.5), {"prediction_type": "epsilon"}),
        (NoiseSchedule.edm(0.002, 80.0, 0.5), {"zero_terminal_snr": "on"}),
    ],
)
def test_impossible_schedules_are_refused_with_both_names(schedule, values):
    with pytest.raises(InputError, match=r"(?s)prediction_type.*zero_terminal_snr"):
        schedule_for(schedule, ObjectiveConfig(**values))
