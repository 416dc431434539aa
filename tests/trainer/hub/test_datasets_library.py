"""What the hub's libraries raise, as one sentence that holds no secret."""

import errno

import pytest
from sdxl_trainer.trainer.hub.datasets_library import is_missing_file, load_libraries, quietly, sentence_of
from sdxl_trainer.trainer.hub.hub_faults import DISK_IS_FULL
from sdxl_trainer.trainer.settings.hub_config import HubConfig

datasets = pytest.importorskip("datasets", reason="pip install datasets")
CONFIG = HubConfig(repository="somebody/cats")


def caused(error, cause):
    error.__cause__ = cause
    return error


def test_a_sentence_holds_neither_tokens_nor_places_on_this_machine():
    fault = ValueError(
        "cannot read '/home/me/.cache/huggingface/a.arrow' with Bearer hf_abc at hf_abcdef\nmore"
    )
    said = sentence_of(load_libraries(), CONFIG, fault, done=7)
    assert said == (
        "the dataset somebody/cats could not be read after 7 rows: ValueError: cannot read 'a.arrow' with "
        "*** at ***; run again, which goes on from there"
    )


def test_a_full_disk_is_known_behind_what_the_library_makes_of_it():
    full = OSError(errno.ENOSPC, "No space left on device", "/home/me/.cache/a.arrow")
    fault = caused(datasets.exceptions.DatasetGenerationError("An error occurred"), full)
    assert sentence_of(load_libraries(), CONFIG, fault).endswith(f"could not be read: {DISK_IS_FULL}")
    too_large = OSError("Not enough disk space. Needed: 3.1 GiB")
    assert sentence_of(load_libraries(), CONFIG, too_large).endswith(f"could not be read: {DISK_IS_FULL}")


def test_only_what_the_hub_says_is_missing_is_missing():
    libraries = load_libraries()
    assert is_missing_file(libraries, FileNotFoundError("datasets/somebody/cats@main/gone.png"))
    offline = libraries.hub.errors.LocalEntryNotFoundError("not in the cache, and the hub cannot be reached")
    assert not is_missing_file(libraries, offline)
    assert not is_missing_file(libraries, caused(FileNotFoundError("x"), ConnectionError("refused")))


def test_switches_of_the_library_are_put_back():
    config, bars = datasets.config, datasets.utils
    before = (config.HF_UPDATE_DOWNLOAD_COUNTS, bars.are_progress_bars_disabled())
    with pytest.raises(KeyError), quietly(load_libraries()):
        assert (config.HF_UPDATE_DOWNLOAD_COUNTS, bars.are_progress_bars_disabled()) == (False, True)
        raise KeyError
    assert (config.HF_UPDATE_DOWNLOAD_COUNTS, bars.are_progress_bars_disabled()) == before
