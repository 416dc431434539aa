"""Every setting of a run changes what it should, and nothing else.

A case is two real runs of three steps on a very small UNet, one with the setting changed. All that the runs
show is compared: what the UNet was given in training, rates, weights, files, pictures (`watched_run.py`).
Exactly what the case names must differ. Settings of the dataset: test_dataset_settings_have_effect.py.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from sdxl_trainer.trainer.config import SECTIONS, TrainConfig
from sdxl_trainer.trainer.data.dataset_sets import with_class_images, with_masks
from sdxl_trainer.trainer.errors import InputError

NUMBERS = {"weights", "file"}
SHAPE = {*NUMBERS, "form"}
NOISE = {"noisy latents", *NUMBERS}
TIMES = {"timesteps", *NOISE}
RATE = {"rates", *NUMBERS}
BATCHES = {"noisy latents", "captions", "sizes", *NUMBERS}


@dataclass(frozen=True)
class Case:
    """`given` is set in both runs, `value` in the second alone; `model` and `dataset` are for both."""

    value: object
    changes: set
    given: dict = field(default_factory=dict)
    dataset: str = "plain"
    model: str = "epsilon"


PRODIGY = {
    "optimizer.optimizer": "prodigy",
    "optimizer.learning_rate": 1.0,
    "optimizer.lr_schedule": "constant",
    # so that the rate is found within a few steps
    "prodigy.d_coef": 100.0,
    "prodigy.beta3": 0.5,
    "steps": 8,
    "batch_size": 5,
    "noise.timestep_min": 800,
    "noise.timestep_max": 800,
    # weights as small as those of the first steps are written as fp32 anyway
    "run.save_precision": "fp32",
}
DRAWN = {"preview.preview_every": 3, "preview.steps": 2}
HELD_OUT = {"validation.validation_share": 0.4}
TEXT_LORA = {"text_encoder.train_text_encoder": "both", "run.save_precision": "fp32"}
TOKENS = {"pivotal.token": "TOK", "pivotal.learning_rate": 2e-2, "steps": 4}
# what changes the text changes what the UNet is given, and what it learns from it
OF_TEXT = {"captions", "text LoRA", *NUMBERS}
OF_TOKENS = {"captions", "tokens", *NUMBERS}
CASES = {
    "steps": Case(4, {"timesteps", "rates", "file names", *BATCHES}),
    "batch_size": Case(2, {"timesteps", *BATCHES}),
    "seed": Case(43, {"timesteps", *BATCHES}),
    "name": Case("dog", {"file names"}),
    "lora.rank": Case(3, SHAPE),
    "lora.alpha": Case(1.0, NUMBERS),
    "lora.targets": Case("attention+ff", SHAPE),
    "lora.adapter": Case("loha", SHAPE),
    "lora.rank_stabilized": Case(True, NUMBERS),
    "lora.dropout": Case(0.5, NUMBERS),
    "lora.rank_dropout": Case(0.5, NUMBERS),
    "lora.module_dropout": Case(0.5, NUMBERS),
    "lora.blocks": Case("style", SHAPE),
    "lora.block_ranks": Case("middle_block=0", SHAPE),
    "lora.lokr_factor": Case(2, SHAPE, {"lora.adapter": "lokr"}),
    "optimizer.learning_rate": Case(2e-2, RATE),
    "optimizer.lr_schedule": Case("cosine", RATE),
    "optimizer.warmup_steps": Case(2, RATE),
    "optimizer.weight_decay": Case(0.9, NUMBERS),
    "optimizer.beta1": Case(0.5, NUMBERS),
    "optimizer.beta2": Case(0.5, NUMBERS),
    "optimizer.eps": Case(1e-3, NUMBERS),
    "optimizer.max_grad_norm": Case(1e-3, NUMBERS),
    "optimizer.optimizer": Case("lion", NUMBERS),
    "optimizer.lora_plus_ratio": Case(4.0, NUMBERS),
    "optimizer.scale_lr": Case(True, RATE, {"batch_size": 2}),
    "optimizer.ema_decay": Case(0.5, {"file"}),
    "schedule.warmup_share": Case(0.7, RATE),
    "schedule.num_cycles": Case(2, RATE, {"optimizer.lr_schedule": "cosine_with_restarts"}),
    "schedule.power": Case(2.0, RATE, {"optimizer.lr_schedule": "polynomial"}),
    "prodigy.d_coef": Case(50.0, RATE, PRODIGY),
    "prodigy.d0": Case(1e-5, RATE, PRODIGY),
    "prodigy.beta3": Case(0.8, RATE, PRODIGY),
    "prodigy.decouple": Case(False, RATE, {**PRODIGY, "optimizer.weight_decay": 0.5}),
    "prodigy.use_bias_correction": Case(False, RATE, PRODIGY),
    "prodigy.safeguard_warmup": Case(False, RATE, {**PRODIGY, "optimizer.warmup_steps": 4}),
    "objective.min_snr_gamma": Case(0.5, NUMBERS),
    "objective.caption_dropout": Case(0.9, {"captions", *NUMBERS}),
    "objective.size_conditioning": Case("true", {"sizes", *NUMBERS}),
    "objective.prediction_type": Case("v_prediction", NUMBERS),
    "objective.zero_terminal_snr": Case("on", NOISE, model="v_prediction"),
    "objective.edm_training": Case(True, NUMBERS, {"objective.min_snr_gamma": 0.0}, model="v_prediction"),
    "objective.loss": Case("l1", NUMBERS),
    "objective.huber_c": Case(0.3, NUMBERS, {"objective.loss": "huber"}),
    "objective.huber_schedule": Case("constant", NUMBERS, {"objective.loss": "smooth_l1"}),
    "objective.debiased_estimation": Case(True, NUMBERS, {"objective.min_snr_gamma": 0.0}),
    "objective.unmasked_weight": Case(0.2, NUMBERS, dataset="masked"),
    "objective.mask_normalization": Case("mean", NUMBERS, dataset="masked"),
    "noise.noise_offset": Case(0.1, NOISE),
    "noise.pyramid_iterations": Case(4, NOISE),
    "noise.pyramid_discount": Case(0.8, NOISE, {"noise.pyramid_iterations": 4}),
    "noise.input_perturbation": Case(0.1, NOISE),
    "noise.timestep_sampling": Case("content", TIMES),
    "noise.timestep_min": Case(900, TIMES),
    "noise.timestep_max": Case(100, TIMES),
    "noise.logit_mean": Case(1.0, TIMES, {"noise.timestep_sampling": "logit_normal"}),
    "noise.logit_std": Case(0.1, TIMES, {"noise.timestep_sampling": "logit_normal"}),
    "prior.prior_preservation": Case("off", {"timesteps", *BATCHES}, dataset="class"),
    "prior.prior_loss_weight": Case(0.5, NUMBERS, dataset="class"),
    "prior.class_prompt": Case(
        "a cat",
        {"captions", *NUMBERS},
        {"prior.prior_preservation": "base_model", "prior.class_prompt": "a dog"},
    ),
    "preview.prompts": Case("a\nb", {"pictures", "file names"}, DRAWN),
    "preview.negative": Case("a", {"pictures"}, DRAWN),
    "preview.steps": Case(3, {"pictures"}, DRAWN),
    "preview.guidance": Case(2.0, {"pictures"}, DRAWN),
    "preview.seed": Case(2, {"pictures"}, DRAWN),
    "preview.preview_every": Case(3, {"pictures", "file names"}, {"preview.steps": 2}),
    "preview.width": Case(64, {"pictures"}, {**DRAWN, "preview.width": 128, "preview.height": 128}),
    "preview.height": Case(64, {"pictures"}, {**DRAWN, "preview.width": 128, "preview.height": 128}),
    "validation.validation_share": Case(0.4, {"held-out loss", *BATCHES}),
    "validation.validate_every": Case(1, {"held-out loss"}, HELD_OUT),
    "validation.early_stop_patience": Case(
        1,
        {"timesteps", "rates", "held-out loss", "file names", *BATCHES},
        {**HELD_OUT, "validation.validate_every": 1, "optimizer.learning_rate": 5.0, "steps": 4},
    ),
    "validation.keep_best": Case(
        False,
        {"file names"},
        {**HELD_OUT, "run.save_every": 1, "run.keep_last": 1, "optimizer.learning_rate": 5.0},
    ),
    "run.save_every": Case(1, {"file names"}),
    "run.keep_last": Case(1, {"file names"}, {"run.save_every": 1}),
    "run.gradient_accumulation": Case(2, {"timesteps", *BATCHES}),
    "run.gradient_checkpointing": Case("on", {"memory"}),
    "run.save_every_epochs": Case(1, {"file names"}, {"batch_size": 5}),
    "run.save_precision": Case("fp32", {"file", "form"}),
    "run.save_diffusers": Case(True, {"file names"}),
    "logging.tracker": Case("tensorboard", {"file names"}),
    "text_encoder.train_text_encoder": Case("both", {"form", *OF_TEXT}),
    "text_encoder.clip_l_learning_rate": Case(1e-3, OF_TEXT, TEXT_LORA),
    "text_encoder.clip_g_learning_rate": Case(1e-3, OF_TEXT, TEXT_LORA),
    "text_encoder.weight_decay": Case(0.9, OF_TEXT, TEXT_LORA),
    "text_encoder.stop_fraction": Case(0.4, OF_TEXT, TEXT_LORA),
    "text_encoder.text_encoder_rank": Case(1, {"form", *OF_TEXT}, TEXT_LORA),
    "pivotal.token": Case("TOK", {"file names", "rates", *OF_TOKENS}, {"steps": 4}, "words"),
    "pivotal.new_tokens": Case("1", {*OF_TOKENS}, TOKENS, "words"),
    "pivotal.initial_words": Case("cat", OF_TOKENS, TOKENS, "words"),
    "pivotal.ti_fraction": Case(0.25, {"rates", *OF_TOKENS}, TOKENS, "words"),
    "pivotal.learning_rate": Case(1e-3, {"rates", *OF_TOKENS}, TOKENS, "words"),
    "pivotal.optimizer": Case("sgd", OF_TOKENS, TOKENS, "words"),
    "pivotal.weight_decay": Case(0.9, OF_TOKENS, TOKENS, "words"),
    "pivotal.norm_pull": Case(0.9, OF_TOKENS, TOKENS, "words"),
    "pivotal.train_first": Case("tokens+lora", {"rates", *OF_TOKENS}, TOKENS, "words"),
    "pivotal.add_token": Case(True, OF_TOKENS, {**TOKENS, "steps": 10}, "words"),
    "pivotal.bundle": Case(True, {"file", "form"}, TOKENS, "words"),
}
REFUSED = {
    "run.precision": ("bf16", "precision is bf16, but the model is held in fp32"),
    "run.resume_from_step": (2, "2"),
}
"""Settings that ask for what the model or the folder must have: value, and how it is refused."""
ELSEWHERE = {
    "resume": "trainer/runs/test_run.py::test_asked_for_a_new_run_it_never_goes_on",
    "run.cache_encoded": "trainer/test_cached_runs.py::test_switched_off_nothing_is_written_or_read",
    "preview.sampler": "host/test_live_preview.py::"
    "test_a_live_picture_is_what_ksampler_draws_with_the_saved_lora",
    "preview.scheduler": "host/test_live_preview.py::"
    "test_a_live_picture_is_what_ksampler_draws_with_the_saved_lora",
    "logging.project": "trainer/runs/test_trackers.py::"
    "test_wandb_offline_gets_the_figures_and_no_place_of_this_machine",
    "logging.hub_model_id": "trainer/runs/test_hub.py::"
    "test_the_lora_its_card_and_its_pictures_are_uploaded_once",
    "logging.hub_private": "trainer/runs/test_hub.py::test_a_repository_is_public_where_that_is_asked_for",
}
"""Settings that only another program or a second run shows, and the test that looks there."""
PACKAGES = {"prodigy": "prodigyopt", "optimizer.optimizer": "lion_pytorch", "logging.tracker": "tensorboard"}
"""What the cases of a section or setting need beside the requirements."""


@pytest.fixture(scope="module")
def datasets(tiny_run, tmp_path_factory):
    """Five pictures of two shapes, as they are, with masks, with class images, with TOK in the captions."""
    folder = tmp_path_factory.mktemp("datasets")
    plain = tiny_run.tiny_dataset(folder, crop="random")
    tiny_run.draw_pictures(folder / "classes" / "pictures", 4, seed=9)
    class_set = tiny_run.tiny_dataset(folder / "classes")
    masks = [[[float(row + column < 40) for column in range(64)] for row in range(64)]]
    captions = ["TOK", "a TOK", "no such word", "one TOK", "TOK in it"]
    tiny_run.draw_pictures(folder / "words" / "pictures", captions=captions)
    return {
        "plain": plain,
        "words": tiny_run.tiny_dataset(folder / "words"),
        "masked": with_masks(plain, torch.tensor(masks)),
        "class": with_class_images(plain, class_set),
    }


@pytest.fixture(scope="module")
def shown(watched_run, datasets, tmp_path_factory):
    """Runs by their settings; what several cases start from is trained once."""
    finished = {}

    def run(dataset, model, changes):
        key = (dataset, model, *sorted(changes.items()))
        if key not in finished:
            folder = tmp_path_factory.mktemp("run")
            finished[key] = watched_run.run_watched(folder, datasets[dataset], changes, model)
        return finished[key]

    return run


@pytest.mark.parametrize("place", CASES)
def test_a_setting_changes_what_it_should_and_nothing_else(watched_run, shown, place):
    case = CASES[place]
    needed = PACKAGES.get(place, PACKAGES.get(place.partition(".")[0]))
    if needed:
        pytest.importorskip(needed)
    # dropout of captions would hide which caption is trained
    given = {"objective.caption_dropout": 0.0, **case.given}
    before = shown(case.dataset, case.model, given)
    after = shown(case.dataset, case.model, {**given, place: case.value})
    assert watched_run.differences(before, after) == case.changes


@pytest.mark.parametrize("place", REFUSED)
def test_a_setting_asks_for_what_must_be_there(watched_run, datasets, tmp_path, place):
    value, said = REFUSED[place]
    with pytest.raises(InputError, match=said):
        watched_run.run_watched(tmp_path, datasets["plain"], {place: value})


def test_every_setting_has_a_case():
    plain = {f.name for f in dataclasses.fields(TrainConfig)} - set(SECTIONS)
    known = plain | {f"{name}.{f.name}" for name, kind in SECTIONS.items() for f in dataclasses.fields(kind)}
    assert known == {*CASES, *REFUSED, *ELSEWHERE}
    assert len(known) == len(CASES) + len(REFUSED) + len(ELSEWHERE)


@pytest.mark.parametrize("place", ELSEWHERE)
def test_what_has_its_test_elsewhere_is_tested_there(place):
    file, _, name = ELSEWHERE[place].partition("::")
    text = (Path(__file__).resolve().parents[1] / file).read_text("utf-8")
    body = text.partition(f"def {name}(")[2].partition("\ndef ")[0]
    assert place.rpartition(".")[2] in body or "PUSH" in body
