"""Writes the report of a run into its folder; what goes wrong is told and costs nothing."""

import logging
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from ..config import TrainConfig
from ..data.dataset import TrainingSet
from ..errors import InputError
from ..files.atomic_file import write_atomically
from ..runs.run_folder import RunFiles
from ..runs.run_report import RunOutcome
from .html_report import html_report
from .picture_report import picture_report
from .report_facts import ReportFacts, Told, gather

logger = logging.getLogger(__name__)

REPORT_ERRORS = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(MemoryError, SyntaxError, InputError),
)
"""What damaged pictures, odd numbers, a full disk or a fault of ours may raise; none of it may cost a run."""


def write_report(
    files: RunFiles,
    outcome: RunOutcome,
    config: TrainConfig,
    dataset: TrainingSet,
    report: str,
    checks: Sequence[str],
) -> list[str]:
    """Write `report.html` and `report.png`, unless they are there and nothing has happened since.

    Args:
        files: of the run; its folder exists.
        outcome: of the run.
        config: resolved settings.
        dataset: the pictures trained on.
        report: the text of the report.
        checks: sentences about what was checked at the end.

    Returns:
        Sentences about what could not be written; it never raises.
    """
    try:
        if outcome.trained_steps == 0 and is_up_to_date(files):
            return []
        facts = gather(
            files, outcome, config, dataset, Told(report=report, checks=checks, notes=outcome.notes)
        )
    except REPORT_ERRORS as error:
        return [_explained("the report", error)]
    writers: tuple[tuple[Path, Callable[[Path, ReportFacts], None]], ...] = (
        (files.report, _write_page),
        (files.report_picture, _write_picture),
    )
    problems = []
    for path, write in writers:
        try:
            write_atomically(path, lambda place, write=write: write(place, facts))
        except REPORT_ERRORS as error:
            problems.append(_explained(path.name, error))
    return problems


def is_up_to_date(files: RunFiles) -> bool:
    """Whether both files are there and no older than what they tell of."""
    try:
        written = min(path.stat().st_mtime_ns for path in (files.report, files.report_picture))
    except OSError:
        return False
    return all(_changed_at(path) <= written for path in (files.metrics, files.samples, files.lora))


def _changed_at(path: Path) -> int:
    """0 for what is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _write_page(place: Path, facts: ReportFacts) -> None:
    place.write_text(html_report(facts), "utf-8")


def _write_picture(place: Path, facts: ReportFacts) -> None:
    picture_report(facts).save(place, "PNG", compress_type=zlib.Z_RLE)


def _explained(what: str, error: Exception) -> str:
    logger.warning("%s could not be written", what, exc_info=error)
    reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    return f"{what} could not be written ({reason}); the training is not touched by it"
