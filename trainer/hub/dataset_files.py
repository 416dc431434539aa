"""Files of a hub repository into the hub's own cache on this machine, with progress, until told to stop."""

import inspect
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from ..errors import InputError

MAX_DOWNLOADS = 8
POLL_SECONDS = 0.25
MEGABYTE, GIGABYTE = 10**6, 10**9


class _StoppedError(Exception):
    """Ends a download from within; never leaves this file."""


class _Tally:
    """Bytes that all downloads together have received."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.received = 0
        self.stop = False

    def add(self, count: float) -> None:
        with self._lock:
            self.received += int(count)
        if self.stop:
            raise _StoppedError


def _bar_of(tally: _Tally, plain_bar: type) -> type:
    """A progress bar class that shows nothing and counts into `tally`."""

    class CountingBar(plain_bar):  # the hub's client wants a class, and calls it with arguments of its own
        def __init__(self, *args: Any, **values: Any) -> None:
            values.pop("name", None)
            super().__init__(*args, **{**values, "disable": True})

        def update(self, n: float | None = 1) -> None:
            tally.add(n or 0)

    return CountingBar


def download_files(
    hub: Any,
    repository: str,
    commit: str,
    sizes: Mapping[str, int],
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Bring files of a dataset repository into the hub's cache; those that are there already cost nothing.

    Args:
        hub: the module `huggingface_hub`.
        repository: owner/name.
        commit: its full hash.
        sizes: path in the repository -> bytes, 0 where that is unknown.
        on_progress: called with (done, total) in MB from the calling thread; what it raises ends the
            downloads.

    Raises:
        InputError: there is no room for them.
        Exception: what the hub's client raises.
    """
    from tqdm import tqdm

    tally = _Tally()
    counts = "tqdm_class" in inspect.signature(hub.hf_hub_download).parameters  # not in every version
    bar = {"tqdm_class": _bar_of(tally, tqdm)} if counts else {}

    def download(path: str) -> None:
        if not tally.stop:
            hub.hf_hub_download(repository, path, repo_type="dataset", revision=commit, **bar)
            tally.add(0 if counts else sizes[path])

    missing = [path for path in sizes if not _is_cached(hub, repository, commit, path)]
    num_bytes = sum(sizes[path] for path in missing)
    _require_room(Path(hub.constants.HF_HUB_CACHE), repository, num_bytes)
    total = max(1, -(-num_bytes // MEGABYTE))
    pool = ThreadPoolExecutor(MAX_DOWNLOADS, "hub files")
    try:
        waiting: Sequence[Any] = [pool.submit(download, path) for path in missing]
        while waiting:
            done, left = wait(waiting, POLL_SECONDS, FIRST_EXCEPTION)
            for future in done:
                future.result()
            waiting = list(left)
            if on_progress is not None:
                on_progress(min(tally.received // MEGABYTE, total), total)
    finally:
        tally.stop = True
        pool.shutdown(wait=True, cancel_futures=True)


def _require_room(cache: Path, repository: str, num_bytes: int) -> None:
    while not cache.exists():
        cache = cache.parent
    free = shutil.disk_usage(cache).free
    if num_bytes > free:
        raise InputError(
            f"the files of {repository} take {num_bytes / GIGABYTE:,.1f} GB, but {free / GIGABYTE:,.1f} GB "
            "are free on the disk of the hub's cache: turn streaming on and set max_pictures, or free some "
            "room, or let HF_HOME name another disk"
        )


def _is_cached(hub: Any, repository: str, commit: str, path: str) -> bool:
    found = hub.try_to_load_from_cache(repository, path, repo_type="dataset", revision=commit)
    return isinstance(found, str)
