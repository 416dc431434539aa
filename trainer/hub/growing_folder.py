"""The hidden folder in which a fetch grows: pictures, and a journal of every row, to go on from.

It gets its proper name once it is whole, so that a half fetched dataset is never taken for a dataset.
"""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files.atomic_file import write_atomically
from .hub_faults import DISK_IS_FULL

JOURNAL = ".rows.jsonl"
TABLE = "metadata.jsonl"


class GrowingFolder:
    """Pictures of rows 0 to `num_rows`, some of them skipped.

    A row's picture is whole on the disk before the journal names it. A line that a killed process left half
    written, or that a power cut spoiled, is dropped with those behind it: their rows are fetched again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_sentences():
            path.mkdir(parents=True, exist_ok=True)
            self._lines = self._read()
            self._journal = (path / JOURNAL).open("ab", buffering=0)

    def __enter__(self) -> "GrowingFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    @property
    def num_rows(self) -> int:
        """Rows that are done, skipped ones too."""
        return len(self._lines)

    @property
    def num_pictures(self) -> int:
        return sum("file_name" in line for line in self._lines)

    @property
    def skipped(self) -> list[str]:
        """A sentence for each row without a usable picture."""
        return [line["skipped"] for line in self._lines if "skipped" in line]

    def add(self, data: bytes, suffix: str, caption: str | list[str]) -> None:
        """Keep the next row's picture and caption.

        Raises:
            InputError: the disk is full, or the folder cannot be written.
        """
        name = f"{self.num_rows:06d}.{suffix}"
        with disk_sentences():
            write_atomically(self.path / name, lambda place: place.write_bytes(data) and None)
            self._note({"file_name": name, "text": caption})

    def skip(self, reason: str) -> None:
        """Pass over the next row, and remember why."""
        with disk_sentences():
            self._note({"skipped": f"row {self.num_rows} {reason}"})

    def write_table(self) -> None:
        """metadata.jsonl, from the journal."""
        rows = [json.dumps(line, ensure_ascii=False) for line in self._lines if "file_name" in line]
        content = "\n".join([*rows, ""]).encode("utf-8", "replace")
        with disk_sentences():
            write_atomically(self.path / TABLE, lambda place: place.write_bytes(content) and None)

    def _note(self, line: dict[str, Any]) -> None:
        self._journal.write(json.dumps(line).encode() + b"\n")
        self._lines.append(line)

    def _read(self) -> list[dict[str, Any]]:
        journal = self.path / JOURNAL
        if not journal.exists():
            return []
        data = journal.read_bytes()
        lines, size = [], 0
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
            size += len(line)
        if size < len(data):
            with journal.open("rb+") as file:
                file.truncate(size)
        return lines


@contextmanager
def disk_sentences() -> Iterator[None]:
    """Turn what the disk refuses into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(DISK_IS_FULL) from error
        what = error.strerror or type(error).__name__
        raise InputError(
            f"the folder for hub datasets cannot be written ({what}): make it writable and run again"
        ) from error
