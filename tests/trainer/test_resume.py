"""A run that is stopped and goes on is the run that was never stopped, byte for byte."""

import json

import pytest
from safetensors.torch import load_file
from sdxl_trainer.trainer.errors import CancelledError

RUNS = {
    "plain": {},
    "accumulation and batches": {"batch_size": 2, "run": {"gradient_accumulation": 2}},
    "cosine with warm-up, min-SNR off": {
        "optimizer": {"lr_schedule": "cosine", "warmup_steps": 2},
        "objective": {"min_snr_gamma": 0, "caption_dropout": 0.5},
    },
    "checkpoints on the way": {"run": {"save_every": 2}},
}


def stop_and_go_on(tiny_run, folder, at, dataset, **values):
    with pytest.raises(CancelledError) as stopped:
        tiny_run.train(
            tiny_run.tiny_job(folder, dataset, **values), tiny_run.TinyModel(), tiny_run.StopAfter(at)
        )
    kept = folder / "loras" / f"cat-step{at:06d}.safetensors"
    assert (stopped.value.step, stopped.value.lora_path) == (at, kept)
    assert load_file(kept)
    listener = tiny_run.StopAfter()
    result = tiny_run.train(tiny_run.tiny_job(folder, dataset, **values), tiny_run.TinyModel(), listener)
    assert result.resumed_from == at
    assert [report.step for report in listener.reports] == list(range(at + 1, 7))
    return result


@pytest.mark.parametrize(("values", "at"), [*zip(RUNS.values(), (1, 3, 4, 5), strict=True)], ids=RUNS.keys())
def test_resumed_run_equals_uninterrupted_run(tiny_run, tmp_path, values, at):
    dataset = tiny_run.tiny_dataset(tmp_path)
    whole = tiny_run.train(
        tiny_run.tiny_job(tmp_path / "a", dataset, **values), tiny_run.TinyModel(), tiny_run.StopAfter()
    )
    resumed = stop_and_go_on(tiny_run, tmp_path / "b", at, dataset, **values)
    assert resumed.lora_path.read_bytes() == whole.lora_path.read_bytes()
    assert resumed.final_loss == whole.final_loss


def test_lists_of_captions_flips_crops_and_repeats_survive_a_resume(tiny_run, tmp_path):
    pictures = tiny_run.draw_pictures(tmp_path / "pictures")
    for sidecar in pictures.glob("*.txt"):
        sidecar.unlink()
    rows = [{"file_name": f"{n}.png", "text": [f"cat {n}", f"dog {n}", "x" * 50]} for n in range(5)]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = tiny_run.tiny_dataset(tmp_path, flip=True, crop="random", repeats=2, trigger="zyx")
    assert len(dataset.pictures[0].captions) == 3
    values = {"batch_size": 2, "objective": {"size_conditioning": "true"}}
    whole = tiny_run.train(
        tiny_run.tiny_job(tmp_path / "a", dataset, **values), tiny_run.TinyModel(), tiny_run.StopAfter()
    )
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
