"""Files of one repository of the Hugging Face hub on their way into a folder, byte by byte.

The hub's own client signs in and transfers. It keeps nothing of a file that was broken off, so the files are
put together here: under `<file>.<version>.part` until they are whole.
"""

import hashlib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all); what it raises ends the download, and what is there is kept."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository; `sha256` is empty for small ones, which the hub does not give it for."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Repository:
    """One commit of it on the hub."""

    name: str
    commit: str
    files: tuple[HubFile, ...]

    def named(self, names: Sequence[str]) -> list[HubFile]:
        return [file for file in self.files if file.name in names]


class Transfer:
    """Files of one repository on their way into a folder."""

    def __init__(self, hub: Any, found: Repository, folder: Path, on_progress: Progress) -> None:
        self._hub, self._found, self._folder, self._on_progress = hub, found, folder, on_progress
        self._total = self._done = 0

    def plan(self, files: Sequence[HubFile]) -> None:
        """What the progress is counted against."""
        self._total = sum(file.size for file in files)
        self._done = sum(self._have(file) for file in files)

    @property
    def bytes_missing(self) -> int:
        return self._total - self._done

    def fetch(self, files: Sequence[HubFile]) -> None:
        for file in files:
            place = self._folder / file.name
            if not (place.is_file() and place.stat().st_size == file.size):
                self._fetch_one(file, place)
        self.count(0)

    def count(self, num_bytes: int) -> None:
        self._done += num_bytes
        self._on_progress(min(self._done, self._total), self._total)

    def _have(self, file: HubFile) -> int:
        place = self._folder / file.name
        if place.is_file() and place.stat().st_size == file.size:
            return file.size
        part = self._part(file)
        return min(part.stat().st_size, file.size) if part.is_file() else 0

    def _part(self, file: HubFile) -> Path:
        """Another version of the file is another part."""
        version = file.sha256[:12] or self._found.commit[:12]
        return self._folder / f"{file.name}.{version}.part"

    def _fetch_one(self, file: HubFile, place: Path) -> None:
        part = self._part(file)
        for old in self._folder.glob(f"{file.name}.*.part"):
            if old != part:
                old.unlink()
        transfer = importlib.import_module("huggingface_hub.file_download")
        with part.open("ab") as raw:
            start = raw.tell()
            if start < file.size or file.size == 0:
                transfer.http_get(
                    self._hub.hf_hub_url(self._found.name, file.name, revision=self._found.commit),
                    _CountedFile(raw, self.count),
                    resume_size=start,
                    headers=self._hub.utils.build_hf_headers(),
                    expected_size=file.size or None,
                    displayed_filename=file.name,
                )
            raw.flush()
            os.fsync(raw.fileno())
        if file.sha256 and _sha256(part) != file.sha256:
            part.unlink()
            raise InputError(
                f"{self._found.name}/{file.name} arrived damaged: its checksum differs; try again"
            )
        os.replace(part, place)


class _CountedFile:
    """A file that tells how much is written into it."""

    def __init__(self, raw: BinaryIO, count: Callable[[int], None]) -> None:
        self._raw, self._count = raw, count
        self._position = raw.tell()

    def write(self, data: bytes) -> int:
        written = self._raw.write(data)
        self._count(len(data))
        return written

    def truncate(self, size: int | None = None) -> int:
        """A server that cannot go on starts again: what was there counts no longer."""
        before = self._raw.seek(0, os.SEEK_END)
        after = self._raw.truncate(self._position if size is None else size)
        self._count(after - before)
        return after

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = self._raw.seek(offset, whence)
        return self._position

    def tell(self) -> int:
        return self._raw.tell()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in _blocks(file):
            digest.update(block)
    return digest.hexdigest()


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(2**22):
        yield block
