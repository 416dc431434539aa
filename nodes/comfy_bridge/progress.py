"""Work of a node as ComfyUI's progress bar and node text, and its Cancel button as "stop now?"."""

import logging
from collections.abc import Callable
from typing import Any, NoReturn

import comfy.model_management
import comfy.utils

from ...trainer.events import SilentListener
from .server import show_text

log = logging.getLogger(__name__)


class HostListener(SilentListener):
    """Shows work on the node that does it.

    ComfyUI's progress call itself raises when Cancel was pressed, and takes the wish off the table. Here
    the exception is remembered, so that what is done can be saved first; `raise_interrupt` passes it on
    after.
    """

    def __init__(self, node_id: str | None) -> None:
        self._node_id = node_id
        self._bar: Any = None
        self._phase = ""
        self._interrupted = False

    def phase(self, name: str, done: int, total: int) -> None:
        self._show(name, done, total, f"{name}: {done} of {total}")

    def note(self, text: str) -> None:
        log.warning("SDXL Trainer: %s", text)
        self._say(text)

    def should_stop(self) -> bool:
        return self._interrupted or comfy.model_management.processing_interrupted()

    def raise_interrupt(self) -> NoReturn:
        """Pass the user's wish to cancel on to ComfyUI, after everything is saved."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        raise comfy.model_management.InterruptProcessingException

    def _show(self, phase: str, done: int, total: int, text: str) -> None:
        if self.should_stop():
            return
        if phase != self._phase:
            self._phase = phase
            self._bar = comfy.utils.ProgressBar(total, node_id=self._node_id)
        self._update(done, total)
        self._say(text)

    def _update(self, done: int, total: int, *preview: Any) -> None:
        """Move the bar; `preview` is what ComfyUI's own call takes beside."""
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(total, node_id=self._node_id)
        try:
            self._bar.update_absolute(done, total, *preview)
        except comfy.model_management.InterruptProcessingException:
            self._interrupted = True

    def _say(self, text: str) -> None:
        show_text(text, self._node_id)


def report_progress(name: str, node_id: str | None) -> Callable[[int, int], None]:
    """A `(done, total)` callback for work that Cancel may end at once, as nothing is lost by it."""
    listener = HostListener(node_id)

    def report(done: int, total: int) -> None:
        listener.phase(name, done, total)
        if listener.should_stop():
            listener.raise_interrupt()

    return report
