"""A run that is stopped and goes on is the run that was never stopped, byte for byte."""

import json
from dataclasses import replace
from typing import get_args

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from sdxl_trainer.trainer.config import LRSchedule, OptimizerName
from sdxl_trainer.trainer.data.dataset_sets import with_class_images
from sdxl_trainer.trainer.errors import CancelledError
from sdxl_trainer.trainer.runs.checkpoint import list_states

OPTIMIZERS = {  # with the schedules, two rows of the grid in one
    "adamw": "constant",
    "adamw8bit": "linear",
    "prodigy": "cosine",
    "prodigy_plus_schedule_free": "constant_with_warmup",
    "adafactor": "cosine_with_restarts",
    "lion": "polynomial",
    "sgd": "constant",
}
RUNS = {
    **{
        f"{name}, {schedule}": {
            "optimizer": {
                "optimizer": name,
                "learning_rate": 0.0,
                "lr_schedule": schedule,
                "warmup_steps": 0 if schedule == "constant" else 2,
            }
        }
        for name, schedule in OPTIMIZERS.items()
    },
    "accumulation, batches, caption dropout": {
        "batch_size": 2,
        "run": {"gradient_accumulation": 2},
        "objective": {"min_snr_gamma": 0, "caption_dropout": 0.5},
    },
    "checkpoints on the way": {"run": {"save_every": 2}},
    "checkpoints every epoch": {"run": {"save_every_epochs": 1, "gradient_accumulation": 2}},
    "EMA and LoRA+": {"optimizer": {"lora_plus_ratio": 4.0, "ema_decay": 0.9}},
    "dropout": {"lora": {"dropout": 0.2, "rank_dropout": 0.2, "module_dropout": 0.2}},
    "DoRA": {"lora": {"adapter": "dora", "rank_dropout": 0.2}},
    "LoKr with offset and pyramid noise": {
        "lora": {"adapter": "lokr"},
        "noise": {"noise_offset": 0.1, "pyramid_iterations": 3},
    },
    "the base model as teacher": {"prior": {"prior_preservation": "base_model", "class_prompt": "a cat"}},
    "validation, early stop and previews": {
        "validation": {"validation_share": 0.2, "validate_every": 2, "early_stop_patience": 3},
        "preview": {"preview_every": 2, "steps": 1},
        "run": {"save_every": 3},
    },
}
STEPS = 5


@pytest.fixture(scope="module")
def dataset(tiny_run, tmp_path_factory):
    """Several captions a picture, and class images."""
    folder = tmp_path_factory.mktemp("dataset")
    own = tiny_run.tiny_dataset(folder, crop="random")
    captions = {n: [f"cat {n}", f"dog {n}", "x" * 50] for n in range(5)}
    pictures = tuple(replace(p, captions=tuple(captions[n])) for n, p in enumerate(own.pictures))
    tiny_run.draw_pictures(folder / "class" / "pictures", 3, ["a cat"] * 3, seed=4)
    return with_class_images(replace(own, pictures=pictures), tiny_run.tiny_dataset(folder / "class"))


def train_tiny(tiny_run, folder, dataset, listener, **values):
    job = tiny_run.tiny_job(folder, dataset, **{"steps": STEPS, **values})
    return tiny_run.train(job, tiny_run.TinyModel(), listener)


def stop_and_go_on(tiny_run, folder, at, dataset, **values):
    with pytest.raises(CancelledError) as stopped:
        train_tiny(tiny_run, folder, dataset, tiny_run.StopAfter(at), **values)
    kept = folder / "loras" / f"cat-step{at:06d}.safetensors"
    assert (stopped.value.step, stopped.value.lora_path) == (at, kept)
    assert load_file(kept)
    listener = tiny_run.StopAfter()
    result = train_tiny(tiny_run, folder, dataset, listener, **values)
    assert result.resumed_from == at
    assert [report.step for report in listener.reports] == list(range(at + 1, STEPS + 1))
    return result


def state_digest(folder):
    """Of weights, moments, averages, counters and measurements at the end."""
    (path,) = list_states(folder / "runs" / "cat" / "state")
    with safe_open(path, framework="pt") as file:
        return file.metadata()["digest"]


@pytest.mark.parametrize("name", RUNS)
def test_resumed_run_equals_uninterrupted_run(tiny_run, tmp_path, dataset, name):
    values, at = RUNS[name], 1 + list(RUNS).index(name) % (STEPS - 1)
    if "8bit" in name:
        pytest.importorskip("bitsandbytes")
    elif "prodigy" in str(values):
        pytest.importorskip("prodigyplus" if "free" in str(values) else "prodigyopt")
    elif "lion" in str(values):
        pytest.importorskip("lion_pytorch")
    whole = train_tiny(tiny_run, tmp_path / "a", dataset, tiny_run.StopAfter(), **values)
    resumed = stop_and_go_on(tiny_run, tmp_path / "b", at, dataset, **values)
    assert resumed.lora_path.read_bytes() == whole.lora_path.read_bytes()
    assert resumed.final_loss == whole.final_loss
    assert resumed.held_out == whole.held_out
    assert state_digest(tmp_path / "b") == state_digest(tmp_path / "a")


def test_the_grid_has_every_optimizer_and_schedule():
    assert set(OPTIMIZERS) == set(get_args(OptimizerName))
    assert set(OPTIMIZERS.values()) == set(get_args(LRSchedule))


def test_lists_of_captions_flips_crops_and_repeats_survive_a_resume(tiny_run, tmp_path):
    pictures = tiny_run.draw_pictures(tmp_path / "pictures")
    for sidecar in pictures.glob("*.txt"):
        sidecar.unlink()
    rows = [{"file_name": f"{n}.png", "text": [f"cat {n}", f"dog {n}", "x" * 50]} for n in range(5)]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = tiny_run.tiny_dataset(tmp_path, flip=True, crop="random", repeats=2, trigger="zyx")
    assert len(dataset.pictures[0].captions) == 3
    values = {"batch_size": 2, "objective": {"size_conditioning": "true"}}
    whole = train_tiny(tiny_run, tmp_path / "a", dataset, tiny_run.StopAfter(), **values)
    resumed = stop_and_go_on(tiny_run, tmp_path / "b", 2, dataset, **values)
    assert resumed.lora_path.read_bytes() == whole.lora_path.read_bytes()
    assert resumed.trigger_words == "zyx"


def test_a_run_may_be_stopped_again_and_again(tiny_run, tmp_path):
    whole = tiny_run.run_tiny(tmp_path / "a")
    for at in (1, 2, 4):
        with pytest.raises(CancelledError):
            tiny_run.run_tiny(tmp_path / "b", tiny_run.StopAfter(at))
    result = tiny_run.run_tiny(tmp_path / "b")
    assert result.lora_path.read_bytes() == whole.lora_path.read_bytes()


def test_metrics_have_each_step_once_and_in_order(tiny_run, tmp_path):
    with pytest.raises(CancelledError):
        tiny_run.run_tiny(tmp_path, tiny_run.StopAfter(3))
    metrics = tmp_path / "runs" / "cat" / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"step": 4, "loss": 1.0}\n{"step": 5, "lo')  # what a killed process leaves
    tiny_run.run_tiny(tmp_path)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(set(line) >= {"loss", "grad_norm", "learning_rate", "seconds", "epoch"} for line in lines)


def test_half_precision_resumes_with_its_loss_scale(tiny_run, tmp_path):
    import torch

    def run(folder, listener):
        job = tiny_run.tiny_job(folder, tiny_run.tiny_dataset(tmp_path))
        return tiny_run.train(job, tiny_run.TinyModel(torch.float16), listener)

    whole = run(tmp_path / "a", tiny_run.StopAfter())
    with pytest.raises(CancelledError):
        run(tmp_path / "b", tiny_run.StopAfter(3))
    assert run(tmp_path / "b", tiny_run.StopAfter()).lora_path.read_bytes() == whole.lora_path.read_bytes()


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tiny_run, tmp_path):
    first, second, third = (
        tiny_run.run_tiny(tmp_path / str(n), seed=seed).lora_path.read_bytes()
        for n, seed in enumerate((0, 0, 2**64 - 1))
    )
    assert first == second
    assert first != third


def test_what_only_concerns_saving_does_not_hinder_a_resume(tiny_run, tmp_path):
    with pytest.raises(CancelledError):
        tiny_run.run_tiny(tmp_path, tiny_run.StopAfter(3))
    values = {"save_every": 1, "keep_last": 0, "gradient_checkpointing": "on"}
    result = tiny_run.run_tiny(tmp_path, run=values)
    assert (result.name, result.resumed_from) == ("cat", 3)
