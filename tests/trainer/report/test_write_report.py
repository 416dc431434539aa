"""When a report is written, and that nothing about it can cost a run."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import sdxl_trainer.trainer.report.write_report as write_report_module
from sdxl_trainer.trainer.files import atomic_file


def stamps(files):
    return [path.stat().st_mtime_ns for path in (files.report, files.report_picture)]


def age(files, seconds):
    for path in (files.report, files.report_picture):
        time = path.stat().st_mtime - seconds
        os.utime(path, (time, time))


def test_a_run_writes_both_files_and_a_reloaded_one_leaves_them(tiny_run, tmp_path):
    first = tiny_run.run_tiny(tmp_path, steps=4, preview={"preview_every": 2, "steps": 2})
    files = tiny_run.tiny_files(tmp_path)
    assert (first.report_page, first.report_picture) == (files.report, files.report_picture)
    assert first.name in files.report.read_text("utf-8")
    before = stamps(files)
    again = tiny_run.run_tiny(tmp_path, steps=4, preview={"preview_every": 2, "steps": 2})
    assert again.trained_steps == 0
    assert (again.report_page, again.report_picture) == (files.report, files.report_picture)
    assert stamps(files) == before


def test_a_reloaded_run_without_its_report_gets_one(tiny_run, tmp_path):
    tiny_run.run_tiny(tmp_path, steps=2)
    files = tiny_run.tiny_files(tmp_path)
    files.report_picture.unlink()
    tiny_run.run_tiny(tmp_path, steps=2)
    assert files.report_picture.exists()


@pytest.mark.parametrize("what", ["metrics", "samples", "lora"])
def test_a_reloaded_run_is_told_anew_where_something_has_happened_since(made_run, what):
    made_run.write()
    made_run.trained_steps = 0
    after = stamps(made_run.files)
    made_run.write()
    assert stamps(made_run.files) == after
    age(made_run.files, 1000)
    for name in {"metrics", "samples", "lora"} - {what}:
        path = getattr(made_run.files, name)
        os.utime(path, (path.stat().st_mtime - 2000,) * 2)
    made_run.write()
    assert min(stamps(made_run.files)) >= max(after)


@pytest.fixture
def full_disk(monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device", "C:\\Users\\Jane Doe\\report.html")

    monkeypatch.setattr(atomic_file.os, "fsync", full)


def test_a_full_disk_is_told_and_no_older_report_is_taken_for_the_new_one(made_run, request):
    made_run.write()
    request.getfixturevalue("full_disk")
    written = made_run.written()
    assert written.problems == [
        f"{name} could not be written (No space left on device); the training is not touched by it"
        for name in ("report.html", "report.png")
    ]
    assert (written.page, written.picture) == (None, None)
    assert not list(made_run.files.folder.glob("*report.*"))


def test_a_report_that_can_neither_be_written_nor_removed_is_none(made_run, request, monkeypatch):
    made_run.write()
    request.getfixturevalue("full_disk")

    def open_elsewhere(path, missing_ok=False):
        raise PermissionError(13, "it is open in another program")

    monkeypatch.setattr(Path, "unlink", open_elsewhere)
    written = made_run.written()
    assert (written.page, written.picture) == (None, None)
    assert made_run.files.report.exists()


def test_one_that_fails_does_not_cost_the_other(made_run, monkeypatch):
    def fail(facts):
        raise ValueError("no room for 'C:\\Users\\Jane Doe\\report.png'")

    made_run.write()
    monkeypatch.setattr(write_report_module, "picture_report", fail)
    made_run.report = "another text"
    written = made_run.written()
    assert (written.page, written.picture) == (made_run.files.report, None)
    assert not made_run.files.report_picture.exists()
    assert "another text" in made_run.page
    (problem,) = written.problems
    assert problem.startswith("report.png could not be written (ValueError: no room for 'report.png')")


def test_what_cannot_be_gathered_leaves_no_older_report(made_run, monkeypatch):
    def fail(*values):
        raise TypeError("a fault of ours")

    made_run.write()
    monkeypatch.setattr(write_report_module, "gather", fail)
    written = made_run.written()
    assert len(written.problems) == 1
    assert (written.page, written.picture) == (None, None)
    assert not list(made_run.files.folder.glob("*report.*"))


def test_the_report_of_a_run_hides_folders_however_they_are_written(made_run):
    place = made_run.files.loras_folder / "cat.safetensors"
    made_run.notes = (f"'{place}' is gone", r"cannot read 'C:\\Users\\Jane Doe\\cats\\1.png'")
    made_run.write()
    assert str(made_run.files.loras_folder) not in made_run.page
    assert "Jane" not in made_run.page


def test_a_run_whose_report_cannot_be_written_says_so_and_has_none(tiny_run, tmp_path, monkeypatch):
    def fail(facts):
        raise ValueError("odd numbers")

    tiny_run.run_tiny(tmp_path, steps=2)
    files = tiny_run.tiny_files(tmp_path)
    monkeypatch.setattr(write_report_module, "html_report", fail)
    files.metrics.touch()
    result = tiny_run.run_tiny(tmp_path, steps=2)
    assert (result.report_page, result.report_picture) == (None, files.report_picture)
    assert "report.html could not be written (ValueError: odd numbers)" in result.report
    assert not files.report.exists()


def test_a_folder_that_is_gone_is_told(made_run):
    made_run.files = replace(made_run.files, folder=made_run.files.folder / "gone")
    assert len(made_run.write()) == 2


def test_pictures_that_are_gone_are_told_in_few_words(made_run, tmp_path):
    for path in (tmp_path / "pictures").glob("*.png"):
        path.write_bytes(b"changed")
    (made_run.files.samples / "step-000010-01.png").write_bytes(b"")
    assert made_run.write() == []
    assert "step-000010-01.png could not be read for the report" in made_run.page
    assert "0.png is not shown in the report" in made_run.page
    assert "and 2 more files could not be read" in made_run.page
    assert str(tmp_path) not in made_run.page


def test_a_log_of_garbage_is_a_report_without_a_chart(made_run):
    made_run.files.metrics.write_bytes(b'\xff\xfe{"step": 1, "loss"\n[]\n{"step": "x"}\n')
    assert made_run.write() == []
    assert "<svg" not in made_run.page
    assert "No pictures were held out" in made_run.page
