import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from sdxl_trainer.trainer.config import ObjectiveConfig
from sdxl_trainer.trainer.diffusion.loss_weights import (
    debiased_weights,
    edm_weights,
    min_snr_weights,
    timestep_weights,
)
from sdxl_trainer.trainer.diffusion.noise_schedule import NoiseSchedule

TIMESTEPS = torch.tensor([0, 500, 999])
KINDS = ("epsilon", "v_prediction")


def weights(kind, zero_terminal_snr=False, timesteps=TIMESTEPS, **values):
    config = ObjectiveConfig(**{"min_snr_gamma": 0, **values})
    return timestep_weights(NoiseSchedule.sdxl(kind, zero_terminal_snr), timesteps, config)


def reference_snr(**options):
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **options)
    return compute_snr(scheduler, TIMESTEPS)


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr_equals_diffusers_text_to_image_script(gamma):
    """T:1191, train_text_to_image_lora_sdxl.py: min(snr, gamma) / snr, and / (snr + 1) for v."""
    snr = reference_snr()
    capped = torch.stack([snr, gamma * torch.ones_like(snr)], dim=1).min(dim=1)[0]
    for kind, divisor in (("epsilon", snr), ("v_prediction", snr + 1)):
        torch.testing.assert_close(weights(kind, min_snr_gamma=gamma), capped / divisor, rtol=1e-4, atol=0)


def test_min_snr_reaches_the_published_share_of_timesteps():
    found = weights("epsilon", timesteps=torch.arange(1000), min_snr_gamma=5)
    assert int((found < 1).sum()) == 147
    assert found.mean().item() == pytest.approx(0.917, abs=1e-3)


def test_min_snr_weighs_the_error_of_the_clean_latents_alike_for_both_kinds():
    """The paper's weight is one on x0, whatever the network predicts: min(snr, gamma) x error(x0)^2."""
    snr = NoiseSchedule.sdxl().snr(torch.arange(1000))
    on_x0_epsilon = min_snr_weights(snr, 5, "epsilon") * snr
    on_x0_v = min_snr_weights(snr, 5, "v_prediction") * (snr + 1)
    torch.testing.assert_close(on_x0_epsilon, on_x0_v)
    torch.testing.assert_close(on_x0_v, snr.clamp(max=5))


def test_debiased_estimation_equals_its_sources():
    snr = reference_snr()
    kohya = 1 / torch.sqrt(torch.minimum(snr, torch.ones_like(snr) * 1000))  # apply_debiased_estimation
    torch.testing.assert_close(weights("epsilon", debiased_estimation=True), kohya, rtol=1e-4, atol=0)
    assert kohya[0].item() == pytest.approx(1000**-0.5)  # the cap acts at t = 0

    onetrainer = torch.rsqrt(torch.clip(snr, max=1e3) + 1.0)  # __debiased_estimation_weight
    torch.testing.assert_close(
        weights("v_prediction", debiased_estimation=True), onetrainer, rtol=1e-4, atol=0
    )


def test_edm_weights_equal_diffusers_script_for_both_kinds():
    """D:1776-1798, train_dreambooth_lora_sdxl.py: sigma^-2 (x0_pred - x0)^2, its gradient too."""
    generator = torch.Generator().manual_seed(0)
    latents, noise, output = (torch.randn(3, 4, 8, 8, generator=generator).double() for _ in range(3))
    for kind in KINDS:
        schedule = NoiseSchedule.sdxl(kind)
        alphas_cumprod = schedule.alphas_cumprod[TIMESTEPS].double().view(-1, 1, 1, 1)
        sigmas = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
        noisy = latents + sigmas * noise
        first, second = output.clone().requires_grad_(), output.clone().requires_grad_()
        if kind == "epsilon":
            x0 = first * (-sigmas) + noisy
        else:
            x0 = first * (-sigmas / (sigmas**2 + 1) ** 0.5) + noisy / (sigmas**2 + 1)
        expected = (sigmas**-2.0 * (x0 - latents) ** 2).flatten(1).mean(1)

        plain = (second - schedule.target(latents, noise, TIMESTEPS)).square().flatten(1).mean(1)
        found = plain * weights(kind, edm_training=True)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
        gradients = [
            torch.autograd.grad(loss.sum(), at)[0] for loss, at in ((expected, first), (found, second))
        ]
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-7)


def test_without_a_rule_there_are_no_weights():
    assert weights("epsilon") is None
    assert weights("v_prediction", loss="huber") is None


def test_edm_checkpoints_keep_the_weights_they_are_trained_with():
    schedule = NoiseSchedule.edm(0.002, 80.0, 0.5)
    for values in (
        {},
        {"min_snr_gamma": 0, "debiased_estimation": True},
        {"min_snr_gamma": 0, "edm_training": True},
    ):
        assert timestep_weights(schedule, TIMESTEPS, ObjectiveConfig(**values)) is None


RULES = {
    "min_snr": {"min_snr_gamma": 5},
    "debiased": {"debiased_estimation": True},
    "edm": {"edm_training": True},
}


@pytest.mark.parametrize("rule", RULES)
def test_weights_are_finite_where_no_signal_is_left(rule):
    found = weights("v_prediction", zero_terminal_snr=True, timesteps=torch.arange(1000), **RULES[rule])
    assert bool(found.isfinite().all())
    sigmas = torch.linspace(0.03, 20, 1000)
    sigmas[-1] = torch.inf
    schedule = NoiseSchedule.from_sigmas(sigmas, "v_prediction")
    last = timestep_weights(schedule, TIMESTEPS, ObjectiveConfig(**{"min_snr_gamma": 0, **RULES[rule]}))[-1]
    assert last.item() == (1 if rule == "debiased" else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_formulas_are_finite_at_an_snr_of_zero_and_of_infinity(kind):
    snr = torch.tensor([0.0, 1e-30, 1e30])
    for found in (min_snr_weights(snr, 5, kind), debiased_weights(snr, kind), edm_weights(snr, kind)):
        assert bool(found.isfinite().all())


def test_the_snr_is_that_of_the_rescaled_schedule():
    """kohya computes its table before it fixes the betas; the weights must not."""
    plain = weights("v_prediction", min_snr_gamma=5)
    rescaled = weights("v_prediction", zero_terminal_snr=True, min_snr_gamma=5)
    snr = reference_snr(rescale_betas_zero_snr=True)[1]
    assert rescaled[1].item() == pytest.approx((min(snr, 5) / (snr + 1)).item(), rel=1e-3)
    assert not torch.allclose(plain[1], rescaled[1], rtol=1e-2)
