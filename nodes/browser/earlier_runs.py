"""Runs of other days: the folders that runs have left on disk, as states of runs."""

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...trainer.runs.drawings import drawn_with, list_drawings
from ...trainer.runs.loss_history import LoggedRun, is_whole, read_end, read_history
from ...trainer.runs.run_folder import CONFIG, METRICS, REPORT_PAGE, SAMPLES
from .state_fields import blank_state, validation_columns

PREFIX = "earlier:"
MOST_RUNS = 200  # in the list; older ones can be read all the same


class EarlierRuns:
    """Looks at the disk each time, and only ever at what it has listed.

    A folder that cannot be read, or goes away meanwhile, is as good as not there.

    Args:
        folder: tells the parent of all runs' folders.
        lora_names: lists the LoRA files as ComfyUI's loaders do.
    """

    def __init__(self, folder: Callable[[], Path], lora_names: Callable[[], Sequence[str]]) -> None:
        self._folder, self._lora_names = folder, lora_names

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        """All that may be folders of runs: neither links nor hidden folders."""
        try:
            with os.scandir(self._folder()) as entries:
                listed = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError:
            return
        for entry in listed:
            if _holds(lambda entry=entry: entry.is_dir(follow_symlinks=False)):
                yield entry

    def _find(self, run_id: str) -> Path | None:
        """The folder of one run, found by listing: nothing of a request is made into a path."""
        for entry in self._entries():
            if PREFIX + entry.name == run_id and _own_file(Path(entry.path), CONFIG) is not None:
                return Path(entry.path)
        return None

    def _newest(self) -> list[Path]:
        dated = [(_date(Path(entry.path)), Path(entry.path)) for entry in self._entries()]
        begun = sorted(((date, place) for date, place in dated if date > 0), reverse=True)
        return [place for _, place in begun[:MOST_RUNS]]

    def light(self, without: Collection[Path]) -> list[dict[str, Any]]:
        """The newest of them but those in the folders `without`, without their courses."""
        names = set(self._lora_names())
        resolved = {path.resolve() for path in without}
        return [_light(place, names) for place in self._newest() if place.resolve() not in resolved]

    def full(self, run_id: str) -> dict[str, Any] | None:
        """One of them with its course."""
        folder = self._find(run_id)
        if folder is None:
            return None
        names = self._lora_names()
        metrics = _own_file(folder, METRICS)
        logged = LoggedRun() if metrics is None else read_history(metrics)
        start = f"{folder.name}-step"
        kept = sorted((_step_of(name, start), name) for name in names if _step_of(name, start) >= 0)
        recipe = drawn_with(folder)
        prompts = [] if recipe is None else list(recipe.prompts)
        return _light(folder, set(names)) | {
            "elapsed": round(logged.seconds, 1),
            "history": logged.losses.columns(),
            "validation": validation_columns(logged.validation),
            "checkpoints": [{"step": step, "file": name} for step, name in kept],
            "previews": {"prompts": prompts, "steps": list(list_drawings(folder / SAMPLES))},
        }

    def picture(self, run_id: str, step: int, index: int) -> Path | None:
        folder = self._find(run_id)
        return None if folder is None else list_drawings(folder / SAMPLES).get(step, {}).get(index)

    def report(self, run_id: str) -> Path | None:
        folder = self._find(run_id)
        return None if folder is None else _own_file(folder, REPORT_PAGE)


def _light(folder: Path, lora_names: Collection[str]) -> dict[str, Any]:
    """What lies in a folder, as far as it can be read."""
    metrics, recipe = _own_file(folder, METRICS), drawn_with(folder)
    logged = LoggedRun() if metrics is None else read_end(metrics)
    columns, step = logged.losses.columns(), logged.losses.last_step
    planned = _planned_steps(_own_file(folder, CONFIG))
    lora = f"{folder.name}.safetensors"
    return blank_state() | {
        "id": PREFIX + folder.name,
        "name": folder.name,
        "state": "earlier",
        "step": step,
        "num_steps": planned or step,
        "loss": columns["loss"][-1] if step else None,
        "learning_rate": columns["learning_rate"][-1] if step else None,
        "held_out_loss": logged.validation[-1][1] if logged.validation else None,
        "picture_size": [0, 0] if recipe is None else list(recipe.size),
        "lora_file": lora if lora in lora_names else "",
        "has_report": _own_file(folder, REPORT_PAGE) is not None,
        "started": round(_date(folder), 3),
    }


def _planned_steps(config: Path | None) -> int:
    """0 where they are not known."""
    try:
        steps = 0 if config is None else json.loads(config.read_text("utf-8"))["settings"]["steps"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return 0
    return steps if is_whole(steps) and steps > 0 else 0


def _date(folder: Path) -> float:
    """When a run was begun, seconds since 1970; 0 = there is no run."""
    try:
        path = _own_file(folder, CONFIG)
        return 0.0 if path is None else path.stat().st_mtime
    except OSError:
        return 0.0


def _own_file(folder: Path, name: str) -> Path | None:
    """A file that lies in the folder itself, not one that a link leads to."""
    path = folder / name
    return path if _holds(lambda: path.is_file() and not path.is_symlink()) else None


def _holds(question: Callable[[], bool]) -> bool:
    """Whether it is so; what may not be looked at is not."""
    try:
        return question()
    except OSError:
        return False


def _step_of(name: str, start: str) -> int:
    """The step of a checkpoint whose name begins with `start`; -1 for any other file."""
    match = re.fullmatch(re.escape(start) + r"([0-9]{1,9})\.safetensors", name)
    return int(match[1]) if match else -1
