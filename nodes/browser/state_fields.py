"""What a browser knows of one run: every field of it, as it is before anything is known."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...trainer.runs.without_folders import without_folders

LIVE = ("training", "measuring", "sampling", "saving", "paused")
"""States of a run that takes steps."""
MOST_CHARACTERS = 1000  # of a message


def blank_state() -> dict[str, Any]:
    """A run of which nothing is known yet, as plain JSON values."""
    return {
        "id": "",
        "node": "",
        "workflow": "",
        "prompt": "",
        "name": "",
        "revision": 0,
        "state": "preparing",
        "phase": "",
        "done": 0,
        "total": 0,
        "step": 0,
        "num_steps": 0,
        "epoch": 0.0,
        "learning": "",
        "seconds_per_step": None,
        "elapsed": 0.0,
        "left": None,
        "memory": None,
        "loss": None,
        "learning_rate": None,
        "effective_learning_rate": None,
        "held_out_loss": None,
        "message": "",
        "wishes": [],
        "can": [],
        "lora_file": "",
        "trigger_words": "",
        "embedding": "",
        "has_report": False,
        "summary": "",
        "picture_size": [0, 0],
        "started": 0.0,
        "is_reloaded": False,
    }


def validation_columns(measured: Sequence[tuple[int, float | None]]) -> dict[str, Any]:
    """Steps, losses on held-out pictures, the step of the lowest; step 0, the model itself, never is it."""
    trained = [(loss, step) for step, loss in measured if loss is not None and step > 0]
    return {
        "step": [step for step, _ in measured],
        "loss": [loss for _, loss in measured],
        "best_step": min(trained)[1] if trained else 0,
    }


def shown_message(text: str, folders: Iterable[Path] = ()) -> str:
    """`text` as a browser may have it, which may be on another machine; `folders` are known to the run."""
    return without_folders(text, folders)[:MOST_CHARACTERS]
