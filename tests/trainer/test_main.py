"""The command line, in this process; tests/trainer/test_faults.py kills whole ones."""

import importlib

import pytest
from PIL import Image
from safetensors.torch import load_file


@pytest.fixture
def command():
    return importlib.import_module("sdxl_trainer.trainer.__main__")


@pytest.fixture
def arguments(tiny_run, tmp_path):
    pictures = tiny_run.draw_pictures(tmp_path / "noise", 2)
    output = tmp_path / "out"
    fixed = ["--resolution", "64", "--rank", "2", "--targets", "attention", "--seed", "1", "--device", "cpu"]
    return ["--data", str(pictures), "--output", str(output), *fixed]


def test_trains_on_the_stand_in_and_draws_the_sheet(command, arguments, tmp_path, capsys):
    sheet = tmp_path / "sheets" / "sheet.png"
    options = ["--steps", "2", "--name", "zyx", "--sheet", str(sheet), "--prompts", "a red circle", "noise"]
    assert command.main([*arguments, *options]) == 0
    assert load_file(tmp_path / "out" / "loras" / "zyx.safetensors")
    width, height = Image.open(sheet).size
    assert width > 2 * 200
    assert height > 2 * 200
    said = capsys.readouterr().out
    assert "rank 2 (node)" in said
    assert "trained 2 steps" in said


def test_bad_input_is_one_sentence_and_status_1(command, arguments, capsys):
    assert command.main([*arguments, "--steps", "2", "--name", "a/b"]) == 1
    said = capsys.readouterr().err
    assert "error: name 'a/b' holds /" in said
    assert "Traceback" not in said


def test_stopped_is_status_130_and_the_same_command_goes_on(
    command, arguments, tmp_path, monkeypatch, capsys
):
    class Stopping(command.TerminalListener):
        def step(self, report):
            super().step(report)
            if report.step == 2:
                self.stop()

    monkeypatch.setattr(command, "TerminalListener", Stopping)
    assert command.main([*arguments, "--steps", "3"]) == 130
    assert "kept in noise-step000002.safetensors" in capsys.readouterr().err
    monkeypatch.undo()
    assert command.main([*arguments, "--steps", "3"]) == 0
    assert "went on from step 2" in capsys.readouterr().out


def test_native_resolution_is_read_from_a_folder(command, stand_in_folder, tmp_path):
    assert command.native_resolution(stand_in_folder) == 128
    assert command.native_resolution(tmp_path / "sdxl.safetensors") == 1024
