"""The previews of a run as a grid: a row for each prompt, a column for each step at which they were drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ..config import PreviewConfig
from ..data.dataset import TrainingSet
from ..errors import reason_of
from ..runs.drawings import UNREADABLE, drawn_with, list_drawings
from ..runs.previews import preview_prompts
from .thumbnails import Thumbnail, evenly_chosen

MOST_COLUMNS, MOST_ROWS = 12, 16
BUDGET = 2_400_000
"""Bytes of all thumbnails of the grid together."""
_LARGEST_SIDE = 384


@dataclass(frozen=True, slots=True)
class PreviewGrid:
    """`cells[row][column]` is the picture of a prompt at a step, None where there is none.

    `num_steps` and `num_prompts` count what was drawn, shown or not. `failures` are sentences about files
    that could not be read.
    """

    prompts: Sequence[str] = ()
    steps: Sequence[int] = ()
    cells: Sequence[Sequence[Thumbnail | None]] = ()
    num_steps: int = 0
    num_prompts: int = 0
    failures: list[str] = field(default_factory=list)


def read_previews(
    folder: Path, config: PreviewConfig, dataset: TrainingSet, proposed_step: int = 0
) -> PreviewGrid:
    """Read the previews of a run, one full picture at a time.

    Args:
        folder: holds `step-000500-00.png` and so on; may be missing.
        config: gives the prompts where nothing tells what was drawn with.
        dataset: likewise.
        proposed_step: stays in when the columns are thinned.
    """
    files = list_drawings(folder)
    if not files:
        return PreviewGrid()
    all_steps = list(files)
    num_prompts = 1 + max(max(rows) for rows in files.values())
    told = drawn_with(folder.parent)  # a run that is only reloaded need not have these in its settings
    prompts = preview_prompts(config, dataset) if told is None else told.prompts
    prompts = [*prompts, *([""] * (num_prompts - len(prompts)))][:num_prompts]
    steps = thinned(all_steps, MOST_COLUMNS, proposed_step)
    rows = range(min(num_prompts, MOST_ROWS))
    failures: list[str] = []
    most_bytes = BUDGET // (len(steps) * len(rows))
    cells = [[_read(files[step].get(row), most_bytes, failures) for step in steps] for row in rows]
    return PreviewGrid(prompts[: len(rows)], steps, cells, len(all_steps), num_prompts, failures)


def thinned(steps: Sequence[int], most: int, kept: int = 0) -> list[int]:
    """At most `most` of the steps, evenly spread, with the first, the last and, if it is there, `kept`."""
    stride = math.ceil((len(steps) - 1) / (most - 1)) if len(steps) > most else 1
    chosen = sorted({*steps[::stride], steps[-1]})
    if len(chosen) < most * 3 // 4 < len(steps):  # too much would be left out for the sake of equal gaps
        chosen = [steps[place] for place in evenly_chosen(len(steps), most)]
    if kept in steps and kept not in chosen:
        inner = chosen[1:-1]
        if len(chosen) >= most and inner:
            chosen.remove(min(inner, key=lambda step: abs(step - kept)))
        chosen = sorted([*chosen, kept])
    return chosen


def _read(path: Path | None, most_bytes: int, failures: list[str]) -> Thumbnail | None:
    if path is None:
        return None
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return Thumbnail.of(image, _LARGEST_SIDE, most_bytes)
    except UNREADABLE as error:
        failures.append(f"{path.name} could not be read for the report: {reason_of(error)}")
        return None
