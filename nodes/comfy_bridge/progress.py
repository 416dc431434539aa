"""A run's events as ComfyUI's progress bar, node text and pictures, and its Cancel button as "stop now?"."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import comfy.model_management
import comfy.utils

from ...trainer.events import SilentListener, StepReport

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

PREVIEW_TILE = 256  # pixels of each picture on the node
PREVIEW_SIDE = 1024  # longest side of what is sent to the browser
PREVIEW_COLUMNS = 3
SAME_RATE = 1e-3  # relative difference below which the effective rate is the rate


class HostListener(SilentListener):
    """Shows a run on the node that started it.

    ComfyUI's progress call itself raises when Cancel was pressed, and takes the wish off the table. Here
    the exception is remembered, so that the run can save first; `raise_interrupt` passes it on after.
    """

    def __init__(self, node_id: str | None) -> None:
        self._node_id = node_id
        self._bar: Any = None
        self._phase = ""
        self._place = (0, 1)
        self._validation = ""
        self._interrupted = False

    def phase(self, name: str, done: int, total: int) -> None:
        self._show(name, done, total, f"{name}: {done} of {total}")

    def step(self, report: StepReport) -> None:
        loss = "skipped" if math.isnan(report.loss) else f"loss {report.loss:.4f}"
        left = _minutes((report.num_steps - report.step) * report.seconds)
        learning = f"{report.learning}: " if report.learning else ""
        text = (
            f"{learning}step {report.step} of {report.num_steps} (epoch {report.epoch:.1f})\n"
            f"{loss}, {_rate(report)}, {report.seconds:.2f} s a step, {left} left"
        )
        self._show("training", report.step, report.num_steps, text + self._validation)

    def checkpoint(self, step: int, lora_path: Path) -> None:
        self._say(f"step {step}: saved {lora_path.name}{self._validation}")

    def validation(self, step: int, loss: float, is_best: bool) -> None:
        best = ", the best so far" if is_best else ""
        self._validation = f"\nvalidation loss {loss:.4f} after step {step}{best}"
        self._say(f"step {step}: measured{self._validation}")

    def preview(self, step: int, pictures: Sequence[Path]) -> None:
        if not pictures:
            return
        self._update(*self._place, picture=_side_by_side(pictures))
        self._say(f"step {step}: drew {len(pictures)} {'picture' if len(pictures) == 1 else 'pictures'}")

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

    def _update(self, done: int, total: int, picture: "Image.Image | None" = None) -> None:
        self._place = (done, total)
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(total, node_id=self._node_id)
        preview = ("JPEG", picture, PREVIEW_SIDE) if picture is not None else None
        try:
            self._bar.update_absolute(done, total, preview)
        except comfy.model_management.InterruptProcessingException:
            self._interrupted = True

    def _say(self, text: str) -> None:
        if self._node_id is None:
            return
        from server import PromptServer  # a run outside a server has no node, and need not start one

        server = getattr(PromptServer, "instance", None)  # absent when ComfyUI is embedded
        if server is not None:
            server.send_progress_text(text, self._node_id)


def _rate(report: StepReport) -> str:
    """The rate, and what moved the weights where the optimizer finds that itself, as Prodigy does."""
    rate, effective = report.learning_rate, report.effective_learning_rate
    if math.isnan(effective) or math.isclose(rate, effective, rel_tol=SAME_RATE):
        return f"rate {rate:.2e}"
    return f"rate {rate:.2e}, effective {effective:.2e}"


def _side_by_side(pictures: Sequence[Path]) -> "Image.Image":
    """All pictures of one step in one."""
    from PIL import Image

    from ...trainer.data.contact_sheet import SheetStyle, contact_sheet

    opened = []
    for path in pictures:
        with Image.open(path) as picture:
            opened.append(picture.convert("RGB"))
    if len(opened) == 1:
        return opened[0]
    height = round(PREVIEW_TILE * opened[0].height / opened[0].width)
    return contact_sheet(opened, [], PREVIEW_COLUMNS, SheetStyle(tile=PREVIEW_TILE, height=height))


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
