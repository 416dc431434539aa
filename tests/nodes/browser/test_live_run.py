"""What is known of a run: told by the training thread as a listener hears it, read as plain JSON."""

import gc
import json
import math
import os
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image
from sdxl_trainer.trainer.events import RunStart, StepReport


@pytest.fixture
def changes():
    return []


@pytest.fixture
def run(changes):
    from sdxl_trainer.nodes.browser.live_run import LiveRun, RunPlace

    return LiveRun("0" * 16, RunPlace("3:12", "workflow", "prompt"), changes.append)


def start(folder, step=0, num_steps=10):
    return RunStart(
        name="cat", folder=folder, step=step, num_steps=num_steps, prompts=["a cat", "a dog"], size=(64, 32)
    )


def report(step, loss=0.25, **changes):
    values = {"num_steps": 10, "epoch": step / 4, "grad_norm": 1.0, "learning_rate": 1e-4, "seconds": 2.0}
    return StepReport(**{"step": step, "loss": loss, **values, **changes})


def run_end(**changes):
    from sdxl_trainer.nodes.browser.live_run import RunEnd

    values = {"lora_file": "cat.safetensors", "trigger_words": "zorp", "embedding": "", "summary": "good"}
    return RunEnd(**{"steps": 10, "is_reloaded": False, **values, **changes})


def test_a_new_run_is_being_prepared_and_can_be_asked_nothing(run):
    state = run.light()
    assert (state["id"], state["node"], state["workflow"], state["prompt"]) == (
        "0" * 16,
        "3:12",
        "workflow",
        "prompt",
    )
    assert (state["state"], state["name"], state["step"], state["can"]) == ("preparing", "", 0, [])
    assert {wish: bool(run.ask(wish)) for wish in ("finish", "pause", "go_on", "sample", "save")} == {
        wish: True for wish in ("finish", "pause", "go_on", "sample", "save")
    }
    assert run.next_wish() is None


def test_phases_and_steps_show_in_the_state(run, tmp_path):
    run.begin(start(tmp_path))
    run.phase("encoding pictures", 3, 12)
    state = run.light()
    assert (state["state"], state["phase"], state["done"], state["total"]) == (
        "preparing",
        "encoding pictures",
        3,
        12,
    )
    for step in (1, 2, 3):
        run.step(report(step, seconds=float(step), learning="the new tokens"))
    state = run.light()
    assert (state["state"], state["phase"], state["step"], state["num_steps"]) == ("training", "", 3, 10)
    assert (state["seconds_per_step"], state["left"], state["epoch"]) == (2.0, 14.0, 0.75)
    assert (state["loss"], state["learning_rate"], state["learning"]) == (0.25, 1e-4, "the new tokens")
    assert state["picture_size"] == [64, 32]


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_figures_that_json_has_no_number_for_are_null_everywhere(run, tmp_path, odd):
    run.begin(start(tmp_path))
    run.validation(0, odd)
    run.step(report(1, loss=odd, learning_rate=odd, effective_learning_rate=odd, epoch=odd, seconds=odd))
    for state in (run.take_event(), run.light(), run.full()):
        json.dumps(state, allow_nan=False)
    state = run.full()
    assert (state["loss"], state["learning_rate"], state["effective_learning_rate"]) == (None, None, None)
    assert state["history"]["loss"] == [None]
    assert state["validation"] == {"step": [0], "loss": [None], "best_step": 0}


def test_an_event_carries_what_happened_since_the_one_before(run, tmp_path):
    run.begin(start(tmp_path))
    first = run.take_event()
    assert (first["revision"], first["points"]["step"]) == (1, [])
    run.step(report(1))
    run.step(report(2, loss=math.nan))
    second = run.take_event()
    assert second["revision"] == 2
    assert second["points"] == {"step": [1, 2], "loss": [0.25, None], "learning_rate": [1e-4, 1e-4]}
    assert not second.keys() & {"validation", "checkpoints", "previews", "history"}
    lora = tmp_path / "cat-step000002.safetensors"
    lora.touch()
    run.validation(2, 0.5)
    run.checkpoint(2, lora)
    third = run.take_event()
    assert third["points"]["step"] == []
    assert third["validation"] == {"step": [2], "loss": [0.5], "best_step": 2}
    assert third["checkpoints"] == [{"step": 2, "file": "cat-step000002.safetensors"}]
    assert "previews" not in third


def test_the_best_step_is_the_lowest_after_training_began(run, tmp_path):
    run.begin(start(tmp_path))
    for step, loss in ((0, 0.1), (2, 0.3), (4, 0.2), (6, 0.4)):
        run.validation(step, loss)
    assert run.full()["validation"]["best_step"] == 4
    assert run.light()["held_out_loss"] == 0.4


def test_pictures_and_checkpoints_that_are_gone_are_no_more_shown(run, tmp_path):
    run.begin(start(tmp_path))
    pictures = [tmp_path / f"step-000002-{n:02d}.png" for n in (0, 1)]
    for path in pictures:
        Image.new("RGB", (4, 4)).save(path)
    run.preview(2, pictures)
    run.checkpoint(2, tmp_path / "pruned.safetensors")
    assert run.full()["previews"] == {"prompts": ["a cat", "a dog"], "steps": [2]}
    assert run.full()["checkpoints"] == []
    assert run.picture(2, 1) == pictures[1]
    assert run.picture(2, 2) is None
    assert run.picture(3, 0) is None
    pictures[0].unlink()
    assert run.full()["previews"]["steps"] == []


def resumed(folder, step):
    """A run folder that an earlier call has left, with traces of steps after `step`."""
    lines = [{"step": 0, "validation_loss": 0.9}]
    lines += [{"step": n, "loss": n / 10, "learning_rate": 1e-4, "seconds": 1.0} for n in range(1, 6)]
    lines += [{"step": 4, "validation_loss": 0.7}, {"step": 5, "validation_loss": 0.6}]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "samples").mkdir()
    for n in (0, 2, 5):
        Image.new("RGB", (4, 4)).save(folder / "samples" / f"step-{n:06d}-00.png")
    return start(folder, step)


def test_a_run_that_goes_on_shows_what_it_did_before(tmp_path):
    from sdxl_trainer.nodes.browser.live_run import LiveRun, RunPlace

    kept = [(step, tmp_path / f"cat-step{step:06d}.safetensors") for step in (2, 5)]
    for _, path in kept:
        path.touch()
    run = LiveRun("1" * 16, RunPlace("1"), lambda _: None, lambda name: kept if name == "cat" else ())
    before = run.take_event()["revision"]
    run.begin(resumed(tmp_path, 4))
    state = run.full()
    assert state["history"]["step"] == [1, 2, 3, 4]
    assert state["validation"] == {"step": [0, 4], "loss": [0.9, 0.7], "best_step": 4}
    assert state["previews"]["steps"] == [0, 2]
    assert state["checkpoints"] == [{"step": 2, "file": "cat-step000002.safetensors"}]
    assert (state["step"], state["loss"], state["held_out_loss"]) == (4, 0.4, 0.7)
    assert run.take_event()["revision"] == before + 2  # so that a browser misses one and reads the whole


def test_a_run_that_starts_anew_shows_nothing_of_an_older_one_in_its_folder(run, tmp_path):
    run.begin(resumed(tmp_path, 0))
    state = run.full()
    assert state["history"]["step"] == []
    assert state["validation"]["step"] == []
    assert state["previews"]["steps"] == []


def test_old_pictures_keep_the_prompts_they_were_drawn_with_until_new_ones_are_there(run, tmp_path):
    start_again = resumed(tmp_path, 4)
    (tmp_path / "drawn_with.json").write_text(json.dumps([["a cow"], [128, 96], {}]))
    run.begin(start_again)
    assert run.full()["previews"] == {"prompts": ["a cow"], "steps": [0, 2]}
    assert run.light()["picture_size"] == [128, 96]
    new = [tmp_path / "samples" / f"step-000004-{n:02d}.png" for n in (0, 1)]
    for path in new:
        Image.new("RGB", (4, 4)).save(path)
    run.preview(4, new)
    assert run.full()["previews"] == {"prompts": ["a cat", "a dog"], "steps": [4]}
    assert run.light()["picture_size"] == [64, 32]


def test_pictures_of_the_same_prompts_stay_beside_new_ones(run, tmp_path):
    start_again = resumed(tmp_path, 4)
    (tmp_path / "drawn_with.json").write_text(json.dumps([["a cat", "a dog"], [64, 32], {}]))
    run.begin(start_again)
    run.preview(2, list((tmp_path / "samples").glob("step-000002-*")))
    assert run.full()["previews"] == {"prompts": ["a cat", "a dog"], "steps": [0, 2]}


def test_a_new_run_reads_nothing_of_an_old_log(run, tmp_path):
    start_anew = resumed(tmp_path, 0)
    (tmp_path / "metrics.jsonl").unlink()
    os.mkfifo(tmp_path / "metrics.jsonl")  # whoever opens it waits for good
    reading = threading.Thread(target=run.begin, args=(start_anew,), daemon=True)
    reading.start()
    reading.join(5)
    assert not reading.is_alive()


def training(run, folder, steps=2):
    run.begin(start(folder))
    run.activity("training")
    for step in range(1, steps + 1):
        run.step(report(step))
    return run


def test_what_can_be_asked_follows_from_the_state(run, tmp_path):
    run.begin(start(tmp_path))
    run.activity("training")
    assert run.light()["can"] == ["finish", "pause", "sample", "save"]  # the trainer waits for a first step
    run.step(report(1))
    assert run.light()["can"] == ["finish", "pause", "sample", "save"]
    for activity in ("measuring", "sampling", "saving", "paused"):
        run.activity(activity)
        assert {"finish", "sample", "save"} <= set(run.light()["can"])
    run.step(report(10))
    assert run.light()["can"] == []
    assert "about to end" in run.ask("sample")


def test_wishes_are_heard_in_their_order_and_not_taken_twice(run, tmp_path, changes):
    training(run, tmp_path)
    changes.clear()
    assert [run.ask(wish) for wish in ("save", "sample")] == ["", ""]
    assert len(changes) == 2
    assert run.light()["wishes"] == ["save", "sample"]
    assert run.light()["can"] == ["finish", "pause"]
    assert run.ask("sample") == "pictures are asked for already"
    assert [run.next_wish(), run.next_wish(), run.next_wish()] == ["save", "sample", None]
    assert run.light()["wishes"] == []
    assert run.ask("sample") == ""


def test_pausing_and_going_on(run, tmp_path):
    training(run, tmp_path)
    assert run.ask("go_on") == "it is not paused"
    assert not run.is_paused()
    assert run.ask("pause") == ""
    assert run.is_paused()
    assert run.light()["wishes"] == ["pause"]
    run.activity("paused")
    assert (run.light()["wishes"], run.light()["state"]) == ([], "paused")
    assert run.ask("pause") == "it is paused already"
    assert run.light()["can"] == ["finish", "go_on", "sample", "save"]
    assert run.ask("go_on") == ""
    assert not run.is_paused()
    assert run.light()["wishes"] == ["go_on"]
    run.activity("training")
    assert run.light()["wishes"] == []


def test_after_finish_nothing_else_can_be_asked_and_it_stays_asked(run, tmp_path):
    training(run, tmp_path)
    assert run.ask("finish") == ""
    assert run.light()["can"] == []
    assert run.next_wish() == "finish"
    assert run.light()["wishes"] == ["finish"]
    assert "about to end" in run.ask("finish")
    assert "about to end" in run.ask("pause")


def test_asking_a_paused_run_to_finish_ends_the_pause(run, tmp_path):
    training(run, tmp_path)
    run.ask("pause")
    run.activity("paused")
    assert run.ask("finish") == ""
    assert not run.is_paused()
    assert (run.light()["wishes"], run.light()["can"]) == (["finish"], [])
    assert run.next_wish() == "finish"
    run.activity("training")
    assert (run.light()["wishes"], run.light()["can"]) == (["finish"], [])


def test_nor_does_a_pause_that_was_only_asked_for_wait_behind_it(run, tmp_path):
    training(run, tmp_path)
    run.ask("pause")
    run.ask("finish")
    assert (run.light()["wishes"], run.is_paused()) == (["finish"], False)


@pytest.mark.parametrize("doing", ["measuring", "saving", "sampling"])
def test_a_run_whose_last_step_is_behind_it_takes_no_wish(run, tmp_path, doing):
    """It ran out of patience at step 2 of 10, or was cancelled there."""
    training(run, tmp_path)
    run.ask("pause")
    run.ask("sample")
    run.activity("ending")
    assert run.light()["state"] == "training"  # no browser knows of a state "ending"
    run.activity(doing)
    run.phase("uploading", 0, 1)
    state = run.light()
    assert (state["state"], state["can"], state["left"]) == (doing, [], None)
    assert state["wishes"] == ["sample"]
    assert not run.is_paused()
    assert run.ask("save") == run.ask("pause") == "it has trained to its end"
    assert run.next_wish() == "sample"


def test_a_finished_run_shows_its_file_and_its_clock_stands_still(run, tmp_path):
    training(run, tmp_path)
    run.ask("save")
    run.settle(run_end(steps=2))
    assert (run.light()["can"], run.light()["wishes"], run.light()["left"]) == ([], [], None)
    assert run.ask("pause") == "it has trained to its end"
    (tmp_path / "report.html").write_text("<p>")
    run.end("done")
    state = run.light()
    assert (state["state"], state["lora_file"], state["summary"]) == ("done", "cat.safetensors", "good")
    assert (state["has_report"], run.report()) == (True, tmp_path / "report.html")
    assert state["elapsed"] == run.light()["elapsed"]
    assert run.next_wish() is None
    assert run.ask("pause") == "it has ended"


def test_a_failed_run_says_why_and_has_no_report_of_an_older_one(run, tmp_path):
    training(run, tmp_path)
    (tmp_path / "report.html").write_text("<p>old")
    run.note("a note")
    run.end("failed", "the folder is empty")
    state = run.light()
    assert (state["state"], state["message"], state["has_report"]) == ("failed", "the folder is empty", False)
    assert run.report() is None


def test_a_cancelled_run_keeps_its_last_note(run, tmp_path):
    run.note("stopped at step 5, kept in cat-step000005.safetensors")
    run.end("cancelled")
    assert run.light()["message"] == "stopped at step 5, kept in cat-step000005.safetensors"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("cannot read /home/me/ComfyUI/input/cats/a.png: gone", "cannot read a.png: gone"),
        ("'C:\\Users\\me\\cats\\a.png' is broken", "'a.png' is broken"),
        ("folder 'input/cats/small' holds no picture", "folder 'input/cats/small' holds no picture"),
        ("see https://example.org/a/b, step 3/4, and/or", "see https://example.org/a/b, step 3/4, and/or"),
        ("OSError:/home/me/x.bin", "OSError:x.bin"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        (str(OSError(2, "gone", "C:\\Users\\John Doe\\x.png")), "[Errno 2] gone: 'x.png'"),
        ("/mnt/My Big Old Disk No 5/my loras/a b.safetensors: full", "my loras/a b.safetensors: full"),
    ],
)
def test_messages_name_files_and_no_folders(run, said, shown):
    run.hide_folders([Path("/mnt/My Big Old Disk No 5/my loras")])
    run.note(said)
    assert run.light()["message"] == shown
    run.end("failed", said)
    assert run.light()["message"] == shown


def test_memory_is_read_with_an_event_and_no_more_after_the_end(run):
    readings = []

    def read():
        readings.append(len(readings))
        return {"used": len(readings), "peak": 9, "total": 10, "where": "GPU"}

    run.measure_memory(read)
    run.light()
    assert run.take_event()["memory"]["used"] == 1
    run.end("done")
    assert run.take_event()["memory"]["used"] == 1
    assert readings == [0]


def test_nothing_of_a_run_keeps_a_tensor_alive(run, tmp_path):
    training(run, tmp_path)
    try:
        raise RuntimeError(torch.zeros(3))
    except RuntimeError as error:
        run.end("failed", str(error))
    assert reachable_tensors(run) == []


def reachable_tensors(thing):
    seen, left, tensors = set(), [thing], []
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type) or type(one).__name__ in ("module", "function", "frame"):
            continue
        seen.add(id(one))
        tensors += [one] if isinstance(one, torch.Tensor) else []
        left += gc.get_referents(one)
    return tensors


def test_the_search_for_tensors_finds_one(run):
    run.hidden_here = {"a": [torch.zeros(1)]}
    assert len(reachable_tensors(run)) == 1


def test_accumulated_events_are_the_full_state(run, tmp_path: Path):
    run.begin(start(tmp_path))
    heard = {"step": [], "loss": [], "learning_rate": []}
    for step in range(1, 8):
        run.step(report(step, loss=1 / step))
        if step % 3 == 0:
            run.validation(step, 0.5 / step)
            for name, values in run.take_event()["points"].items():
                heard[name] += values
    last = run.take_event()
    for name, values in last.pop("points").items():
        heard[name] += values
    full = run.full()
    assert {name: full["history"][name] for name in heard} == heard
    assert full["revision"] == last["revision"]
    shared = {name: full[name] for name in last if name != "elapsed"}
    last.pop("elapsed")
    assert shared == last
