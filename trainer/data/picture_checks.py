"""Every picture of a folder decoded in full before a run, in threads, each result remembered."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .digests import file_digest, known_digest, remember, stamp_of
from .folder import FoundPicture, Note
from .pictures import (
    PictureFacts,
    UnreadablePictureError,
    inspect_picture,
    read_bytes,
    whole_files_only,
)

Progress = Callable[[int, int], None]
MIN_SIDE = 16
"""Pictures with a shorter side are left out: two pixels of latents hold nothing to learn from."""
MAX_THREADS = 8

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_facts_by_digest: dict[str, PictureFacts] = {}


@dataclass(frozen=True, slots=True)
class CheckedPicture:
    """A picture that decodes: the file, the SHA-256 of its bytes, and what the decode told."""

    found: FoundPicture
    digest: str
    facts: PictureFacts


def check_pictures(
    found: Sequence[FoundPicture], on_progress: Progress | None = None
) -> tuple[list[CheckedPicture], list[Note]]:
    """Decode all pictures; those that cannot be used come back as notes that say why.

    `on_progress` hears (done, total) from the calling thread; what it raises, ends the work.
    """
    with whole_files_only():
        results = in_threads(_check, found, on_progress)
    usable = [result for result in results if isinstance(result, CheckedPicture)]
    return usable, [result for result in results if isinstance(result, Note)]


def digests_of(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of each file; an empty string for one that cannot be read."""
    digests = [_digest(path, known_digest) for path in paths]
    unknown = [path for path, digest in zip(paths, digests, strict=True) if digest is None]
    read = iter(in_threads(lambda path: _digest(path, file_digest) or "", unknown))
    return [next(read) if digest is None else digest for digest in digests]


def _digest(path: Path, ask: Callable[[Path], str | None]) -> str | None:
    try:
        return ask(path)
    except OSError:
        return ""


def _check(found: FoundPicture) -> CheckedPicture | Note:
    try:
        digest = known_digest(found.path)
        facts = _facts_by_digest.get(digest or "")
        if digest is None or facts is None:
            stamp = stamp_of(found.path)
            data = read_bytes(found.path)
            digest = remember(found.path, stamp, data)
            facts = _facts_by_digest.get(digest) or inspect_picture(data)
            _facts_by_digest[digest] = facts
        if min(facts.width, facts.height) < MIN_SIDE:
            raise UnreadablePictureError(
                f"is {facts.width}x{facts.height}, but the shorter side must be at least {MIN_SIDE} pixels"
            )
    except OSError as error:
        return Note("skipped", found.name, f"cannot be read: {error.strerror or error}")
    except UnreadablePictureError as error:
        return Note("skipped", found.name, str(error))
    return CheckedPicture(found, digest, facts)


def in_threads(
    work: Callable[[_In], _Out], items: Sequence[_In], on_progress: Progress | None = None
) -> list[_Out]:
    """`work` on every item, in order; decoding, hashing and reading let other threads run."""
    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1), "pictures")
    results: list[_Out] = []
    try:
        for result in pool.map(work, items):
            results.append(result)
            if on_progress is not None:
                on_progress(len(results), len(items))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return results
