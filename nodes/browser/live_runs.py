"""The runs of this process, by their ids."""

import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ..comfy_bridge.server import broadcast
from .live_run import LiveRun, RunPlace
from .run_events import RunEvents

MOST_RUNS = 50


class LiveRuns:
    """The newest of them; older ones are still found by their folders.

    Args:
        on_change: hears of every change of every run.
        most: that are kept.
    """

    def __init__(self, on_change: Callable[[LiveRun], None], most: int = MOST_RUNS) -> None:
        self._on_change = on_change
        self._most = most
        self._lock = threading.Lock()
        self._runs: dict[str, LiveRun] = {}

    def open(
        self, place: RunPlace, kept_files: Callable[[str], Sequence[tuple[int, Path]]] = lambda _: ()
    ) -> LiveRun:
        """A new run, before it has a name; arguments as of `LiveRun`."""
        run = LiveRun(secrets.token_hex(8), place, self._on_change, kept_files)
        with self._lock:
            self._runs[run.id] = run
            for oldest in list(self._runs)[: -self._most]:
                del self._runs[oldest]
        self._on_change(run)
        return run

    def get(self, run_id: str) -> LiveRun | None:
        with self._lock:
            return self._runs.get(run_id)

    def newest_first(self) -> list[LiveRun]:
        with self._lock:
            return list(self._runs.values())[::-1]


RUNS = LiveRuns(RunEvents(broadcast).changed)
