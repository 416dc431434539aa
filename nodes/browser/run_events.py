"""Tells browsers what has changed, seldom enough for a slow line and for a run of many steps a second."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from .live_run import LiveRun

EVENT = "sdxl_trainer.run"
SECONDS_BETWEEN = 0.26  # so that no second holds more than four


class RunEvents:
    """At most four events a second for all runs together; what comes too early is sent as soon as it may.

    Args:
        send: gives an event of a name to all browsers; may be called from any thread.
        seconds_between: between two events.
    """

    def __init__(
        self, send: Callable[[str, Mapping[str, Any]], None], seconds_between: float = SECONDS_BETWEEN
    ) -> None:
        self._send = send
        self._seconds_between = seconds_between
        self._lock = threading.Lock()
        self._waiting: dict[str, LiveRun] = {}
        self._is_planned = False
        self._not_before = 0.0

    def changed(self, run: LiveRun) -> None:
        """Tell of `run` soon; it is asked for its state only then."""
        with self._lock:
            self._waiting[run.id] = run
            self._plan()

    def _plan(self) -> None:
        if self._is_planned or not self._waiting:
            return
        self._is_planned = True
        timer = threading.Timer(max(0.0, self._not_before - time.monotonic()), self._send_one)
        timer.daemon = True
        timer.start()

    def _send_one(self) -> None:
        with self._lock:
            run = self._waiting.pop(next(iter(self._waiting)))
            self._not_before = time.monotonic() + self._seconds_between
        try:
            self._send(EVENT, run.take_event())
        finally:
            with self._lock:
                self._is_planned = False
                self._plan()
