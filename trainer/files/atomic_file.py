"""Files that appear whole under their name, or not at all."""

import contextlib
import glob
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file under a hidden temporary name beside `path`, then put it in place.

    Whatever happens, `path` is the old file or the whole new one; the bytes are on the disk before the name
    is. A file that a program holds open or mapped keeps its old contents for that program.

    Args:
        path: the final name; its folder must exist.
        write: fills the empty file at the path it is given; its mode bits are set by the umask.

    Raises:
        OSError: no room, no permission; `path` is as before, the temporary file is gone.
    """
    temporary = path.with_name(f"{_temporary_stem(path.name)}{secrets.token_hex(6)}.part")
    try:
        temporary.touch(exist_ok=False)
        ordinary_mode = temporary.stat().st_mode
        write(temporary)
        # safetensors and tempfile make files that only their owner may read
        os.chmod(temporary, ordinary_mode)
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _flush_folder(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove what a killed process left half written for `path`; only while nobody writes it.

    For `<name>-stepNNNNNN.safetensors` that of any step.
    """
    stem = re.sub(r"-step\d+(\.safetensors)?$", "-step", path.name)
    for leftover in path.parent.glob(f"{glob.escape(_temporary_stem(stem).rstrip('.'))}*.part"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def _temporary_stem(name: str) -> str:
    """40 letters are at most 160 bytes, which leaves room below the 255 that a name may have."""
    return f".{name[:40]}."


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make the renaming itself last; Windows has no such thing, and some network drives refuse it."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def free_name(folder: Path, name: str) -> str:
    """`name`, or the first of `name-2`, `name-3`, ... that no file or folder in `folder` has.

    A name counts as taken with any ending: `cat` is, where there is a `cat.safetensors`, and so it is on
    every file system where there is a `Cat.safetensors`.
    """
    taken = {place.name.casefold() for place in folder.iterdir()} if folder.is_dir() else set()
    taken |= {os.path.splitext(entry)[0] for entry in taken}
    candidate, number = name, 1
    while candidate.casefold() in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate
