import pytest
from sdxl_trainer.trainer.runs.asked_for import AskedFor
from sdxl_trainer.trainer.runs.run_folder import RunFiles


@pytest.fixture
def files(tmp_path):
    files = RunFiles("cat", tmp_path / "loras", tmp_path / "runs" / "cat")
    files.loras_folder.mkdir()
    files.folder.mkdir(parents=True)
    return files


def test_nothing_was_asked_of_a_run_without_the_file(files):
    asked = AskedFor(files)
    assert (asked.checkpoints, asked.end) == (set(), 0)
    assert not files.asked.exists()


def test_what_was_asked_is_known_when_the_run_is_taken_up_again(files):
    asked = AskedFor(files)
    for step in (20, 5):
        files.kept_lora(step).touch()
        asked.keep(step)
    asked.end_at(30)
    again = AskedFor(files)
    assert (again.checkpoints, again.end) == ({5, 20}, 30)
    again.end_at(0)
    assert AskedFor(files).end == 0
    assert [path.name for path in files.folder.iterdir()] == ["asked.json"]


def test_a_checkpoint_without_a_file_is_asked_for_no_more(files):
    AskedFor(files).keep(5)
    assert AskedFor(files).checkpoints == set()


def test_one_that_could_not_be_written_is_forgotten(files):
    files.kept_lora(5).touch()
    asked = AskedFor(files)
    asked.keep(5)
    asked.forget(5)
    assert asked.checkpoints == set()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff\xfe", b"[]", b"5", b'{"checkpoints": [5]}'),
        *(b'{"checkpoints": 5, "end": 1}', b'{"checkpoints": ["x"], "end": 0}'),
        b'{"checkpoints": [5], "end": Infinity}',
    ],
)
def test_a_damaged_file_is_none(files, content):
    files.kept_lora(5).touch()
    files.asked.write_bytes(content)
    asked = AskedFor(files)
    assert (asked.checkpoints, asked.end) == (set(), 0)
