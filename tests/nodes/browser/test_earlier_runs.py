"""Runs of other days: found by listing the folder of runs, whatever lies in it."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def earlier(tmp_path):
    from sdxl_trainer.nodes.browser.earlier_runs import EarlierRuns

    (tmp_path / "runs").mkdir()
    names = [
        "cat.safetensors",
        "cat-step000005.safetensors",
        "cat-step10.safetensors",
        "cat-stepx.safetensors",
    ]
    return EarlierRuns(lambda: tmp_path / "runs", lambda: names)


@pytest.fixture
def runs_folder(tmp_path, earlier):
    return tmp_path / "runs"


def make_run(runs_folder, name, date=1_000_000):
    folder = runs_folder / name
    (folder / "samples").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"settings": {"steps": 12, "name": name}}))
    os.utime(folder / "config.json", (date, date))
    (folder / "drawn_with.json").write_text(json.dumps([["a cat", "a dog"], [64, 32], {}]))
    lines = [{"step": 0, "validation_loss": 0.9}]
    lines += [{"step": n, "loss": n / 10, "learning_rate": 1e-4, "seconds": 0.5} for n in range(1, 11)]
    lines += [{"step": 10, "validation_loss": 0.5}]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for step, index in ((0, 0), (10, 0), (10, 1)):
        Image.new("RGB", (64, 32)).save(folder / "samples" / f"step-{step:06d}-{index:02d}.png")
    return folder


def ids(earlier, without=()):
    return [state["id"] for state in earlier.light(without)]


def test_a_folder_tells_how_far_its_run_came(earlier, runs_folder):
    make_run(runs_folder, "cat")
    (state,) = earlier.light(())
    assert (state["id"], state["name"], state["state"]) == ("earlier:cat", "cat", "earlier")
    assert (state["step"], state["num_steps"], state["loss"]) == (10, 12, 1.0)
    assert (state["learning_rate"], state["held_out_loss"]) == (1e-4, 0.5)
    assert (state["lora_file"], state["has_report"], state["picture_size"]) == (
        "cat.safetensors",
        False,
        [64, 32],
    )
    assert (state["started"], state["can"], state["wishes"]) == (1_000_000.0, [], [])


def test_the_whole_of_it_has_the_course_the_pictures_and_the_files(earlier, runs_folder):
    make_run(runs_folder, "cat")
    state = earlier.full("earlier:cat")
    assert state["history"]["step"] == list(range(1, 11))
    assert state["validation"] == {"step": [0, 10], "loss": [0.9, 0.5], "best_step": 10}
    assert state["previews"] == {"prompts": ["a cat", "a dog"], "steps": [0, 10]}
    assert [entry["step"] for entry in state["checkpoints"]] == [5, 10]
    assert state["elapsed"] == 5.0
    assert earlier.light(())[0].keys() < state.keys()
    json.dumps(state, allow_nan=False)


def test_pictures_and_the_report_are_found_by_listing(earlier, runs_folder):
    folder = make_run(runs_folder, "cat")
    assert earlier.picture("earlier:cat", 10, 1) == folder / "samples" / "step-000010-01.png"
    assert earlier.picture("earlier:cat", 10, 2) is None
    assert earlier.picture("earlier:dog", 10, 1) is None
    assert earlier.report("earlier:cat") is None
    (folder / "report.html").write_text("<p>")
    assert earlier.report("earlier:cat") == folder / "report.html"
    assert earlier.light(())[0]["has_report"]


def test_the_newest_comes_first_and_a_live_runs_folder_not_at_all(earlier, runs_folder):
    for name, date in (("old", 1000), ("new", 3000), ("middle", 2000)):
        make_run(runs_folder, name, date)
    assert ids(earlier) == ["earlier:new", "earlier:middle", "earlier:old"]
    assert ids(earlier, [runs_folder / "middle"]) == ["earlier:new", "earlier:old"]


def test_what_is_no_run_is_not_listed(earlier, runs_folder, tmp_path):
    make_run(runs_folder, ".cache")
    (runs_folder / "empty").mkdir()
    (runs_folder / "file").write_text("{}")
    make_run(tmp_path, "outside")
    (runs_folder / "linked").symlink_to(tmp_path / "outside")
    assert ids(earlier) == []
    for name in (".cache", "linked", "..", ".", "", "empty", "../outside", f"{tmp_path}/outside"):
        assert earlier.full(f"earlier:{name}") is None
        assert earlier.picture(f"earlier:{name}", 10, 0) is None
        assert earlier.report(f"earlier:{name}") is None


def test_links_within_a_run_lead_nowhere(earlier, runs_folder, tmp_path):
    folder = make_run(runs_folder, "cat")
    secret = tmp_path / "secret.txt"
    secret.write_text('{"step": 99, "loss": 0.5}\n')
    for place in ("samples/step-000011-00.png", "report.html"):
        (folder / place).symlink_to(secret)
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").symlink_to(secret)
    assert earlier.picture("earlier:cat", 11, 0) is None
    assert earlier.report("earlier:cat") is None
    assert earlier.full("earlier:cat")["history"]["step"] == []
    assert earlier.light(())[0]["step"] == 0
    (folder / "samples").rename(tmp_path / "elsewhere")
    (folder / "samples").symlink_to(tmp_path / "elsewhere")
    assert earlier.picture("earlier:cat", 10, 0) is None


@pytest.mark.parametrize(
    "broken", ["", "{", "null", "[]", '{"settings": 3}', '{"settings": {"steps": "x"}}', "[" * 9999]
)
def test_broken_files_are_no_error(earlier, runs_folder, broken):
    folder = make_run(runs_folder, "cat")
    for name in ("config.json", "drawn_with.json", "metrics.jsonl"):
        (folder / name).write_text(broken)
    (state,) = earlier.light(())
    assert (state["name"], state["step"], state["num_steps"], state["picture_size"]) == ("cat", 0, 0, [0, 0])
    assert earlier.full("earlier:cat")["previews"]["prompts"] == []


def test_a_log_of_many_lines_is_read_from_its_end(earlier, runs_folder):
    folder = make_run(runs_folder, "cat")
    with (folder / "metrics.jsonl").open("a") as file:
        for step in range(11, 2001):
            file.write(json.dumps({"step": step, "loss": 0.25, "learning_rate": 1e-4}) + "\n")
        file.write('{"step": 2001, "lo')
    (state,) = earlier.light(())
    assert (state["step"], state["loss"]) == (2000, 0.25)


def test_without_a_folder_of_runs_there_are_none(tmp_path):
    from sdxl_trainer.nodes.browser.earlier_runs import EarlierRuns

    assert EarlierRuns(lambda: tmp_path / "none", lambda: []).light(()) == []


@pytest.mark.parametrize(
    ("refused", "is_listed"),
    [(["is_file", "stat", "open", "read_text"], False), (["open", "read_text"], True)],
)
def test_a_folder_that_may_not_be_read_does_not_hide_the_others(
    earlier, runs_folder, monkeypatch, refused, is_listed
):
    for name in ("cat", "closed", "dog"):
        make_run(runs_folder, name)

    def refuse(look):
        def refusing(path, *values, **options):
            if path.parent.name == "closed":
                raise PermissionError(13, "Permission denied", str(path))
            return look(path, *values, **options)

        return refusing

    for name in refused:
        monkeypatch.setattr(Path, name, refuse(getattr(Path, name)))
    shown = ["earlier:cat", *(["earlier:closed"] if is_listed else []), "earlier:dog"]
    assert sorted(ids(earlier)) == shown
    whole = earlier.full("earlier:closed")
    assert (whole is not None) == is_listed
    assert whole is None or (whole["step"], whole["num_steps"]) == (0, 0)


def test_one_that_goes_away_while_it_is_listed_is_not_there(earlier, runs_folder, monkeypatch):
    from sdxl_trainer.nodes.browser import earlier_runs

    folder = make_run(runs_folder, "cat")
    make_run(runs_folder, "dog")
    read_end = earlier_runs.read_end

    def slow(path):
        if path.parent == folder and folder.exists():
            shutil.rmtree(folder)
        return read_end(path)

    monkeypatch.setattr(earlier_runs, "read_end", slow)
    assert "earlier:dog" in ids(earlier)
    assert ids(earlier) == ["earlier:dog"]


def test_two_hundred_are_listed_and_an_older_one_can_still_be_read(earlier, runs_folder):
    for number in range(201):
        (runs_folder / f"run{number}").mkdir()
        (runs_folder / f"run{number}" / "config.json").write_text("{}")
        os.utime(runs_folder / f"run{number}" / "config.json", (1000 + number, 1000 + number))
    assert ids(earlier) == [f"earlier:run{number}" for number in range(200, 0, -1)]
    assert earlier.full("earlier:run0")["name"] == "run0"


def test_a_request_about_one_run_looks_at_no_other(earlier, runs_folder, monkeypatch):
    for name in ("cat", "dog"):
        make_run(runs_folder, name)
    looked, is_file = [], Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: looked.append(path) or is_file(path))
    earlier.full("earlier:cat")
    earlier.picture("earlier:cat", 10, 0)
    earlier.report("earlier:cat")
    assert looked
    assert not [path for path in looked if "dog" in path.parts]
