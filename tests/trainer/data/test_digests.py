import hashlib
import os
import time

from sdxl_trainer.trainer.data import digests
from sdxl_trainer.trainer.data.digests import file_digest, known_digest, remember, stamp_of


def write(path, data):
    path.write_bytes(data)
    time.sleep(0.06)  # past the tick in which a stamp is not trusted


def test_a_digest_is_read_once_and_forgotten_when_the_file_changes(tmp_path):
    path = tmp_path / "a"
    write(path, b"one")
    assert known_digest(path) is None
    assert file_digest(path) == hashlib.sha256(b"one").hexdigest() == known_digest(path)
    write(path, b"two")
    assert known_digest(path) is None
    assert file_digest(path) == hashlib.sha256(b"two").hexdigest()


def test_a_change_that_keeps_size_and_modification_time_is_seen(tmp_path):
    path = tmp_path / "a"
    write(path, b"one")
    first, status = file_digest(path), path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_digest(path) != first


def test_changes_within_one_tick_of_the_clock_are_seen(tmp_path):
    path = tmp_path / "a"
    for number in range(200):
        path.write_bytes(bytes([number]))
        assert file_digest(path) == hashlib.sha256(bytes([number])).hexdigest()


def test_a_file_of_this_very_moment_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_TICK_NS", 10**12)
    path = tmp_path / "a"
    path.write_bytes(b"x")
    assert file_digest(path) and known_digest(path) is None


def test_bytes_read_elsewhere_can_be_remembered(tmp_path):
    path = tmp_path / "a"
    write(path, b"x")
    assert remember(path, stamp_of(path), b"x") == known_digest(path)
