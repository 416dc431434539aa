"""The held-out loss: what it is, that it disturbs nothing, and what a run makes of it."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.diffusion.noise_draw import fixed_draw
from sdxl_trainer.trainer.errors import CancelledError, InputError
from sdxl_trainer.trainer.files.lora_file import read_lora
from sdxl_trainer.trainer.runs.validation import SEED, TIMESTEPS, HeldOutLosses
from sdxl_trainer.trainer.sdxl.sdxl_model import HeadlessSDXL

SHARE = {"validation_share": 0.2}
STEPS, EVERY, PATIENCE = 32, 2, 2
OVERTRAINED = {"steps": STEPS, "optimizer": {"learning_rate": 0.4, "warmup_steps": STEPS}}
"""The rate rises until it destroys what was learned; at which step is not the same on every CPU."""


def measured(tiny_run, folder, **values):
    listener = tiny_run.StopAfter()
    result = tiny_run.run_tiny(folder, listener, **values)
    return result, listener


@pytest.fixture(scope="module")
def overtrained(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("overtrained")
    values = {"validation": {**SHARE, "validate_every": EVERY}, "run": {"save_every": 8, "keep_last": 1}}
    return folder, *measured(tiny_run, folder, **values, **OVERTRAINED)


@pytest.fixture(scope="module")
def course(overtrained):
    """(best step, step at which patience is lost) of that run."""
    best, since = 0, 0
    for step, _, is_best in overtrained[2].measured[1:]:
        best, since = (step, 0) if is_best else (best, since + 1)
        if since == PATIENCE:
            assert 0 < best < step < STEPS
            return best, step
    raise AssertionError("the run was not overtrained")


def test_it_is_the_plain_error_over_held_out_pictures_and_fixed_timesteps(tiny_run, tmp_path):
    _, listener = measured(tiny_run, tmp_path, steps=1, validation=SHARE)
    step, loss, is_best = listener.measured[0]
    assert (step, is_best) == (0, False)

    # written out from the definition, with a model that no adapter ever touched
    _, held_out = tiny_run.tiny_dataset(tmp_path).split(SHARE["validation_share"])
    model, errors = tiny_run.TinyModel(), []
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2, 0)
    with model.open_denoiser(0) as denoiser, torch.no_grad():
        for index, picture in enumerate(held_out.pictures):
            variant = held_out.variants[index][0]
            latents = model.encode_pixels(held_out.load_pixels(variant)[None])
            text = model.encode_captions([picture.captions[0]])[0]
            width, height = variant.bucket
            added = {
                "text_embeds": text.pooled[None],
                "time_ids": torch.tensor([[height, width, 0, 0, height, width]]).float(),
            }
            for number, timestep in enumerate(TIMESTEPS):
                place = index * len(TIMESTEPS) + number
                noise = fixed_draw(latents.shape, SEED, place, timestep).noise
                alpha = alphas[timestep].float()
                noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
                predicted = denoiser.unet(noisy, timestep, text.prompt_embeds[None], added_cond_kwargs=added)
                errors.append((predicted.sample - noise).square().mean().item())
    assert loss == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_figures_do_not_hang_on_how_the_run_trains(tiny_run, tmp_path):
    others = [
        {},
        {"seed": 7, "batch_size": 2},
        {"objective": {"min_snr_gamma": 1.0, "loss": "huber", "caption_dropout": 0.5}},
        {"noise": {"noise_offset": 0.1, "timestep_min": 500}, "lora": {"rank": 4, "dropout": 0.5}},
    ]
    before = {
        measured(tiny_run, tmp_path / str(n), steps=1, validation=SHARE, **values)[1].measured[0][1]
        for n, values in enumerate(others)
    }
    assert len(before) == 1


def test_measuring_changes_no_weight(tiny_run, tmp_path):
    values = {"lora": {"dropout": 0.3}, "optimizer": {"learning_rate": 1e-2, "ema_decay": 0.9}}
    often, rarely = (
        measured(tiny_run, tmp_path / str(every), validation={**SHARE, "validate_every": every}, **values)
        for every in (1, 6)
    )
    assert [step for step, *_ in often[1].measured] == [0, 1, 2, 3, 4, 5, 6]
    assert [step for step, *_ in rarely[1].measured] == [0, 6]
    assert often[1].measured[-1][1] == rarely[1].measured[-1][1]
    first, second = load_file(often[0].lora_path), load_file(rarely[0].lora_path)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"learning_rate": 1e-2, "ema_decay": 0.999},
        {"learning_rate": 0.0, "optimizer": "prodigy_plus_schedule_free"},
    ],
)
def test_what_is_measured_is_what_is_saved_and_not_what_trains(tiny_run, tmp_path, optimizer):
    if "optimizer" in optimizer:
        pytest.importorskip("prodigyplus")
    usual = {"validation": SHARE, "run": {"save_precision": "fp32"}, "lora": {"dropout": 0.5}}
    result, listener = measured(tiny_run, tmp_path / "a", steps=20, optimizer=optimizer, **usual)
    saved = read_lora(result.lora_path)
    _, started = measured(tiny_run, tmp_path / "b", steps=1, initial_lora=saved, **usual)
    assert started.measured[0][1] == pytest.approx(listener.measured[-1][1], rel=1e-6)
    state = load_file(tmp_path / "a/runs/cat/state/step-000020.safetensors")
    trained = next(state[key] for key in sorted(state) if key.endswith("lora_up") and state[key].any())
    assert not any(
        tensor.shape == trained.shape and tensor.equal(trained) for tensor in saved.tensors.values()
    )


def test_it_is_measured_with_the_checkpoints_where_no_rhythm_is_set(tiny_run, tmp_path):
    _, listener = measured(tiny_run, tmp_path, validation=SHARE, run={"save_every": 4})
    assert [step for step, *_ in listener.measured] == [0, 4, 6]
    lines = [json.loads(x) for x in (tmp_path / "runs/cat/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation_loss" in line] == [0, 4, 6]
    assert [line["validation_loss"] for line in lines if "validation_loss" in line] == [
        loss for _, loss, _ in listener.measured
    ]


def test_the_proposal_lies_before_an_overtrained_end(overtrained):
    folder, result, listener = overtrained
    losses = {step: loss for step, loss, _ in listener.measured}
    best = min(losses, key=losses.get)
    assert 0 < best == result.held_out.best_step < STEPS
    assert losses[STEPS] > losses[best] < losses[0]
    assert (
        f"the held-out loss was lowest at step {best} ({losses[best]:.4f}, {losses[0]:.4f} before training) "
        f"and has risen since to {losses[STEPS]:.4f} at step {STEPS}: "
        f"try checkpoint_step {best} in Apply LoRA"
    ) in result.report
    assert (folder / "loras" / f"cat-step{best:06d}.safetensors").exists()


def test_the_best_stays_beside_the_last_and_former_bests_go(overtrained):
    folder, result, listener = overtrained
    bests = [step for step, _, is_best in listener.measured if is_best]
    assert len(bests) > 2 and bests[-1] == result.held_out.best_step
    kept = {max(step for step in range(8, STEPS, 8) if step != bests[-1]), bests[-1]}
    names = {path.name for path in (folder / "loras").iterdir()}
    assert names == {f"cat-step{step:06d}.safetensors" for step in kept} | {"cat.safetensors"}


def test_without_keep_best_only_the_last_stay_and_the_report_says_so(tiny_run, tmp_path):
    values = {"validation": {**SHARE, "validate_every": EVERY, "keep_best": False}}
    result, _ = measured(tiny_run, tmp_path, **values, **OVERTRAINED)
    assert [path.name for path in (tmp_path / "loras").iterdir()] == ["cat.safetensors"]
    assert "its checkpoint was not kept; set keep_best" in result.report


PATIENT = {
    "validation": {**SHARE, "validate_every": EVERY, "early_stop_patience": PATIENCE},
    **OVERTRAINED,
}


def test_a_run_out_of_patience_ends_well_and_is_reloaded(tiny_run, tmp_path, course):
    best, end = course
    result, listener = measured(tiny_run, tmp_path, **PATIENT)
    assert (result.steps, result.trained_steps) == (end, end)
    assert [step for step, *_ in listener.measured][-1] == end
    ended = f"ended at step {end} of {STEPS}: the held-out loss had not fallen for {PATIENCE} measurements"
    assert ended in result.report
    assert f"try checkpoint_step {best}" in result.report

    model = tiny_run.TinyModel()
    again = tiny_run.run_tiny(tmp_path, model=model, **PATIENT)
    assert (again.trained_steps, again.steps, model.times_opened) == (0, end, 0)
    assert again.held_out == result.held_out
    assert ended in again.report
    assert f"try checkpoint_step {best}" in again.report


@pytest.mark.parametrize("before_the_end", [2, 1])
def test_patience_is_counted_on_over_a_stop(tiny_run, tmp_path, overtrained, course, before_the_end):
    values, at = PATIENT, course[1] - before_the_end
    with pytest.raises(CancelledError):
        tiny_run.run_tiny(tmp_path, tiny_run.StopAfter(at), **values)
    result, listener = measured(tiny_run, tmp_path, **values)
    assert (result.held_out.best_step, result.steps) == course
    lines = [json.loads(x) for x in (tmp_path / "runs/cat/metrics.jsonl").read_text().splitlines()]
    shown = [line["step"] for line in lines if "validation_loss" in line]
    assert shown == list(range(0, course[1] + 1, EVERY))
    whole = [loss for step, loss, _ in overtrained[2].measured if at < step <= course[1]]
    assert [loss for step, loss, _ in listener.measured if step > at] == whole


def test_a_run_killed_before_its_last_file_ends_where_it_had_ended(tiny_run, tmp_path, course):
    result, _ = measured(tiny_run, tmp_path, **PATIENT)
    written, end = result.lora_path.read_bytes(), course[1]
    result.lora_path.unlink()
    again = tiny_run.run_tiny(tmp_path, **PATIENT)
    assert (again.resumed_from, again.steps, again.trained_steps) == (end, end, 0)
    assert again.lora_path.read_bytes() == written


def test_one_picture_cannot_be_held_out(tiny_run, tmp_path):
    tiny_run.draw_pictures(tmp_path / "pictures", 1)
    with pytest.raises(InputError, match=r"validation_share is 0\.2, but the dataset has only 1"):
        tiny_run.run_tiny(tmp_path, validation=SHARE)


class TestHeldOutLosses:
    def test_the_model_itself_is_never_the_best(self):
        losses = HeldOutLosses()
        assert losses.add(0, 0.1) is False
        assert losses.add(5, 0.2) is True
        assert losses.best_step == 5
        assert "never below that" in losses.describe(True)

    def test_equal_is_not_better(self):
        losses = HeldOutLosses()
        losses.add(1, 0.2)
        assert losses.add(2, 0.2) is False
        assert losses.since_best == 1

    def test_not_a_number_is_not_better_and_costs_patience(self):
        losses = HeldOutLosses()
        losses.add(1, 0.2)
        assert losses.add(2, math.nan) is False
        assert losses.has_lost_patience(1)
        assert not losses.has_lost_patience(0)
        assert json.loads(json.dumps(losses.figures(), allow_nan=False))["last_loss"] is None

    def test_figures_come_back(self):
        losses = HeldOutLosses()
        for step, loss in ((0, 0.3), (1, 0.2), (2, 0.25)):
            losses.add(step, loss)
        assert HeldOutLosses.of(losses.figures()) == losses

    def test_nothing_measured_says_nothing(self):
        assert HeldOutLosses().describe(True) == ""

    def test_lowest_at_the_end_asks_for_more(self):
        losses = HeldOutLosses()
        losses.add(0, 0.3)
        losses.add(9, 0.2)
        assert losses.describe(True) == (
            "the held-out loss was lowest at step 9 (0.2000, 0.3000 before training), the last measurement: "
            "more steps may still help"
        )


def test_the_stand_in_learns_two_pictures_by_heart_and_the_proposal_lies_before(
    tiny_run, tmp_path, stand_in_folder, example_folder
):
    dataset = load_dataset(example_folder, DatasetConfig(resolution=64, bucket_step=32, max_train_samples=4))
    job = tiny_run.tiny_job(
        tmp_path,
        dataset,
        steps=60,
        lora={"rank": 64, "targets": "attention+ff"},
        optimizer={"learning_rate": 4e-3},
        objective={"min_snr_gamma": 0.0},
        validation={"validation_share": 0.5, "validate_every": 10},
    )
    listener = tiny_run.StopAfter()
    result = tiny_run.train(job, HeadlessSDXL.load(stand_in_folder), listener)
    losses = {step: loss for step, loss, _ in listener.measured}
    best = result.best_step
    assert 0 < best < 60
    assert losses[best] < 0.95 * losses[0]
    assert losses[60] > 1.2 * losses[best]
    assert f"try checkpoint_step {best} in Apply LoRA" in result.report
    assert (tmp_path / "loras" / f"cat-step{best:06d}.safetensors").exists()
