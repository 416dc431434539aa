"""Writes the report of a run into its folder; what goes wrong is told and costs nothing."""

import contextlib
import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..config import TrainConfig
from ..data.dataset import TrainingSet
from ..errors import InputError, reason_of
from ..files.atomic_file import write_atomically
from ..runs.run_folder import RunFiles
from ..runs.run_report import RunOutcome
from ..runs.without_folders import without_folders
from .html_report import html_report
from .picture_report import picture_report
from .report_facts import ReportFacts, Told, gather

logger = logging.getLogger(__name__)

REPORT_ERRORS = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(MemoryError, SyntaxError, InputError),
)
"""What damaged pictures, odd numbers, a full disk or a fault of ours may raise; none of it may cost a run."""


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """The files that tell of this end of a run, None where there is none; `problems` are sentences."""

    page: Path | None
    picture: Path | None
    problems: Sequence[str] = ()


def write_report(
    files: RunFiles,
    outcome: RunOutcome,
    config: TrainConfig,
    dataset: TrainingSet,
    report: str,
    checks: Sequence[str],
) -> WrittenReport:
    """Write `report.html` and `report.png`, unless they are there and nothing has happened since.

    A file of before that cannot be replaced is removed, as it would be taken for the new one.

    Args:
        files: of the run; its folder exists.
        outcome: of the run.
        config: resolved settings.
        dataset: the pictures trained on.
        report: the text of the report.
        checks: sentences about what was checked at the end.

    Returns:
        What there is; it never raises.
    """
    both = (files.report, files.report_picture)
    outdated = [path for path in both if outcome.trained_steps > 0 or not _is_up_to_date(path, files)]
    told = Told(report=report, checks=checks, notes=outcome.notes)
    failures = _write(outdated, partial(gather, files, outcome, config, dataset, told)) if outdated else {}
    for path in failures:
        with contextlib.suppress(OSError):
            path.unlink()
    page, picture = (None if path in failures else path for path in both)
    return WrittenReport(page, picture, list(dict.fromkeys(failures.values())))


def _write(paths: Sequence[Path], gathered: Callable[[], ReportFacts]) -> dict[Path, str]:
    """Which of the files could not be written, and why."""
    try:
        facts = gathered()
    except REPORT_ERRORS as error:
        return dict.fromkeys(paths, _explained("the report", error))
    failures = {}
    for path in paths:
        write = _write_page if path.suffix == ".html" else _write_picture
        try:
            write_atomically(path, lambda place, write=write: write(place, facts))
        except REPORT_ERRORS as error:
            failures[path] = _explained(path.name, error)
    return failures


def _is_up_to_date(path: Path, files: RunFiles) -> bool:
    """Whether a file is there and no older than what it tells of."""
    written = _changed_at(path)
    return written > 0 and all(_changed_at(p) <= written for p in (files.metrics, files.samples, files.lora))


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
    reason = reason_of(error)
    why = reason if isinstance(error, OSError) else f"{type(error).__name__}: {without_folders(reason)}"
    return f"{what} could not be written ({why}); the training is not touched by it"
