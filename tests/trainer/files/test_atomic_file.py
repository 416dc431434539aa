import os
import stat
import subprocess
import sys

import pytest
from sdxl_trainer.trainer.files.atomic_file import free_name, write_atomically

FULL_DISK = """
import importlib.util, resource, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("atomic_file", sys.argv[1])
atomic_file = importlib.util.module_from_spec(spec)
spec.loader.exec_module(atomic_file)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    atomic_file.write_atomically(Path(sys.argv[2]), lambda path: path.write_bytes(b"x" * 100_000))
except OSError:
    sys.exit(7)
"""


def names_in(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_file_appears_whole_with_ordinary_mode_bits(tmp_path):
    old_umask = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a.txt", lambda path: path.write_text("new"))
    finally:
        os.umask(old_umask)
    assert (tmp_path / "a.txt").read_text() == "new"
    if os.name != "nt":
        assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
    assert names_in(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no mode bits")
def test_a_writer_that_makes_private_files_does_not_make_the_result_private(tmp_path):
    def write(path):
        path.unlink()
        path.write_text("new")
        path.chmod(0o600)

    old_umask = os.umask(0o022)
    try:
        write_atomically(tmp_path / "a.txt", write)
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, ValueError])
def test_failed_writing_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write(path):
        path.write_text("half")
        assert path.name.startswith(".")
        assert path.parent == tmp_path
        assert target.read_text() == "old"
        raise error

    with pytest.raises(error):
        write_atomically(target, write)
    assert target.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="needs RLIMIT_FSIZE")
def test_full_disk_leaves_the_old_file(tmp_path, pack_folder):
    target = tmp_path / "a.txt"
    target.write_text("old")
    module = pack_folder / "trainer" / "files" / "atomic_file.py"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(module), str(target)], timeout=60)
    assert done.returncode == 7
    assert target.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows refuses to replace an open file")
def test_whoever_has_the_old_file_open_keeps_its_contents(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with open(target) as held:
        write_atomically(target, lambda path: path.write_text("new"))
        assert held.read() == "old"
    assert target.read_text() == "new"


def test_long_names_leave_room_for_the_temporary_ending(tmp_path):
    target = tmp_path / ("猫" * 80 + ".safetensors")  # 252 of the 255 bytes a name may have
    write_atomically(target, lambda path: path.write_text("new"))
    assert target.read_text() == "new"


def test_free_name_counts_on_past_every_ending_and_letter_case(tmp_path):
    assert free_name(tmp_path, "cat") == "cat"
    assert free_name(tmp_path / "missing", "cat") == "cat"
    (tmp_path / "Cat.safetensors").touch()
    assert free_name(tmp_path, "cat") == "cat-2"
    (tmp_path / "cat-2").mkdir()
    assert free_name(tmp_path, "cat") == "cat-3"
    assert free_name(tmp_path, "ca") == "ca"
