"""What is told of an error: why, and not where on this machine."""

import errno
from functools import partial

import pytest
import sdxl_trainer.trainer.runs.run_writer as run_writer
from PIL import Image
from sdxl_trainer.trainer.errors import InputError, reason_of
from sdxl_trainer.trainer.runs.disk_checks import must_be_writable

FULL = partial(
    OSError, errno.ENOSPC, "No space left on device", "C:\\Users\\Jane Doe\\loras\\cat.safetensors"
)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FULL(), "No space left on device"),
        (FileNotFoundError("No such file or directory: /home/jane/cat.safetensors"), "FileNotFoundError"),
        (OSError(), "OSError"),
        (RuntimeError("CUDA out of memory"), "CUDA out of memory"),
        (KeyError(), "KeyError"),
    ],
)
def test_an_error_of_a_file_tells_no_folder(error, told):
    assert reason_of(error) == told


def test_nor_does_one_of_a_picture():
    with pytest.raises(OSError, match="Jane") as raised:
        Image.open("/Users/Jane/cat.png")
    assert reason_of(raised.value) == "No such file or directory"


def test_a_folder_that_cannot_be_written_to_has_only_its_name(tmp_path):
    with pytest.raises(InputError) as refused, must_be_writable(tmp_path / "cat"):
        raise PermissionError("C:\\Users\\Jane Doe\\loras")
    assert str(refused.value).startswith("the folder 'cat' cannot be written to (PermissionError)")


def test_a_checkpoint_that_cannot_be_written_is_told_without_its_folder(tiny_run, tmp_path, monkeypatch):
    save_state = run_writer.save_state
    full_at = [2, 6]

    def full(folder, state, spared):
        if state.step in full_at:
            raise FULL()
        return save_state(folder, state, spared)

    monkeypatch.setattr(run_writer, "save_state", full)
    listener = tiny_run.StopAfter()
    listener.note = (notes := []).append
    with pytest.raises(InputError, match=r"step 6 .* \(No space left on device\): free") as end:
        tiny_run.run_tiny(tmp_path, listener, run={"save_every": 2})
    assert notes == ["the checkpoint of step 2 could not be written: No space left on device"]
    assert "Jane" not in str(end.value)


def test_a_picture_that_cannot_be_drawn_is_told_without_its_folder(tiny_run, tmp_path):
    class Broken(tiny_run.TinyModel):
        def draw(self, *values):
            raise FULL()

    result = tiny_run.run_tiny(tmp_path, model=Broken(), steps=2, preview={"preview_every": 1})
    assert "step 0 could not be drawn (OSError: No space left on device); the training" in result.report
    assert "Jane" not in result.report
