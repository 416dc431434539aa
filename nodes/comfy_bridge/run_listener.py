"""A training run as ComfyUI sees it: its progress bar, its Cancel button, and the panel in the browser."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch

from ...trainer.errors import InputError, reason_of
from ...trainer.events import Activity, RunStart, StepReport, Wish
from .progress import HostListener
from .server import is_there

if TYPE_CHECKING:
    from PIL import Image

    from ..browser.live_run import LiveRun

PREVIEW_SIDE = 1024  # longest side of what is sent to the browser
PREVIEW_TILE = 256  # pixels of each picture on the node
PREVIEW_COLUMNS = 3


class RunListener(HostListener):
    """Tells a run to ComfyUI's bar and to the panel, and asks the panel what the user wants.

    The bar goes on for all who know nothing of the panel, with the newest pictures; the text that it would
    have below it is what the panel shows.
    """

    def __init__(self, node_id: str | None, run: "LiveRun") -> None:
        super().__init__(node_id)
        self._run = run
        self._place = (0, 1)

    def begin(self, start: RunStart) -> None:
        self._run.begin(start)

    def activity(self, name: Activity) -> None:
        self._run.activity(name)

    def phase(self, name: str, done: int, total: int) -> None:
        self._run.phase(name, done, total)
        super().phase(name, done, total)

    def step(self, report: StepReport) -> None:
        self._run.step(report)
        self._show("training", report.step, report.num_steps, "")

    def checkpoint(self, step: int, lora_path: Path) -> None:
        self._run.checkpoint(step, lora_path)

    def validation(self, step: int, loss: float, is_best: bool) -> None:
        self._run.validation(step, loss)

    def preview(self, step: int, pictures: Sequence[Path]) -> None:
        self._run.preview(step, pictures)
        if pictures:
            self._update(*self._place, ("JPEG", _side_by_side(pictures), PREVIEW_SIDE))

    def note(self, text: str) -> None:
        super().note(text)
        self._run.note(text)

    def can_wish(self) -> bool:
        return is_there()

    def next_wish(self) -> Wish | None:
        return self._run.next_wish()

    def is_paused(self) -> bool:
        return self._run.is_paused()

    def _update(self, done: int, total: int, *preview: Any) -> None:
        self._place = (done, total)
        super()._update(done, total, *preview)

    def _say(self, text: str) -> None:
        """The panel says it."""


@contextmanager
def told_how_it_ends(run: "LiveRun") -> Iterator[None]:
    """Tell `run` whether what is done within succeeds, is cancelled, or fails and why."""
    try:
        yield
    except comfy.model_management.InterruptProcessingException:  # no Exception since ComfyUI 0.20
        run.end("cancelled")
        raise
    except BaseException as error:
        run.end("failed", _sentence(error))
        raise
    run.end("done")


def _sentence(error: BaseException) -> str:
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return (
            "the device ran out of memory: set batch_size to 1, gradient_checkpointing to 'on', or lower the "
            "resolution of the dataset"
        )
    if isinstance(error, OSError):  # its own text holds the whole path
        return f"{type(error).__name__}: {reason_of(error)} ({Path(str(error.filename or '')).name})"
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


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
