"""Runs of other days: the folders that runs have left on disk, as states of runs."""

import json
import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from ...trainer.runs.loss_history import LoggedRun, read_history, rounded
from .live_run import METRICS, REPORT, SAMPLES
from .run_pictures import list_pictures
from .run_state import blank_state, validation_columns

PREFIX = "earlier:"
CONFIG, RECIPE = "config.json", "drawn_with.json"
MOST_RUNS = 200
TAIL_BYTES = 16 * 1024  # of a log, whose last lines tell where the run stands


class EarlierRuns:
    """Looks at the disk each time, and only ever at what it has listed.

    Args:
        folder: tells the parent of all runs' folders.
        lora_names: lists the LoRA files as ComfyUI's loaders do.
    """

    def __init__(self, folder: Callable[[], Path], lora_names: Callable[[], Sequence[str]]) -> None:
        self._folder, self._lora_names = folder, lora_names

    def _folders(self) -> dict[str, Path]:
        """Id -> folder, newest first; neither links nor hidden folders, nor what is no run's."""
        try:
            entries = [entry for entry in os.scandir(self._folder()) if not entry.name.startswith(".")]
        except OSError:
            return {}
        places = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        dated = [(_own_file(place, CONFIG), place) for place in places]
        newest = sorted(((c.stat().st_mtime, p) for c, p in dated if c is not None), reverse=True)
        return {PREFIX + place.name: place for _, place in newest[:MOST_RUNS]}

    def light(self, without: Collection[Path]) -> list[dict[str, Any]]:
        """All of them but those in the folders `without`, without their courses."""
        names = set(self._lora_names())
        resolved = {path.resolve() for path in without}
        found = self._folders().items()
        return [_light(run_id, p, names) for run_id, p in found if p.resolve() not in resolved]

    def full(self, run_id: str) -> dict[str, Any] | None:
        """One of them with its course."""
        folder = self._folders().get(run_id)
        if folder is None:
            return None
        names = self._lora_names()
        metrics = _own_file(folder, METRICS)
        logged = LoggedRun() if metrics is None else read_history(metrics)
        state = _light(run_id, folder, set(names))
        start = f"{folder.name}-step"
        kept = sorted((_step_of(name, start), name) for name in names if _step_of(name, start) >= 0)
        return state | {
            "elapsed": round(logged.seconds, 1),
            "history": logged.losses.columns(),
            "validation": validation_columns(logged.validation),
            "checkpoints": [{"step": step, "file": name} for step, name in kept],
            "previews": {"prompts": _recipe(folder)[0], "steps": list(list_pictures(folder / SAMPLES))},
        }

    def picture(self, run_id: str, step: int, index: int) -> Path | None:
        folder = self._folders().get(run_id)
        return None if folder is None else list_pictures(folder / SAMPLES).get(step, {}).get(index)

    def report(self, run_id: str) -> Path | None:
        folder = self._folders().get(run_id)
        return None if folder is None else _own_file(folder, REPORT)


def _light(run_id: str, folder: Path, lora_names: Collection[str]) -> dict[str, Any]:
    config = _own_file(folder, CONFIG)
    settings = _object(_object(_json(config)).get("settings"))
    last = _last_figures(folder)
    lora = f"{folder.name}.safetensors"
    return blank_state() | {
        "id": run_id,
        "name": folder.name,
        "state": "earlier",
        "num_steps": _whole(settings.get("steps")) or last["step"],
        "picture_size": _recipe(folder)[1],
        "lora_file": lora if lora in lora_names else "",
        "has_report": _own_file(folder, REPORT) is not None,
        "started": 0.0 if config is None else round(config.stat().st_mtime, 3),
        **last,
    }


def _last_figures(folder: Path) -> dict[str, Any]:
    """Where the log of a run ends."""
    path = _own_file(folder, METRICS)
    figures: dict[str, Any] = {"step": 0, "loss": None, "learning_rate": None, "held_out_loss": None}
    for text in [] if path is None else _tail(path).splitlines():
        line = _object(_parsed(text))
        if "validation_loss" in line:
            figures["held_out_loss"] = _number(line["validation_loss"])
        elif _whole(line.get("step")):
            figures |= {"step": line["step"], "loss": _number(line.get("loss"))}
            figures["learning_rate"] = _number(line.get("learning_rate"))
    return figures


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read(TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _recipe(folder: Path) -> tuple[list[str], list[int]]:
    """(prompts, [width, height]) of the previews; none and 0 where they are not known."""
    drawn_with = _json(_own_file(folder, RECIPE))
    if not isinstance(drawn_with, list) or len(drawn_with) < 2:
        return [], [0, 0]
    prompts, size = drawn_with[:2]
    is_prompts = isinstance(prompts, list) and all(isinstance(prompt, str) for prompt in prompts)
    is_size = isinstance(size, list) and len(size) == 2 and all(map(_whole, size))
    return prompts if is_prompts else [], size if is_size else [0, 0]


def _own_file(folder: Path, name: str) -> Path | None:
    """A file that lies in the folder itself, not one that a link leads to."""
    path = folder / name
    return path if path.is_file() and not path.is_symlink() else None


def _json(path: Path | None) -> Any:
    try:
        return None if path is None else _parsed(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _number(value: Any) -> float | None:
    return rounded(value) if isinstance(value, float) else None


def _step_of(name: str, start: str) -> int:
    """The step of a checkpoint whose name begins with `start`; -1 for any other file."""
    match = re.fullmatch(re.escape(start) + r"([0-9]{1,9})\.safetensors", name)
    return int(match[1]) if match else -1
