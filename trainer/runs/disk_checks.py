"""Whether a run may write where it wants to, and has room there: asked before hours are spent."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError, reason_of


@contextmanager
def must_be_writable(folder: Path) -> Iterator[None]:
    """Turns an OSError within into a sentence about the folder.

    Raises:
        InputError: in its place.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the folder '{folder.name}' cannot be written to ({reason_of(error)}): check its "
            "permissions and the free disk space"
        ) from error


def require_disk_space(folder: Path, num_bytes: int, what: str) -> None:
    """Check that there is room before hours are spent.

    Raises:
        InputError: there is not; with both numbers.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(
            f"the disk of '{folder.name}' has {free / 2**20:,.0f} MiB free, but {what} need "
            f"{num_bytes / 2**20:,.0f} MiB: free some space, or lower keep_last or the rank"
        )
