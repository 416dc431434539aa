"""SHA-256 of files, remembered as long as a file's size and times stand: cheap to ask at every queue."""

import hashlib
import os
import time
from pathlib import Path

_Stamp = tuple[int, int, int, int]

_TICK_NS = 50_000_000
"""File systems stamp in ticks: a file changed this recently may change again under the same stamp."""

_remembered: dict[str, tuple[_Stamp, str]] = {}


def stamp_of(path: Path) -> _Stamp:
    """What changes when a file's bytes do: inode, size, and both times in nanoseconds.

    Raises:
        OSError: there is no such file.
    """
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def remember(path: Path, stamp: _Stamp, data: bytes) -> str:
    """Keep the digest of `data`, read from `path` after `stamp` was taken, and return it."""
    return _keep(path, stamp, hashlib.sha256(data).hexdigest())


def known_digest(path: Path) -> str | None:
    """The digest if the file is as it was when last read; None when it must be read.

    Raises:
        OSError: there is no such file.
    """
    stamp, digest = _remembered.get(str(path), (None, ""))
    return digest if stamp == stamp_of(path) else None


def file_digest(path: Path) -> str:
    """The digest of a file, reading it piece by piece when it is not known.

    Raises:
        OSError: the file is gone or may not be read.
    """
    known = known_digest(path)
    if known is not None:
        return known
    stamp = stamp_of(path)
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            hasher.update(piece)
    return _keep(path, stamp, hasher.hexdigest())


def _keep(path: Path, stamp: _Stamp, digest: str) -> str:
    if abs(time.time_ns() - max(stamp[2:])) > _TICK_NS:
        _remembered[str(path)] = (stamp, digest)
    return digest
