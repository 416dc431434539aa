"""Tells browsers what has changed, seldom enough for a slow line and for a run of many steps a second."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from .live_run import LiveRun

EVENT = "sdxl_trainer.run"
SECONDS_BETWEEN = 0.26  # so that no second holds more than four
IDLE_SECONDS = 60.0  # after which the thread ends, until there is something to tell again

log = logging.getLogger(__name__)


class RunEvents:
    """At most four events a second for all runs together; what comes too early is sent as soon as it may.

    One thread sends them all, while there is anything to send. Whoever tells of a change never waits for it,
    and hears of nothing that goes wrong with it.

    Args:
        send: gives an event of a name to all browsers; is called from that thread.
        seconds_between: from when one event was sent to the next.
        clock: seconds, as of `time.monotonic`.
    """

    def __init__(
        self,
        send: Callable[[str, Mapping[str, Any]], None],
        seconds_between: float = SECONDS_BETWEEN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._seconds_between = seconds_between
        self._clock = clock
        self._condition = threading.Condition()
        self._waiting: dict[str, LiveRun] = {}
        self._has_thread = False
        self._not_before = -float("inf")

    def changed(self, run: LiveRun) -> None:
        """Tell of `run` soon; it is asked for its state only then."""
        with self._condition:
            self._waiting[run.id] = run
            self._start_thread()
            self._condition.notify()

    def _start_thread(self) -> None:
        """Under the lock."""
        if self._has_thread:
            return
        try:
            threading.Thread(target=self._work, name="SDXL Trainer: events", daemon=True).start()
            self._has_thread = True
        except RuntimeError as error:
            # no thread is to be had now, or Python ends: the next change tries again
            log.debug("events wait: %s", error)

    def _work(self) -> None:
        try:
            while (run := self._next()) is not None:
                try:
                    self._send(EVENT, run.take_event())
                finally:
                    with self._condition:
                        self._not_before = self._clock() + self._seconds_between
        finally:
            with self._condition:
                self._has_thread = False
                if self._waiting:  # something went wrong with one event: the others go on
                    self._start_thread()

    def _next(self) -> LiveRun | None:
        """The run that waits longest, once an event may be sent; None where nothing comes for long."""
        with self._condition:
            if not self._condition.wait_for(lambda: bool(self._waiting), IDLE_SECONDS):
                return None
            while (early := self._not_before - self._clock()) > 0:
                self._condition.wait(early)
            return self._waiting.pop(next(iter(self._waiting)))
