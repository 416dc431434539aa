"""Which run goes on, from which of its states, and what is said when it cannot."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from sdxl_trainer.trainer.errors import CancelledError, InputError
from sdxl_trainer.trainer.files.lora_file import read_lora
from sdxl_trainer.trainer.runs.checkpoint import list_states, step_of

EVERY_STEP = {"run": {"save_every": 1, "keep_last": 0}}


def stop(tiny_run, folder, at, **values):
    with pytest.raises(CancelledError):
        tiny_run.run_tiny(folder, tiny_run.StopAfter(at), **values)


def states(folder, name="cat"):
    return sorted(step_of(path) for path in list_states(folder / "runs" / name / "state"))


class TestContinue:
    def test_an_unfinished_run_goes_on(self, tiny_run, tmp_path):
        stop(tiny_run, tmp_path, 3)
        result = tiny_run.run_tiny(tmp_path, resume="continue")
        assert (result.name, result.resumed_from, result.steps) == ("cat", 3, 6)

    def test_a_finished_run_is_reloaded(self, tiny_run, tmp_path):
        tiny_run.run_tiny(tmp_path)
        assert tiny_run.run_tiny(tmp_path, resume="continue").trained_steps == 0

    def test_every_setting_that_differs_is_named(self, tiny_run, tmp_path):
        stop(tiny_run, tmp_path, 3, lora={"rank": 16})
        before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
        with pytest.raises(InputError) as refused:
            tiny_run.run_tiny(
                tmp_path, resume="continue", lora={"rank": 8}, optimizer={"learning_rate": 0.5}, seed=1
            )
        for part in (
            "resume is 'continue', but the run 'cat' has other settings: ",
            "rank 16 -> 8",
            "alpha 16.0 -> 8.0",
            "learning_rate 0.01 -> 0.5",
            "seed 42 -> 1",
            "set resume to 'auto'",
        ):
            assert part in str(refused.value)
        assert "steps 6" not in str(refused.value)
        assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before

    def test_of_several_runs_the_nearest_is_compared(self, tiny_run, tmp_path):
        stop(tiny_run, tmp_path, 3, lora={"rank": 16})
        stop(tiny_run, tmp_path, 3, lora={"rank": 8})
        with pytest.raises(InputError, match=r"the run 'cat-2' has other settings: seed 42 -> 1;"):
            tiny_run.run_tiny(tmp_path, resume="continue", lora={"rank": 8}, seed=1)

    def test_no_run_of_that_name(self, tiny_run, tmp_path):
        with pytest.raises(InputError, match="there is no run 'cat' to go on with: check the name"):
            tiny_run.run_tiny(tmp_path, resume="continue")
        assert not (tmp_path / "runs" / "cat").exists()

    def test_a_run_that_ended_before_its_first_state(self, tiny_run, tmp_path):
        stop(tiny_run, tmp_path, 3)
        for path in list_states(tmp_path / "runs" / "cat" / "state"):
            path.unlink()
        with pytest.raises(InputError, match="the run 'cat' has no state to go on from"):
            tiny_run.run_tiny(tmp_path, resume="continue")

    def test_states_that_are_all_damaged_are_no_new_beginning(self, tiny_run, tmp_path):
        stop(tiny_run, tmp_path, 3)
        for path in list_states(tmp_path / "runs" / "cat" / "state"):
            path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(InputError, match=r"no state that can be read \(step-000003.*damaged"):
            tiny_run.run_tiny(tmp_path, resume="continue")
        assert tiny_run.run_tiny(tmp_path).resumed_from == 0

    def test_another_model_or_dataset_is_named(self, tiny_run, tmp_path):
        stop(tiny_run, tmp_path, 3)
        (tmp_path / "pictures" / "0.txt").write_text("another caption")
        model = tiny_run.TinyModel()
        model.fingerprint = "another"
        with pytest.raises(InputError, match=r"dataset \w{8} -> \w{8}, model tiny -> another"):
            tiny_run.run_tiny(tmp_path, model=model, resume="continue")


class TestResumeFromStep:
    def test_it_goes_on_from_there_and_ends_the_same(self, tiny_run, tmp_path):
        whole = tiny_run.run_tiny(tmp_path / "a")
        stop(tiny_run, tmp_path / "b", 4, **EVERY_STEP)
        result = tiny_run.run_tiny(tmp_path / "b", run={"resume_from_step": 3, "save_every": 0})
        assert result.resumed_from == 3
        first, second = load_file(whole.lora_path), load_file(result.lora_path)
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_a_step_without_state_is_refused_with_those_there_are(self, tiny_run, tmp_path):
        stop(tiny_run, tmp_path, 4, **EVERY_STEP)
        assert states(tmp_path) == [3, 4]
        with pytest.raises(InputError, match=r"no state of step 2 in 'cat': there are those of steps 3, 4;"):
            tiny_run.run_tiny(tmp_path, run={"resume_from_step": 2})

    def test_with_other_settings_it_says_what_differs(self, tiny_run, tmp_path):
        stop(tiny_run, tmp_path, 4, **EVERY_STEP)
        with pytest.raises(InputError, match=r"resume_from_step is 3, but the run 'cat' .* rank 2 -> 4"):
            tiny_run.run_tiny(tmp_path, run={"resume_from_step": 3}, lora={"rank": 4})

    def test_the_state_asked_for_stays_and_those_ahead_of_it_go(self, tiny_run, tmp_path):
        stop(tiny_run, tmp_path, 4, **EVERY_STEP)
        stop(tiny_run, tmp_path, 4, run={"resume_from_step": 3, "save_every": 1, "keep_last": 0})
        assert states(tmp_path) == [3, 4]
        stop(tiny_run, tmp_path, 5, run={"save_every": 0, "keep_last": 0})
        stop(tiny_run, tmp_path, 5, run={"resume_from_step": 4, "save_every": 0, "keep_last": 0})
        assert states(tmp_path) == [4, 5]

    def test_the_lines_ahead_of_it_go(self, tiny_run, tmp_path):
        stop(tiny_run, tmp_path, 4, **EVERY_STEP)
        stop(tiny_run, tmp_path, 4, run={"resume_from_step": 3, "save_every": 0})
        assert len((tmp_path / "runs/cat/metrics.jsonl").read_text().splitlines()) == 4


def test_the_state_of_the_best_stays(tiny_run, tmp_path):
    values = {
        "steps": 24,
        "optimizer": {"learning_rate": 0.3, "warmup_steps": 24},
        "validation": {"validation_share": 0.2},
        "run": {"save_every": 6, "keep_last": 1},
    }
    listener = tiny_run.StopAfter(23)
    with pytest.raises(CancelledError):
        tiny_run.run_tiny(tmp_path, listener, **values)
    assert min(listener.measured, key=lambda item: item[1])[0] == 18
    assert states(tmp_path) == [18, 23]
    stop(tiny_run, tmp_path, 23, **{**values, "run": {**values["run"], "resume_from_step": 18}})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_finished_run_is_written_anew_in_another_form_without_training(tiny_run, tmp_path, precision):
    first = tiny_run.run_tiny(tmp_path)
    second = tiny_run.run_tiny(tmp_path, run={"save_precision": precision})
    assert (second.name, second.trained_steps, second.lora_path) == ("cat", 0, first.lora_path)
    kinds = {tensor.dtype for name, tensor in load_file(second.lora_path).items() if "lora_up" in name}
    assert kinds == {{"fp32": torch.float32, "bf16": torch.bfloat16}[precision]}
    model = tiny_run.TinyModel()
    assert tiny_run.run_tiny(tmp_path, model=model, run={"save_precision": precision}).trained_steps == 0
    assert model.times_opened == 0


def test_the_copy_for_diffusers_is_written_on_request_also_afterwards(tiny_run, tmp_path):
    copy = tmp_path / "loras" / "cat_diffusers.safetensors"
    tiny_run.run_tiny(tmp_path)
    assert not copy.exists()
    result = tiny_run.run_tiny(tmp_path, run={"save_diffusers": True})
    assert result.trained_steps == 0
    lora = read_lora(result.lora_path)
    tensors = load_file(copy)
    assert len(tensors) == 2 * len(lora.names)
    assert all(name.startswith("unet.") and ".lora." in name for name in tensors)
    with safe_open(copy, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_copy_of_somebody_else_is_not_overwritten(tiny_run, tmp_path):
    (tmp_path / "loras").mkdir()
    theirs = tmp_path / "loras" / "cat_diffusers.safetensors"
    theirs.write_bytes(b"precious")
    assert tiny_run.run_tiny(tmp_path, run={"save_diffusers": True}).name == "cat-2"
    assert theirs.read_bytes() == b"precious"


class TestInitialLoRA:
    def test_the_first_step_starts_from_it(self, tiny_run, tmp_path):
        first = tiny_run.run_tiny(tmp_path, run={"save_precision": "fp32"})
        lora = read_lora(first.lora_path)
        held_out = {"validation": {"validation_share": 0.2}}
        listener = tiny_run.StopAfter()
        second = tiny_run.run_tiny(tmp_path, listener, name="dog", initial_lora=lora, **held_out)
        plain = tiny_run.StopAfter()
        tiny_run.run_tiny(tmp_path, plain, name="bird", **held_out)
        assert listener.measured[0][1] != plain.measured[0][1]
        assert "started from cat" in second.report
        before, after = load_file(first.lora_path), load_file(second.lora_path)
        assert any(not torch.equal(before[key].half(), after[key]) for key in before)

    def test_it_is_part_of_the_run(self, tiny_run, tmp_path):
        lora = read_lora(tiny_run.run_tiny(tmp_path).lora_path)
        second = tiny_run.run_tiny(tmp_path, initial_lora=lora)
        assert second.name == "cat-2"
        assert "initial_lora None -> " in second.report
        assert tiny_run.run_tiny(tmp_path, initial_lora=lora).trained_steps == 0

    def test_a_run_from_it_resumes_bit_equal(self, tiny_run, tmp_path):
        lora = read_lora(tiny_run.run_tiny(tmp_path).lora_path)
        values = {"name": "dog", "initial_lora": lora, "optimizer": {"ema_decay": 0.5}}
        whole = tiny_run.run_tiny(tmp_path / "a", **values)
        stop(tiny_run, tmp_path / "b", 3, **values)
        resumed = tiny_run.run_tiny(tmp_path / "b", **values)
        assert resumed.resumed_from == 3
        assert resumed.lora_path.read_bytes() == whole.lora_path.read_bytes()

    def test_a_run_that_does_not_move_it_is_no_success(self, tiny_run, tmp_path):
        class Deaf(tiny_run.TinyModel):
            def __init__(self):
                super().__init__()
                self.unet.conv_out.weight.data.fill_(float("nan"))

        lora = read_lora(tiny_run.run_tiny(tmp_path).lora_path)
        with pytest.raises(InputError, match="nothing was learned"):
            tiny_run.run_tiny(tmp_path, model=Deaf(), name="dog", initial_lora=lora, steps=3)
