import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from sdxl_trainer.trainer.errors import CancelledError, InputError


def names(folder):
    return sorted(path.name for path in (folder / "loras").iterdir())


def test_a_run_leaves_its_files_and_says_what_it_did(tiny_run, tmp_path):
    listener = tiny_run.StopAfter()
    result = tiny_run.run_tiny(tmp_path, listener, run={"save_every": 2})
    assert names(tmp_path) == ["cat-step000002.safetensors", "cat-step000004.safetensors", "cat.safetensors"]
    folder = tmp_path / "runs" / "cat"
    written = ["config.json", "lock", "metrics.jsonl", "report.html", "report.png", "state"]
    assert sorted(path.name for path in folder.iterdir()) == written
    assert json.loads((folder / "config.json").read_text())["settings"]["lora"]["rank"] == 2
    assert listener.files == [
        (2, "cat-step000002.safetensors"),
        (4, "cat-step000004.safetensors"),
        (6, "cat.safetensors"),
    ]
    assert (result.steps, result.trained_steps, result.resumed_from) == (6, 6, 0)
    assert math.isclose(result.final_loss, sum(listener.losses) / 6)
    for part in (
        "rank 2, alpha 2, attention, ",
        "5 pictures, 5 samples an epoch / batch 1 = 5 steps an epoch; 6 steps = 1.2 epochs",
        "trained 6 steps",
        "gradient checkpointing off",
        "file cat.safetensors",
    ):
        assert part in result.report
    assert str(tmp_path) not in result.report


def test_no_path_of_the_user_is_written_into_any_file(tiny_run, tmp_path):
    tiny_run.run_tiny(tmp_path, run={"save_every": 2})
    for path in [*(tmp_path / "loras").iterdir(), *(tmp_path / "runs").rglob("*")]:
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes(), path.name


@pytest.mark.parametrize(
    ("every", "keep", "kept"),
    [(2, 1, [4]), (1, 2, [4, 5]), (1, 0, [1, 2, 3, 4, 5]), (0, 4, []), (100, 4, [])],
)
def test_keeps_the_last_checkpoints_and_the_final_file_once(tiny_run, tmp_path, every, keep, kept):
    tiny_run.run_tiny(tmp_path, run={"save_every": every, "keep_last": keep})
    assert names(tmp_path) == [f"cat-step{n:06d}.safetensors" for n in kept] + ["cat.safetensors"]


def test_a_final_file_that_is_written_anew_from_its_state_is_not_just_reloaded(tiny_run, tmp_path):
    first = tiny_run.run_tiny(tmp_path)
    first.lora_path.unlink()
    again = tiny_run.run_tiny(tmp_path)
    assert (again.trained_steps, again.is_reloaded) == (0, False)
    assert again.lora_path.exists()


def test_what_is_done_after_the_last_step_is_told(tiny_run, tmp_path):
    listener = tiny_run.StopAfter()
    tiny_run.run_tiny(tmp_path, listener, steps=1)
    assert listener.phases[-1] == ("writing the report", 0, 1)
    assert "uploading" not in [name for name, *_ in listener.phases]


def test_finished_run_is_reloaded_and_nothing_is_trained(tiny_run, tmp_path):
    first = tiny_run.run_tiny(tmp_path)
    written = first.lora_path.stat().st_mtime_ns
    model = tiny_run.TinyModel()
    second = tiny_run.run_tiny(tmp_path, model=model)
    assert (second.trained_steps, second.lora_path, second.steps) == (0, first.lora_path, 6)
    assert (first.is_reloaded, second.is_reloaded) == (False, True)
    assert math.isclose(second.final_loss, first.final_loss)
    assert model.times_opened == model.encoded_pictures == 0
    assert first.lora_path.stat().st_mtime_ns == written
    assert "nothing was trained" in second.report


def test_other_settings_get_a_free_name_and_the_report_says_what_differs(tiny_run, tmp_path):
    first = tiny_run.run_tiny(tmp_path, lora={"rank": 4}).lora_path
    before = first.read_bytes()
    second = tiny_run.run_tiny(tmp_path, lora={"rank": 2})
    assert second.name == "cat-2"
    assert "rank 4 -> 2" in second.report
    assert "alpha 4.0 -> 2.0" in second.report
    assert first.read_bytes() == before
    assert tiny_run.run_tiny(tmp_path, lora={"rank": 2}).trained_steps == 0
    third = tiny_run.run_tiny(tmp_path, lora={"rank": 2}, seed=3)
    assert third.name == "cat-3"
    assert names(tmp_path) == ["cat-2.safetensors", "cat-3.safetensors", "cat.safetensors"]


def test_changed_captions_and_another_model_train_anew(tiny_run, tmp_path):
    tiny_run.run_tiny(tmp_path)
    (tmp_path / "pictures" / "0.txt").write_text("another caption")
    second = tiny_run.run_tiny(tmp_path)
    assert (second.name, second.trained_steps) == ("cat-2", 6)
    model = tiny_run.TinyModel()
    model.fingerprint = "another"
    third = tiny_run.run_tiny(tmp_path, model=model)
    assert third.name == "cat-3"
    assert "model tiny -> another" in third.report


def test_asked_for_a_new_run_it_never_goes_on(tiny_run, tmp_path):
    with pytest.raises(CancelledError):
        tiny_run.run_tiny(tmp_path, tiny_run.StopAfter(3))
    result = tiny_run.run_tiny(tmp_path, resume="new")
    assert (result.name, result.resumed_from, result.trained_steps) == ("cat-2", 0, 6)
    assert "resume is 'new'" in result.report


def test_a_file_of_somebody_else_is_never_overwritten(tiny_run, tmp_path):
    (tmp_path / "loras").mkdir()
    theirs = tmp_path / "loras" / "cat.safetensors"
    theirs.write_bytes(b"precious")
    (tmp_path / "loras" / "cat-2-step000003.safetensors").write_bytes(b"precious")
    result = tiny_run.run_tiny(tmp_path, run={"save_every": 1, "keep_last": 1})
    assert result.name == "cat-3"
    assert theirs.read_bytes() == b"precious"
    assert "cat-2-step000003.safetensors" in names(tmp_path)


def test_name_out_of_the_folder_is_refused_before_anything_is_written(tiny_run, tmp_path):
    dataset = tiny_run.tiny_dataset(tmp_path)
    with pytest.raises(InputError, match="choose a plain file name"):
        tiny_run.train(
            tiny_run.tiny_job(tmp_path / "a", dataset, name="../cat"),
            tiny_run.TinyModel(),
            tiny_run.StopAfter(),
        )
    assert not (tmp_path / "a").exists()


def test_file_holds_its_run_and_extra_metadata(tiny_run, tmp_path):
    import dataclasses

    job = dataclasses.replace(tiny_run.tiny_job(tmp_path), extra_metadata={"workflow": '{"nodes": []}'})
    path = tiny_run.train(job, tiny_run.TinyModel(), tiny_run.StopAfter()).lora_path
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["workflow"] == '{"nodes": []}'
    assert metadata["ss_output_name"] == "cat"


def test_model_is_as_found_after_success_and_after_cancel(tiny_run, tmp_path):
    model = tiny_run.TinyModel()
    before = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    modules = list(model.unet.named_modules())
    with pytest.raises(CancelledError):
        tiny_run.run_tiny(tmp_path, tiny_run.StopAfter(2), model)
    tiny_run.run_tiny(tmp_path, model=model)
    after = model.unet.state_dict()
    assert list(model.unet.named_modules()) == modules
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_nothing_learned_is_a_failure(tiny_run, tmp_path):
    class Deaf(tiny_run.TinyModel):
        """Gives NaN for every picture, so that each step is left out."""

        def __init__(self):
            super().__init__()
            self.unet.conv_out.weight.data.fill_(float("nan"))

    with pytest.raises(InputError, match=r"nothing was learned: after 3 steps at learning rate 0\.01"):
        tiny_run.run_tiny(tmp_path, model=Deaf(), steps=3)
    assert not (tmp_path / "loras" / "cat.safetensors").exists()


def test_precision_that_the_model_does_not_have_is_refused(tiny_run, tmp_path):
    with pytest.raises(InputError, match="precision is bf16, but the model is held in fp32"):
        tiny_run.run_tiny(tmp_path, run={"precision": "bf16"})


def test_works_inside_inference_mode_as_comfyui_calls_it(tiny_run, tmp_path):
    plain = tiny_run.run_tiny(tmp_path / "a").lora_path
    model = tiny_run.TinyModel()
    with torch.inference_mode():
        inside = tiny_run.run_tiny(tmp_path / "b", model=model).lora_path
    assert inside.read_bytes() == plain.read_bytes()


def test_checkpoints_come_by_epochs_of_what_is_trained_on(tiny_run, tmp_path):
    values = {"validation": {"validation_share": 0.2}, "run": {"save_every_epochs": 1, "save_every": 1}}
    tiny_run.run_tiny(tmp_path, steps=9, **values)
    assert names(tmp_path) == [f"cat-step{n:06d}.safetensors" for n in (4, 8)] + ["cat.safetensors"]


@pytest.mark.parametrize(("setting", "says"), [("on", "transformer blocks (as set)")])
def test_checkpointing_can_be_set_and_changes_no_byte(tiny_run, tmp_path, setting, says):
    plain = tiny_run.run_tiny(tmp_path / "a", run={"gradient_checkpointing": "off"})
    result = tiny_run.run_tiny(tmp_path / "b", run={"gradient_checkpointing": setting})
    assert f"gradient checkpointing {says}" in result.report
    first, second = load_file(plain.lora_path), load_file(result.lora_path)
    assert all(torch.equal(first[key], second[key]) for key in first)
