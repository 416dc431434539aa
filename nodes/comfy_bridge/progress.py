"""A run's events as ComfyUI's progress bar and node text, and its Cancel button as "stop now?"."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import comfy.model_management
import comfy.utils

from ...trainer.events import SilentListener, StepReport


class HostListener(SilentListener):
    """Shows a run on the node that started it.

    ComfyUI's progress call itself raises when Cancel was pressed, and takes the wish off the table. Here
    the exception is remembered, so that the run can save first; `raise_interrupt` passes it on after.
    """

    def __init__(self, node_id: str | None) -> None:
        self._node_id = node_id
        self._bar: Any = None
        self._phase = ""
        self._interrupted = False

    def phase(self, name: str, done: int, total: int) -> None:
        self._show(name, done, total, f"{name}: {done} of {total}")

    def step(self, report: StepReport) -> None:
        loss = "skipped" if math.isnan(report.loss) else f"loss {report.loss:.4f}"
        left = _minutes((report.num_steps - report.step) * report.seconds)
        text = (
            f"step {report.step} of {report.num_steps} (epoch {report.epoch:.1f})\n"
            f"{loss}, rate {report.learning_rate:.2e}, {report.seconds:.2f} s a step, {left} left"
        )
        self._show("training", report.step, report.num_steps, text)

    def checkpoint(self, step: int, lora_path: Path) -> None:
        self._say(f"step {step}: saved {lora_path.name}")

    def should_stop(self) -> bool:
        return self._interrupted or comfy.model_management.processing_interrupted()

    def raise_interrupt(self) -> NoReturn:
        """Pass the user's wish to cancel on to ComfyUI, after everything is saved."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        raise comfy.model_management.InterruptProcessingException

    def _show(self, phase: str, done: int, total: int, text: str) -> None:
        if self.should_stop():
            return
        try:
            if phase != self._phase:
                self._phase = phase
                self._bar = comfy.utils.ProgressBar(total, node_id=self._node_id)
            self._bar.update_absolute(done, total)
        except comfy.model_management.InterruptProcessingException:
            self._interrupted = True
        self._say(text)

    def _say(self, text: str) -> None:
        if self._node_id is None:
            return
        from server import PromptServer  # a run outside a server has no node, and need not start one

        server = getattr(PromptServer, "instance", None)  # absent when ComfyUI is embedded
        if server is not None:
            server.send_progress_text(text, self._node_id)


def _minutes(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def report_progress(name: str, node_id: str | None) -> Callable[[int, int], None]:
    """A `(done, total)` callback for work that Cancel may end at once, as nothing is lost by it."""
    listener = HostListener(node_id)

    def report(done: int, total: int) -> None:
        listener.phase(name, done, total)
        if listener.should_stop():
            listener.raise_interrupt()

    return report
