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


def test_edm_checkpoints_are_refused_by_name(schedules, loading):
    from sdxl_trainer.trainer.errors import InputError

    model = loading.load_model(extra_keys={"edm_vpred.sigma_max": torch.tensor(120.0)})
    with pytest.raises(InputError, match="ModelSamplingContinuousEDM"):
        schedules.noise_schedule(model)


def patched(model, sampling):
    """What core's ModelSamplingDiscrete node gives out."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(model, sampling, zsnr=False)[0]
