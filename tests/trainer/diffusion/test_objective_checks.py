import pytest
from sdxl_trainer.trainer.config import NoiseConfig, ObjectiveConfig
from sdxl_trainer.trainer.diffusion.noise_schedule import NoiseSchedule
from sdxl_trainer.trainer.diffusion.objective_checks import objective_notes, objective_problems

SCHEDULES = {
    "epsilon": NoiseSchedule.sdxl("epsilon"),
    "v_prediction": NoiseSchedule.sdxl("v_prediction"),
    "zero_snr": NoiseSchedule.sdxl("v_prediction", zero_terminal_snr=True),
    "edm": NoiseSchedule.edm(0.002, 80.0, 0.5),
}


def ask(function, model=None, noise=None, **values):
    return function(ObjectiveConfig(**values), NoiseConfig(**noise or {}), SCHEDULES.get(model))


@pytest.mark.parametrize("model", [None, "epsilon", "v_prediction", "zero_snr"])
def test_defaults_have_no_problems_and_no_notes(model):
    assert ask(objective_problems, model) == []
    assert ask(objective_notes, model) == []


PROBLEMS = [
    (None, {"debiased_estimation": True}, {}, ["min_snr_gamma", "debiased_estimation"]),
    (None, {"edm_training": True}, {}, ["min_snr_gamma", "edm_training"]),
    (
        None,
        {"edm_training": True, "min_snr_gamma": 0, "debiased_estimation": True},
        {},
        ["edm_training", "debiased_estimation"],
    ),
    (
        None,
        {"edm_training": True, "min_snr_gamma": 0, "loss": "huber"},
        {},
        ["edm_training", "loss is huber"],
    ),
    (
        None,
        {"prediction_type": "epsilon", "zero_terminal_snr": "on"},
        {},
        ["prediction_type", "epsilon", "zero_terminal_snr"],
    ),
    ("epsilon", {"zero_terminal_snr": "on"}, {}, ["prediction_type", "epsilon", "zero_terminal_snr"]),
    ("zero_snr", {"prediction_type": "epsilon"}, {}, ["prediction_type", "epsilon", "zero_terminal_snr"]),
    ("edm", {"prediction_type": "v_prediction"}, {}, ["EDM checkpoint", "prediction_type"]),
    ("edm", {"zero_terminal_snr": "on"}, {}, ["EDM checkpoint", "zero_terminal_snr"]),
    ("zero_snr", {}, {"timestep_min": 999}, ["timestep_min", "zero_terminal_snr", "min_snr_gamma"]),
    (
        "zero_snr",
        {"min_snr_gamma": 0, "edm_training": True},
        {"timestep_min": 999},
        ["timestep_min", "zero_terminal_snr", "edm_training"],
    ),
]


@pytest.mark.parametrize(("model", "values", "noise", "words"), PROBLEMS)
def test_combinations_that_cannot_work_are_one_sentence_with_both_names(model, values, noise, words):
    (problem,) = ask(objective_problems, model, noise, **values)
    assert all(word in problem for word in words)
    assert "set " in problem or "turn " in problem
    assert len(ask(objective_notes, model, noise, **values)) == 0


@pytest.mark.parametrize(
    ("model", "values", "noise"),
    [
        ("epsilon", {"debiased_estimation": True, "min_snr_gamma": 0}, {}),
        ("v_prediction", {"edm_training": True, "min_snr_gamma": 0}, {}),
        ("v_prediction", {"zero_terminal_snr": "on"}, {}),
        ("epsilon", {"zero_terminal_snr": "on", "prediction_type": "v_prediction"}, {}),
        ("zero_snr", {"zero_terminal_snr": "off", "prediction_type": "epsilon"}, {}),
        ("zero_snr", {"min_snr_gamma": 0}, {"timestep_min": 999}),
        ("edm", {"zero_terminal_snr": "off"}, {}),
        ("epsilon", {"loss": "huber"}, {"noise_offset": 0.05, "pyramid_iterations": 6}),
    ],
)
def test_combinations_that_work_are_no_problem(model, values, noise):
    assert ask(objective_problems, model, noise, **values) == []


NOTES = [
    ("epsilon", {"edm_training": True, "min_snr_gamma": 0}, {}, ["edm_training has no effect"]),
    ("edm", {"edm_training": True, "min_snr_gamma": 0}, {}, ["edm_training has no effect"]),
    ("edm", {}, {}, ["min_snr_gamma has no effect"]),
    ("edm", {"debiased_estimation": True, "min_snr_gamma": 0}, {}, ["debiased_estimation has no effect"]),
    ("edm", {"min_snr_gamma": 0, "zero_terminal_snr": "off"}, {}, ["zero_terminal_snr has no effect"]),
    ("zero_snr", {"zero_terminal_snr": "on"}, {}, ["zero_terminal_snr on has no effect"]),
    ("epsilon", {"zero_terminal_snr": "off"}, {}, ["zero_terminal_snr off has no effect"]),
    ("epsilon", {"prediction_type": "v_prediction"}, {}, ["prediction_type", "ModelSamplingDiscrete"]),
    ("v_prediction", {"zero_terminal_snr": "on"}, {}, ["trained with zero_terminal_snr", "zsnr"]),
    ("zero_snr", {"zero_terminal_snr": "off"}, {}, ["trained without zero_terminal_snr", "zsnr"]),
    ("epsilon", {"min_snr_gamma": 1000}, {"timestep_min": 100}, ["min_snr_gamma 1000 has no effect"]),
    ("epsilon", {"min_snr_gamma": 5}, {"timestep_min": 147}, ["min_snr_gamma 5 has no effect"]),
    (None, {"huber_c": 0.2}, {}, ["huber_c has no effect", "l2"]),
    (None, {"huber_schedule": "constant", "loss": "l1"}, {}, ["huber_schedule has no effect", "l1"]),
    (None, {"unmasked_weight": 1.0}, {}, ["unmasked_weight 1"]),
    (None, {}, {"pyramid_discount": 0.5}, ["pyramid_discount has no effect"]),
    (None, {}, {"pyramid_iterations": 1}, ["pyramid_iterations 1 has no effect"]),
    (None, {}, {"logit_mean": 0.5}, ["logit_mean has no effect", "uniform"]),
    (None, {}, {"logit_std": 0.5, "timestep_sampling": "style"}, ["logit_std has no effect", "style"]),
    (
        None,
        {},
        {"timestep_sampling": "style", "timestep_min": 9, "timestep_max": 9},
        ["timestep_sampling has no effect"],
    ),
]


@pytest.mark.parametrize(("model", "values", "noise", "words"), NOTES)
def test_settings_without_effect_say_so(model, values, noise, words):
    (note,) = ask(objective_notes, model, noise, **values)
    assert all(word in note for word in words)
    assert ask(objective_problems, model, noise, **values) == []


@pytest.mark.parametrize(
    ("model", "values", "noise"),
    [
        ("v_prediction", {"edm_training": True, "min_snr_gamma": 0}, {}),
        ("v_prediction", {"min_snr_gamma": 1000}, {"timestep_min": 100}),
        ("epsilon", {"min_snr_gamma": 5}, {"timestep_min": 146}),
        ("epsilon", {"loss": "huber", "huber_c": 0.2, "huber_schedule": "constant"}, {}),
        ("epsilon", {}, {"timestep_sampling": "logit_normal", "logit_mean": 1, "logit_std": 2}),
        ("epsilon", {}, {"pyramid_iterations": 2, "pyramid_discount": 0.5}),
        ("epsilon", {"prediction_type": "epsilon"}, {}),
    ],
)
def test_settings_with_effect_are_not_noted(model, values, noise):
    assert ask(objective_notes, model, noise, **values) == []
