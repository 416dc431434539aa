import pytest
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.runs.disk_checks import require_disk_space


def test_disk_message_has_both_numbers(tmp_path):
    require_disk_space(tmp_path, 1, "they")
    with pytest.raises(InputError, match=r"has [\d,]+ MiB free, but they need 1,048,576,000 MiB"):
        require_disk_space(tmp_path, 1000 * 2**40, "they")


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(tiny_run, tmp_path):
    (tmp_path / "loras").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="the folder 'loras' cannot be written to"):
        tiny_run.run_tiny(tmp_path)
