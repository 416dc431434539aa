"""One process at a time in a run folder; the lock goes away with the process, however that ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError

LOCK_NAME = "lock"


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, which must exist.

    Raises:
        InputError: another run holds it.
    """
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _lock(descriptor):
            raise InputError(
                f"a run named '{folder.name}' is training at this moment: wait until it ends, or choose "
                "another name"
            )
        yield
    finally:
        # Closing lets go of the lock. The file stays: removing it would let two runs lock two files.
        os.close(descriptor)


if os.name == "nt":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            # flock, not lockf: two runs within one process must shut each other out, too.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
