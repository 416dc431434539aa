"""A command in a terminal: its progress bar, its last words, and Ctrl-C as the polite way to stop."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from .errors import CancelledError
from .events import Listener, SilentListener, StepReport

SMOOTHING = 0.95
INTERRUPTED = 130
"""Exit status of a program that Ctrl-C ended."""


class TerminalListener(SilentListener):
    """One tqdm bar at a time; `stop` asks the run to save and end."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._phase = ""
        self._loss: float | None = None
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def should_stop(self) -> bool:
        return self._stop.is_set()

    def phase(self, name: str, done: int, total: int) -> None:
        self._show(name, done, total)

    def step(self, report: StepReport) -> None:
        if report.loss == report.loss:  # not NaN, as a skipped step has
            before = report.loss if self._loss is None else self._loss
            self._loss = SMOOTHING * before + (1 - SMOOTHING) * report.loss
        bar = self._show(f"training {report.learning}".strip(), report.step, report.num_steps)
        if self._loss is not None:
            # Prodigy's own rate; NaN where nobody told it
            rate = report.effective_learning_rate
            rate = report.learning_rate if rate != rate else rate
            bar.set_postfix_str(f"loss {self._loss:.4f}, rate {rate:.1e}", refresh=False)

    def checkpoint(self, step: int, lora_path: Path) -> None:
        tqdm.write(f"step {step}: wrote {lora_path.name}")

    def validation(self, step: int, loss: float, is_best: bool) -> None:
        best = ", the lowest so far" if is_best else ""
        tqdm.write(f"step {step}: held-out loss {loss:.4f}{best}")

    def preview(self, step: int, pictures: Sequence[Path]) -> None:
        tqdm.write(f"step {step}: drew {', '.join(path.name for path in pictures)}")

    def note(self, text: str) -> None:
        tqdm.write(f"note: {text}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def end(self, text: str, status: int) -> int:
        """Close the bar and write the last words, errors where errors go; returns the exit status."""
        self.close()
        (sys.stderr if status else sys.stdout).write(text + "\n")
        return status

    def _show(self, name: str, done: int, total: int) -> tqdm:
        if self._bar is None or name != self._phase:
            self.close()
            # initial: a resumed run's speed counts only its own steps
            self._bar = tqdm(total=total, initial=max(0, done - 1), desc=name, dynamic_ncols=True)
            self._phase = name
        self._bar.update(done - self._bar.n)
        return self._bar


def told_progress(listener: Listener, phase: str) -> Callable[[int, int], None]:
    """A (done, total) callback that tells the listener, and ends the work where it asks to stop.

    Raises:
        CancelledError: by the callback; nothing was trained yet.
    """

    def report(done: int, total: int) -> None:
        listener.phase(phase, done, total)
        if listener.should_stop():
            raise CancelledError(0, None)

    return report


@contextmanager
def stop_on_interrupt(listener: TerminalListener) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask the run to save and end; the second Ctrl-C ends it at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        listener.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
