"""metrics.jsonl: one line for each step, and one for each measurement of the held-out loss."""

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..events import StepReport
from ..files.atomic_file import write_atomically
from ..training import LOSSES_KEPT
from .validation import HeldOutLosses


class MetricsLog:
    """Lines in order of the steps, also after a resume.

    A log is no reason to end a run: a full disk is told about where the checkpoint fails.
    """

    def __init__(self, path: Path, resumed_from: int) -> None:
        self._path = path
        if path.exists():
            lines = path.read_text("utf-8", "replace").splitlines()
            kept = "".join(f"{line}\n" for line in lines if _step_of(line) <= resumed_from)
            write_atomically(path, lambda temporary: temporary.write_text(kept, "utf-8"))

    def step(self, report: StepReport) -> None:
        self._append(
            {
                "step": report.step,
                "epoch": round(report.epoch, 4),
                "loss": _finite(report.loss),
                "grad_norm": _finite(report.grad_norm),
                "learning_rate": report.learning_rate,
                "effective_learning_rate": _finite(report.effective_learning_rate),
                "seconds": round(report.seconds, 4),
            }
        )

    def validation(self, step: int, loss: float) -> None:
        self._append({"step": step, "validation_loss": _finite(loss)})

    def _append(self, line: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def forget_measurement(path: Path, step: int) -> None:
    """Take what was measured after `step` out of a log; where that cannot be written, it stays."""
    with contextlib.suppress(OSError):
        lines = path.read_text("utf-8", "replace").splitlines()
        kept = "".join(
            f"{line}\n" for line in lines if _step_of(line) != step or "validation_loss" not in line
        )
        write_atomically(path, lambda temporary: temporary.write_text(kept, "utf-8"))


def logged_losses(path: Path) -> list[float]:
    """The losses of the last steps; none where the log is gone."""
    losses = [line["loss"] for line in _lines(path) if isinstance(line.get("loss"), float)]
    return losses[-LOSSES_KEPT:]


def logged_held_out_losses(path: Path) -> HeldOutLosses:
    """What the held-out loss did in a run, from its log."""
    losses = HeldOutLosses()
    for line in _lines(path):
        if "validation_loss" in line:
            figure = line["validation_loss"]
            losses.add(int(line["step"]), figure if isinstance(figure, float) else math.nan)
    return losses


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [json.loads(line) for line in lines if _step_of(line) < math.inf]


def _step_of(line: str) -> float:
    """The step of a line; infinite for one that was cut off by a crash."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
