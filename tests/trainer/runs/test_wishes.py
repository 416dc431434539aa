"""What is asked of a run on its way: granted between two steps, and the training is the same."""

import json
import re
import time

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from sdxl_trainer.trainer.errors import CancelledError, InputError
from sdxl_trainer.trainer.runs.checkpoint import list_states, step_of
from sdxl_trainer.trainer.runs.wishes import PAUSE_SECONDS
from sdxl_trainer.trainer.training import Training

SHARE = {"validation_share": 0.2}
PAUSE_LOOKS = 3


@pytest.fixture
def asking(tiny_run):
    """A listener that wishes: `Asking({2: ["sample", "save"]}, pauses=(3,))`, after these steps."""

    class Asking(tiny_run.StopAfter):
        def __init__(self, wishes=None, stop_at=10**9, pauses=()):
            super().__init__(stop_at)
            self.wishes = {step: list(asked) for step, asked in (wishes or {}).items()}
            self.pauses = dict.fromkeys(pauses, PAUSE_LOOKS)
            self.starts, self.activities, self.notes = [], [], []

        @property
        def heard_step(self):
            return self.reports[-1].step if self.reports else 0

        def begin(self, start):
            self.starts.append((start, list(self.phases)))

        def activity(self, name):
            self.activities.append((self.heard_step, name))

        def note(self, text):
            self.notes.append(text)

        def can_wish(self):
            return True

        def next_wish(self):
            due = [step for step, asked in self.wishes.items() if step <= self.heard_step and asked]
            return self.wishes[due[0]].pop(0) if due else None

        def is_paused(self):
            left = self.pauses.get(self.heard_step, 0)
            self.pauses[self.heard_step] = left - 1
            return left > 0

        def doing_at(self, step):
            """Activities in order, without repetitions."""
            names = [name for at, name in self.activities if at == step]
            return [name for n, name in enumerate(names) if not n or name != names[n - 1]]

    return Asking


def names(folder):
    return sorted(path.name for path in (folder / "loras").iterdir())


def pictures(folder):
    samples = folder / "runs" / "cat" / "samples"
    return sorted(path.name for path in samples.glob("*.png")) if samples.exists() else []


def states(folder):
    return sorted(step_of(path) for path in list_states(folder / "runs" / "cat" / "state"))


def state_digest(folder):
    """Of weights, moments, averages, counters and measurements of the newest state."""
    with safe_open(list_states(folder / "runs" / "cat" / "state")[0], framework="pt") as file:
        return file.metadata()["digest"]


def same_files(one, other):
    """The final LoRA and the state of two runs, bit for bit."""
    same_lora = one.lora_path.read_bytes() == other.lora_path.read_bytes()
    folders = [result.lora_path.parents[1] for result in (one, other)]
    return same_lora and state_digest(folders[0]) == state_digest(folders[1])


class TestBegin:
    def test_name_folder_and_previews_are_told_before_anything_is_encoded(self, tiny_run, tmp_path, asking):
        listener = asking()
        tiny_run.run_tiny(tmp_path, listener)
        ((start, phases),) = listener.starts
        assert (start.name, start.folder, start.step, start.num_steps) == (
            "cat",
            tmp_path / "runs" / "cat",
            0,
            6,
        )
        assert (list(start.prompts), start.size) == (["picture 0"], tiny_run.SIZE)
        assert not [name for name, *_ in phases if name.startswith("encoding")]

    def test_of_a_run_that_goes_on_and_of_one_that_is_reloaded(self, tiny_run, tmp_path, asking):
        preview = {"prompts": "a dog\na cow", "width": 96, "height": 72}
        with pytest.raises(CancelledError):
            tiny_run.run_tiny(tmp_path, asking(stop_at=3), preview=preview)
        for step in (3, 6):
            listener = asking()
            tiny_run.run_tiny(tmp_path, listener, preview=preview)
            ((start, _),) = listener.starts
            assert (start.step, start.num_steps, list(start.prompts)) == (step, 6, ["a dog", "a cow"])
            assert start.size == (96, 72)

    def test_with_the_name_that_was_free(self, tiny_run, tmp_path, asking):
        tiny_run.run_tiny(tmp_path)
        listener = asking()
        tiny_run.run_tiny(tmp_path, listener, seed=1)
        assert listener.starts[0][0].name == "cat-2"


RUNS = {
    "plain": {},
    "dropout and EMA": {"lora": {"dropout": 0.3}, "optimizer": {"ema_decay": 0.9}},
    "validation and checkpoints": {
        "validation": {**SHARE, "validate_every": 2},
        "run": {"save_every": 3, "keep_last": 1},
    },
    "text encoders": {"text_encoder": {"train_text_encoder": "both"}},
    "new words": {"pivotal": {"token": "TOK"}},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_which_much_is_asked_trains_the_very_same_numbers(tiny_run, tmp_path, asking, name):
    tiny_run.draw_pictures(tmp_path / "pictures", captions=["TOK"] * 5)
    dataset = tiny_run.tiny_dataset(tmp_path)
    plain = tiny_run.run_tiny(tmp_path / "a", dataset=dataset, **RUNS[name])
    listener = asking({1: ["sample"], 2: ["save"], 4: ["sample", "save"]}, pauses=(2, 3))
    asked = tiny_run.run_tiny(tmp_path / "b", listener, dataset=dataset, **RUNS[name])
    assert [step for step, _ in listener.drawn] == [1, 4, 6]
    assert {2, 4} <= {step for step, _ in listener.files}
    assert same_files(plain, asked)
    assert plain.held_out == asked.held_out


@pytest.mark.parametrize("name", ["dropout and EMA", "text encoders", "new words"])
def test_also_where_it_goes_on_from_a_checkpoint_that_was_asked_for(tiny_run, tmp_path, asking, name):
    tiny_run.draw_pictures(tmp_path / "pictures", captions=["TOK"] * 5)
    dataset = tiny_run.tiny_dataset(tmp_path)
    plain = tiny_run.run_tiny(tmp_path / "a", dataset=dataset, **RUNS[name])
    values = {"dataset": dataset, **RUNS[name]}
    with pytest.raises(CancelledError):
        tiny_run.run_tiny(tmp_path / "b", asking({3: ["save", "sample"]}, stop_at=4), **values)
    list_states(tmp_path / "b/runs/cat/state")[0].unlink()  # as if it had been killed before it could save
    listener = asking()
    result = tiny_run.run_tiny(tmp_path / "b", listener, **values)
    assert result.resumed_from == 3
    assert pictures(tmp_path / "b") == ["step-000003-00.png"]
    assert same_files(plain, result)


class TestFinish:
    def test_the_run_ends_well_with_what_it_has(self, tiny_run, tmp_path, asking):
        values = {"steps": 9, "validation": {**SHARE, "validate_every": 5}}
        listener = asking({3: ["finish"]})
        result = tiny_run.run_tiny(tmp_path, listener, **values)
        assert (result.steps, result.trained_steps) == (3, 3)
        assert "ended at step 3 of 9 because it was asked to" in result.report
        assert [step for step, *_ in listener.measured] == [0, 3]
        assert names(tmp_path) == ["cat.safetensors"]
        assert listener.drawn == []
        with pytest.raises(CancelledError):
            tiny_run.run_tiny(tmp_path / "b", tiny_run.StopAfter(3), **values)
        states_of = [list_states(folder / "runs/cat/state")[0] for folder in (tmp_path, tmp_path / "b")]
        first, second = map(load_file, states_of)
        assert all(first[name].equal(second[name]) for name in second)

    def test_the_same_job_again_trains_nothing(self, tiny_run, tmp_path, asking):
        first = tiny_run.run_tiny(tmp_path, asking({3: ["finish"]}))
        model = tiny_run.TinyModel()
        again = tiny_run.run_tiny(tmp_path, model=model)
        assert (again.trained_steps, again.steps, again.lora_path) == (0, 3, first.lora_path)
        assert model.times_opened == 0
        assert "ended at step 3 of 6 because it was asked to" in again.report
        assert "set resume to 'continue' to go on" in again.report
        assert (first.is_reloaded, again.is_reloaded) == (False, True)

    def test_nor_in_another_form_nor_when_it_was_killed_before_its_last_file(
        self, tiny_run, tmp_path, asking
    ):
        tiny_run.run_tiny(tmp_path, asking({3: ["finish"]}))
        other = tiny_run.run_tiny(tmp_path, run={"save_precision": "fp32"})
        assert (other.trained_steps, other.steps) == (0, 3)
        other.lora_path.unlink()
        again = tiny_run.run_tiny(tmp_path, run={"save_precision": "fp32"})
        assert (again.trained_steps, again.steps) == (0, 3)
        assert not again.is_reloaded  # its file was written only now
        assert "ended at step 3 of 6 because it was asked to" in again.report

    def test_a_run_that_was_taken_up_before_its_end_goes_on_past_it(self, tiny_run, tmp_path, asking):
        result = tiny_run.run_tiny(tmp_path, asking({5: ["finish"]}))
        result.lora_path.unlink()
        for path in list_states(tmp_path / "runs/cat/state"):
            path.unlink()
        with pytest.raises(CancelledError):
            tiny_run.run_tiny(tmp_path, tiny_run.StopAfter(5))
        assert tiny_run.run_tiny(tmp_path).steps == 6

    @pytest.mark.parametrize("name", RUNS)
    @pytest.mark.parametrize("how", [{"resume": "continue"}, {"run": {"resume_from_step": 3}}])
    def test_it_goes_on_to_its_planned_steps_where_that_is_wanted(
        self, tiny_run, tmp_path, asking, name, how
    ):
        tiny_run.draw_pictures(tmp_path / "pictures", captions=["TOK"] * 5)
        values = {"dataset": tiny_run.tiny_dataset(tmp_path), **RUNS[name]}
        again = {**values, **how, "run": {**values.get("run", {}), **how.get("run", {})}}
        plain = tiny_run.run_tiny(tmp_path / "a", **values)
        assert tiny_run.run_tiny(tmp_path / "b", asking({3: ["finish"]}), **values).steps == 3
        result = tiny_run.run_tiny(tmp_path / "b", **again)
        assert (result.steps, result.resumed_from, result.trained_steps) == (6, 3, 3)
        tensors = [load_file(one.lora_path) for one in (plain, result)]
        assert tensors[0].keys() == tensors[1].keys()
        assert all(tensors[0][key].equal(tensors[1][key]) for key in tensors[0])
        assert state_digest(tmp_path / "a") == state_digest(tmp_path / "b")
        assert result.held_out == plain.held_out
        assert "asked" not in result.report
        reloaded = tiny_run.run_tiny(tmp_path / "b", **again)
        assert (reloaded.trained_steps, reloaded.held_out) == (0, plain.held_out)

    def test_broken_off_on_its_way_past_the_end_it_goes_on_by_itself(self, tiny_run, tmp_path, asking):
        plain = tiny_run.run_tiny(tmp_path / "a")
        first = tiny_run.run_tiny(tmp_path / "b", asking({2: ["finish"]})).lora_path.read_bytes()
        with pytest.raises(CancelledError):
            tiny_run.run_tiny(tmp_path / "b", asking(stop_at=4), resume="continue")
        assert (tmp_path / "b/loras/cat.safetensors").read_bytes() == first
        result = tiny_run.run_tiny(tmp_path / "b")
        assert (result.resumed_from, result.steps) == (4, 6)
        assert same_files(plain, result)

    def test_killed_before_it_saved_anything_it_can_still_go_past_its_end(self, tiny_run, tmp_path, asking):
        class Killed(asking):
            def step(self, report):
                super().step(report)
                if report.step == 4:
                    raise KeyboardInterrupt

        tiny_run.run_tiny(tmp_path, asking({3: ["finish"]}))
        with pytest.raises(KeyboardInterrupt):
            tiny_run.run_tiny(tmp_path, Killed(), resume="continue")
        for path in list_states(tmp_path / "runs/cat/state"):
            if step_of(path) > 3:
                path.unlink()
        (tmp_path / "loras/cat-step000004.safetensors").unlink(missing_ok=True)
        assert tiny_run.run_tiny(tmp_path).trained_steps == 0
        assert tiny_run.run_tiny(tmp_path, resume="continue").steps == 6

    def test_a_run_that_lost_patience_does_not_go_on(self, tiny_run, tmp_path, asking):
        values = {
            "steps": 40,
            "lora": {"rank": 8},
            "optimizer": {"learning_rate": 1.0, "lr_schedule": "constant"},
            "validation": {**SHARE, "validate_every": 2, "early_stop_patience": 2},
        }
        steps = tiny_run.run_tiny(tmp_path, **values).steps
        again = tiny_run.run_tiny(tmp_path, resume="continue", **values)
        assert (again.steps, again.trained_steps) == (steps, 0)

    def test_before_the_first_step_it_waits_for_one(self, tiny_run, tmp_path, asking):
        result = tiny_run.run_tiny(tmp_path, asking({0: ["finish"]}))
        assert result.steps == 1

    def test_it_waits_until_something_was_learned(self, tiny_run, tmp_path, asking):
        """The first caption of the draw holds no new word: nothing has moved after it."""
        captions = ["nothing of it", "nothing of it", "nothing of it", "nothing of it", "TOK"]
        tiny_run.draw_pictures(tmp_path / "pictures", captions=captions)
        listener = asking({1: ["finish"]})
        values = {"pivotal": {"token": "TOK", "ti_fraction": 1.0}, "objective": {"caption_dropout": 0.0}}
        result = tiny_run.run_tiny(tmp_path, listener, steps=8, **values)
        assert 1 < result.steps < 8
        assert "because it was asked to" in result.report

    def test_the_last_pictures_are_drawn_where_previews_are_on(self, tiny_run, tmp_path, asking):
        listener = asking({3: ["finish"]})
        tiny_run.run_tiny(tmp_path, listener, preview={"preview_every": 5, "steps": 1})
        assert [step for step, _ in listener.drawn] == [0, 3]

    def test_running_out_of_patience_keeps_its_own_sentence(self, tiny_run, tmp_path, asking):
        values = {
            "steps": 40,
            "lora": {"rank": 8},
            "optimizer": {"learning_rate": 1.0, "lr_schedule": "constant"},
            "validation": {**SHARE, "validate_every": 2, "early_stop_patience": 2},
        }
        result = tiny_run.run_tiny(tmp_path / "a", asking(), **values)
        assert result.steps < 40
        assert "the held-out loss had not fallen for 2 measurements" in result.report
        assert "asked" not in result.report
        end = result.steps - 1
        asked = tiny_run.run_tiny(tmp_path / "b", asking({end: ["finish"]}), **values)
        for result in (asked, tiny_run.run_tiny(tmp_path / "b", **values)):
            assert f"ended at step {end} of 40 because it was asked to" in result.report


class TestSample:
    def test_without_previews_only_asked_steps_and_then_the_last_are_drawn(self, tiny_run, tmp_path, asking):
        listener = asking({2: ["sample", "sample"]})
        tiny_run.run_tiny(tmp_path, listener, preview={"prompts": "a cat\na dog", "steps": 1})
        assert [step for step, _ in listener.drawn] == [2, 6]
        assert len(pictures(tmp_path)) == 4

    def test_watched_but_not_asked_nothing_is_drawn(self, tiny_run, tmp_path, asking):
        listener = asking()
        tiny_run.run_tiny(tmp_path, listener)
        assert listener.drawn == pictures(tmp_path) == []

    def test_a_run_that_nobody_watches_encodes_no_prompt(self, tiny_run, tmp_path, asking):
        class Counting(tiny_run.TinyModel):
            prompts = 0

            def encode_prompts(self, prompts, negative, encoder=None):
                self.prompts += 1
                return super().encode_prompts(prompts, negative, encoder)

        alone, watched = Counting(), Counting()
        tiny_run.run_tiny(tmp_path / "a", model=alone)
        tiny_run.run_tiny(tmp_path / "b", asking(), watched)
        assert (alone.prompts, watched.prompts) == (0, 1)

    def test_where_previews_are_due_they_are_drawn_once(self, tiny_run, tmp_path, asking):
        listener = asking({2: ["sample"], 3: ["sample"]})
        tiny_run.run_tiny(tmp_path, listener, preview={"preview_every": 2, "steps": 1})
        assert [step for step, _ in listener.drawn] == [0, 2, 3, 4, 6]

    def test_asked_for_in_the_last_step_they_are_drawn_at_the_end(self, tiny_run, tmp_path, asking):
        listener = asking({6: ["sample", "save", "finish"]})
        result = tiny_run.run_tiny(tmp_path, listener)
        assert [step for step, _ in listener.drawn] == [6]
        assert names(tmp_path) == ["cat.safetensors"]
        assert "asked" not in result.report

    @pytest.mark.parametrize("where", ["draw", "encode_prompts"])
    def test_pictures_that_fail_are_noted_and_nothing_else_happens(self, tiny_run, tmp_path, asking, where):
        def fail(*values):
            raise InputError("there is no such sampler")

        model = tiny_run.TinyModel()
        setattr(model, where, fail)
        listener = asking({2: ["sample"]})
        result = tiny_run.run_tiny(tmp_path, listener, model)
        assert result.steps == 6
        assert "the preview of step 2 could not be drawn" in listener.notes[0]
        assert listener.notes[0] in result.report


KEEP_1 = {"run": {"save_every": 1, "keep_last": 1}}


class TestSave:
    def test_a_checkpoint_with_its_state_is_written_and_stays(self, tiny_run, tmp_path, asking):
        listener = asking({2: ["save"]})
        with pytest.raises(CancelledError):
            listener.stop_at = 5
            tiny_run.run_tiny(tmp_path, listener, **KEEP_1)
        assert names(tmp_path) == ["cat-step000002.safetensors", "cat-step000005.safetensors"]
        assert states(tmp_path) == [2, 4, 5]
        assert [step for step, _ in listener.files].count(2) == 1  # due and asked for, and written once
        tiny_run.run_tiny(tmp_path, **KEEP_1)  # goes on
        assert names(tmp_path) == [f"cat{end}.safetensors" for end in ("-step000002", "-step000005", "")]
        assert states(tmp_path) == [6]

    def test_it_does_not_take_the_place_of_another(self, tiny_run, tmp_path, asking):
        tiny_run.run_tiny(tmp_path, asking({5: ["save"]}), run={"save_every": 2, "keep_last": 1})
        assert names(tmp_path) == [f"cat{end}.safetensors" for end in ("-step000004", "-step000005", "")]

    def test_only_the_newest_two_that_are_still_there_keep_their_state(self, tiny_run, tmp_path, asking):
        class Removing(asking):
            def step(self, report):
                super().step(report)
                if report.step == 7:
                    (tmp_path / "loras" / "cat-step000004.safetensors").unlink()

        listener = Removing({step: ["save"] for step in (1, 2, 3, 4)}, stop_at=8)
        with pytest.raises(CancelledError):
            tiny_run.run_tiny(tmp_path, listener, steps=9, **KEEP_1)
        assert states(tmp_path) == [3, 7, 8]  # those of 1 and 2 went on the way, that of 4 after its LoRA
        assert [name for name in names(tmp_path) if name < "cat-step000005"] == [
            f"cat-step00000{step}.safetensors" for step in (1, 2, 3)
        ]

    def test_room_for_their_states_is_asked_for_where_somebody_may_ask(self, tiny_run, tmp_path, asking):
        def needed(folder, *listener):
            with pytest.raises(InputError, match=r"need [\d,]+ MiB") as refused:
                tiny_run.run_tiny(folder, *listener, lora={"rank": 32, "targets": "attention+ff+conv"})
            return float(re.search(r"need ([\d,]+) MiB", str(refused.value))[1].replace(",", ""))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 0}))
            assert needed(tmp_path / "b", asking()) > 1.3 * needed(tmp_path / "a")

    def test_one_that_the_user_removed_is_asked_for_no_more(self, tiny_run, tmp_path, asking):
        with pytest.raises(CancelledError):
            tiny_run.run_tiny(tmp_path, asking({2: ["save"]}, stop_at=3))
        (tmp_path / "loras" / "cat-step000002.safetensors").unlink()
        tiny_run.run_tiny(tmp_path, asking({4: ["save"]}))
        assert json.loads((tmp_path / "runs/cat/asked.json").read_text())["checkpoints"] == [4]

    def test_it_stays_though_it_was_the_best_and_is_no_more(self, tiny_run, tmp_path, asking):
        values = {"validation": {**SHARE, "validate_every": 1}, "optimizer": {"learning_rate": 0.01}}
        listener = asking({1: ["save"]})
        result = tiny_run.run_tiny(tmp_path, listener, **values)
        assert result.best_step > 1  # else nothing is shown here
        assert "cat-step000001.safetensors" in names(tmp_path)

    def test_saved_and_finished_at_once_both_files_are_there(self, tiny_run, tmp_path, asking):
        tiny_run.run_tiny(tmp_path, asking({3: ["save", "finish"]}))
        assert names(tmp_path) == ["cat-step000003.safetensors", "cat.safetensors"]

    def test_a_full_disk_costs_a_sentence(self, tiny_run, tmp_path, asking, monkeypatch):
        import sdxl_trainer.trainer.runs.run_writer as run_writer

        save_state = run_writer.save_state

        def full_at_2(folder, state, spared):
            if state.step == 2:
                raise OSError(28, "No space left on device")
            return save_state(folder, state, spared)

        monkeypatch.setattr(run_writer, "save_state", full_at_2)
        listener = asking({2: ["save"]})
        result = tiny_run.run_tiny(tmp_path, listener)
        assert "the checkpoint of step 2 could not be written" in listener.notes[0]
        assert listener.notes[0] in result.report
        assert names(tmp_path) == ["cat.safetensors"]


class TestPause:
    def test_the_time_is_no_steps_time(self, tiny_run, tmp_path, asking):
        listener = asking(pauses=(3,))
        before = time.perf_counter()
        tiny_run.run_tiny(tmp_path, listener)
        slept = PAUSE_LOOKS * PAUSE_SECONDS
        whole = time.perf_counter() - before
        assert whole > 0.6 * slept
        assert sum(report.seconds for report in listener.reports) < whole - 0.6 * slept
        assert listener.doing_at(3) == ["paused", "training"]

    def test_wishes_are_heard_meanwhile(self, tiny_run, tmp_path, asking):
        class Later(asking):
            """Asks only once it has been told of the pause."""

            def activity(self, name):
                super().activity(name)
                if name == "paused" and not self.wishes:
                    self.wishes = {3: ["sample", "save"]}

        listener = Later(pauses=(3,))
        tiny_run.run_tiny(tmp_path, listener)
        assert listener.doing_at(3) == ["paused", "sampling", "saving", "paused", "training"]
        assert pictures(tmp_path)[0] == "step-000003-00.png"

    @pytest.mark.parametrize("ends", ["finish", "cancel"])
    def test_it_can_be_ended(self, tiny_run, tmp_path, asking, ends):
        class Forever(asking):
            looks = 0

            def is_paused(self):
                self.looks += self.heard_step >= 3
                if self.looks > 2 and ends == "finish" and not self.wishes:
                    self.wishes = {3: ["finish"]}
                return self.heard_step >= 3

            def should_stop(self):
                return ends == "cancel" and self.looks > 2

        if ends == "finish":
            assert tiny_run.run_tiny(tmp_path, Forever()).steps == 3
        else:
            with pytest.raises(CancelledError) as cancelled:
                tiny_run.run_tiny(tmp_path, Forever())
            assert cancelled.value.step == 3
            assert names(tmp_path) == ["cat-step000003.safetensors"]

    def test_asked_to_end_before_it_may_it_takes_the_steps_that_it_needs(self, tiny_run, tmp_path, asking):
        """Paused for good, and the first captions hold no new word: nothing has moved yet."""

        class Forever(asking):
            looks = 0

            def is_paused(self):
                self.looks += self.heard_step >= 1
                assert self.looks < 50
                self.wishes = {1: ["finish"]} if self.looks == 2 else self.wishes
                return self.heard_step >= 1

        captions = ["nothing of it", "nothing of it", "nothing of it", "nothing of it", "TOK"]
        tiny_run.draw_pictures(tmp_path / "pictures", captions=captions)
        values = {"pivotal": {"token": "TOK", "ti_fraction": 1.0}, "objective": {"caption_dropout": 0.0}}
        dataset = tiny_run.tiny_dataset(tmp_path)
        assert 1 < tiny_run.run_tiny(tmp_path, Forever(), dataset=dataset, steps=8, **values).steps < 8

    def test_asked_to_end_and_to_go_on_at_once_it_takes_no_further_step(self, tiny_run, tmp_path, asking):
        class AtOnce(asking):
            """Between two looks the pause is over and the end is asked for."""

            looks = 0

            def is_paused(self):
                if self.heard_step < 3:
                    return False
                self.looks += 1
                if self.looks == 2:
                    self.wishes = {3: ["finish"]}
                return self.looks < 2

        assert tiny_run.run_tiny(tmp_path, AtOnce()).steps == 3


class TestCancel:
    def test_it_goes_before_all_wishes(self, tiny_run, tmp_path, asking):
        listener = asking({3: ["sample", "save", "finish"]}, stop_at=3)
        with pytest.raises(CancelledError) as cancelled:
            tiny_run.run_tiny(tmp_path, listener)
        assert cancelled.value.step == 3
        assert listener.drawn == []
        assert listener.wishes == {3: ["sample", "save", "finish"]}

    def test_asked_for_while_a_wish_is_granted_it_goes_before_the_next(self, tiny_run, tmp_path, asking):
        class Impatient(asking):
            def should_stop(self):
                return bool(self.drawn)

        listener = Impatient({3: ["sample", "finish"]})
        with pytest.raises(CancelledError) as cancelled:
            tiny_run.run_tiny(tmp_path, listener)
        assert cancelled.value.step == 3
        assert not (tmp_path / "loras" / "cat.safetensors").exists()
        assert tiny_run.run_tiny(tmp_path).steps == 6


def test_figures_are_read_before_anything_is_done(tiny_run, tmp_path, asking, monkeypatch):
    """On an accelerator they lie unread for ten steps; the drawing of step 3 is no step's time."""
    monkeypatch.setattr(Training, "read_every", 10)

    class Timed(asking):
        """Asks at its third and fifth look, whatever it has heard."""

        looks = 0

        def next_wish(self):
            self.looks += 1
            return {3: "sample", 5: "save"}.get(self.looks)  # the fourth look is at step 3, too

        def preview(self, step, paths):
            super().preview(step, paths)
            told.append((step, self.heard_step))

        def checkpoint(self, step, path):
            super().checkpoint(step, path)
            told.append((step, self.heard_step))

    class Slow(tiny_run.TinyModel):
        def draw(self, *values):
            time.sleep(0.5)
            return super().draw(*values)

    listener, told = Timed(), []
    tiny_run.run_tiny(tmp_path, listener, Slow())
    assert told == [(3, 3), (4, 4), (6, 6), (6, 6)]
    assert [report.step for report in listener.reports] == [1, 2, 3, 4, 5, 6]
    assert max(report.seconds for report in listener.reports[3:]) < 0.5


def test_figures_are_read_before_a_pause(tiny_run, tmp_path, asking, monkeypatch):
    monkeypatch.setattr(Training, "read_every", 10)

    class Pausing(asking):
        """Pauses at its second look, which is after step 2, for two more."""

        looks = 0

        def is_paused(self):
            self.looks += 1
            return self.looks in (2, 3, 4)

    listener = Pausing()
    tiny_run.run_tiny(tmp_path, listener)
    assert (2, "paused") in listener.activities


def test_what_a_run_does_is_told(tiny_run, tmp_path, asking):
    listener = asking({1: ["save"]}, pauses=(5,))
    values = {
        "validation": {**SHARE, "validate_every": 4},
        "preview": {"preview_every": 4, "steps": 1},
        "run": {"save_every": 4},
    }
    tiny_run.run_tiny(tmp_path, listener, **values)
    assert {step: listener.doing_at(step) for step in range(7)} == {
        0: ["measuring", "sampling", "training"],
        1: ["saving", "training"],
        2: [],
        3: [],
        4: ["measuring", "saving", "sampling", "training"],
        5: ["paused", "training"],
        6: ["ending", "measuring", "saving", "sampling"],
    }


def test_a_run_that_is_cancelled_says_that_it_saves(tiny_run, tmp_path, asking):
    listener = asking(stop_at=2)
    with pytest.raises(CancelledError):
        tiny_run.run_tiny(tmp_path, listener)
    assert listener.doing_at(2) == ["ending", "saving"]


def test_a_run_that_ends_early_says_so_before_it_does_anything_else(tiny_run, tmp_path, asking):
    listener = asking({3: ["finish"]})
    tiny_run.run_tiny(tmp_path, listener, validation={**SHARE, "validate_every": 5})
    assert listener.doing_at(3) == ["ending", "measuring", "saving"]
