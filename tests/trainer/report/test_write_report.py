"""When a report is written, and that nothing about it can cost a run."""

import os
from dataclasses import replace

import pytest
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
    assert first.report_page == files.report
    assert first.report_picture == files.report_picture
    assert first.name in files.report.read_text("utf-8")
    before = stamps(files)
    again = tiny_run.run_tiny(tmp_path, steps=4, preview={"preview_every": 2, "steps": 2})
    assert again.trained_steps == 0
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


def test_a_full_disk_is_told_and_leaves_the_old_files(made_run, monkeypatch):
    made_run.write()
    before = made_run.page

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_file.os, "fsync", full)
    made_run.report = "another text"
    problems = made_run.write()
    assert problems == [
        f"{name} could not be written (No space left on device); the training is not touched by it"
        for name in ("report.html", "report.png")
    ]
    assert made_run.page == before
    assert not list(made_run.files.folder.glob(".*.part"))


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
