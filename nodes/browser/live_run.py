"""What is known of one run of this process: the training thread tells it, browsers read it."""

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...trainer.events import Activity, RunStart, StepReport, Wish
from ...trainer.runs.drawings import drawn_with, list_drawings
from ...trainer.runs.loss_history import LoggedRun, LossHistory, read_history, rounded
from ...trainer.runs.run_folder import METRICS, REPORT_PAGE, SAMPLES
from .asked_wishes import AskedWishes
from .state_fields import LIVE, blank_state, shown_message, validation_columns

STEPS_TIMED = 50  # whose median is the time of a step
POINTS_KEPT = 4000  # for the next event; who missed more reads the whole run

Memory = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Whose a run is: execution id of the node ("3:12"), ids of its workflow and of its prompt."""

    node: str
    workflow: str = ""
    prompt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """What a trained run has to show."""

    steps: int
    lora_file: str
    """As ComfyUI's loaders list it."""
    trigger_words: str
    embedding: str
    summary: str
    is_reloaded: bool


class LiveRun:
    """Hears what a `Listener` hears and keeps plain values of it; keeps the wishes for the run.

    Args:
        run_id: unlike any other.
        place: whose run it is.
        on_change: called after each change, in the thread that made it.
        kept_files: gives (step, file) of the checkpoints that a run of this name has on disk.
    """

    def __init__(
        self,
        run_id: str,
        place: RunPlace,
        on_change: Callable[["LiveRun"], None],
        kept_files: Callable[[str], Sequence[tuple[int, Path]]] = lambda _: (),
    ) -> None:
        self.id = run_id
        self.folder: Path | None = None
        """Its own, once it has one."""
        self._lock = threading.Lock()
        self._on_change, self._kept_files = on_change, kept_files
        self._state = blank_state() | {
            "id": run_id,
            "node": place.node,
            "workflow": place.workflow,
            "prompt": place.prompt,
            "started": round(time.time(), 3),
        }
        self._began, self._ended = time.monotonic(), 0.0
        self._wishes = AskedWishes()
        self._hidden: Sequence[Path] = ()
        self._seconds: deque[float] = deque(maxlen=STEPS_TIMED)
        self._history = LossHistory()
        self._points: deque[tuple[int, float | None, float | None]] = deque(maxlen=POINTS_KEPT)
        self._measured: dict[int, float | None] = {}
        self._checkpoints: dict[int, Path] = {}
        self._prompts: list[str] = []
        self._start: RunStart | None = None
        self._pictures: dict[int, dict[int, Path]] = {}
        self._changed: set[str] = set()
        self._memory: Callable[[], Memory | None] | None = None

    @contextmanager
    def _changing(self, *parts: str, **state: Any) -> Iterator[None]:
        """Change it under the lock, then tell: `state` by name, and which `parts` of the whole."""
        with self._lock:
            self._state.update(state)
            self._changed.update(parts)
            yield
        self._on_change(self)

    def measure_memory(self, memory: Callable[[], Memory | None]) -> None:
        """`memory`, which never raises, is read with each event from now on until the run ends."""
        self._memory = memory

    def hide_folders(self, folders: Sequence[Path]) -> None:
        """Messages tell of these folders, which they may well name, no more than their names."""
        self._hidden = folders

    def begin(self, start: RunStart) -> None:
        """Take in what an earlier call of the same run has left, if it goes on."""
        logged, pictures, kept, recipe = LoggedRun(), {}, {}, None
        if start.step:
            logged = read_history(start.folder / METRICS, start.step)
            pictures = list_drawings(start.folder / SAMPLES, start.step)
            kept = {step: file for step, file in self._kept_files(start.name) if step <= start.step}
            recipe = drawn_with(start.folder) if pictures else None
        columns = logged.losses.columns()
        with self._changing("validation", "checkpoints", "previews"):
            self.folder, self._start = start.folder, start
            self._prompts = list(start.prompts if recipe is None else recipe.prompts)
            self._pictures = pictures
            self._checkpoints = kept
            self._history = logged.losses
            self._measured = dict(logged.validation)
            self._state |= {
                "name": start.name,
                "step": start.step,
                "num_steps": start.num_steps,
                "picture_size": list(start.size if recipe is None else recipe.size),
                "loss": columns["loss"][-1] if columns["loss"] else None,
                "learning_rate": columns["learning_rate"][-1] if columns["loss"] else None,
                "held_out_loss": logged.validation[-1][1] if logged.validation else None,
            }
            if start.step:
                self._state["revision"] += 1  # a browser that misses one reads all that was before

    def activity(self, name: Activity) -> None:
        with self._changing(phase="", done=0, total=0):
            if name == "ending":  # what it does for that it tells next
                self._wishes.end_steps()
            else:
                self._state["state"] = name

    def phase(self, name: str, done: int, total: int) -> None:
        with self._changing(phase=name, done=done, total=total):
            pass

    def step(self, report: StepReport) -> None:
        loss, rate = rounded(report.loss), rounded(report.learning_rate)
        with self._changing(
            state="training",
            phase="",
            step=report.step,
            num_steps=report.num_steps,
            epoch=rounded(report.epoch),
            learning=report.learning,
            loss=loss,
            learning_rate=rate,
            effective_learning_rate=rounded(report.effective_learning_rate),
        ):
            self._history.add(report.step, report.loss, report.learning_rate)
            self._points.append((report.step, loss, rate))
            self._seconds.append(report.seconds)

    def checkpoint(self, step: int, lora_path: Path) -> None:
        with self._changing("checkpoints"):
            self._checkpoints[step] = lora_path

    def validation(self, step: int, loss: float) -> None:
        with self._changing("validation", held_out_loss=rounded(loss)):
            self._measured[step] = rounded(loss)

    def preview(self, step: int, pictures: Sequence[Path]) -> None:
        if not pictures:
            return
        with self._changing("previews"):
            if self._start is not None and self._prompts != list(self._start.prompts):
                self._pictures.clear()  # they were put aside: these are others
                self._prompts = list(self._start.prompts)
            if self._start is not None:
                self._state["picture_size"] = list(self._start.size)
            self._pictures[step] = dict(enumerate(pictures))

    def note(self, text: str) -> None:
        with self._changing(message=shown_message(text, self._hidden)):
            pass

    def settle(self, end: RunEnd) -> None:
        """The file is written; only what the node itself gives out is still to be made."""
        with self._changing(
            step=end.steps,
            lora_file=end.lora_file,
            trigger_words=end.trigger_words,
            embedding=end.embedding,
            summary=end.summary,
            is_reloaded=end.is_reloaded,
        ):
            self._wishes.close()

    def end(self, state: str, message: str = "") -> None:
        """It is "done", "failed" or "cancelled"; `message` says why, if not empty."""
        has_report = state == "done" and self.folder is not None and (self.folder / REPORT_PAGE).is_file()
        with self._changing(state=state, phase="", done=0, total=0, has_report=has_report):
            self._state["message"] = shown_message(message, self._hidden) or self._state["message"]
            self._ended = time.monotonic()
            self._wishes.close()
            self._memory = None

    def ask(self, wish: str) -> str:
        """Note a wish of `WISHES`; a sentence when it cannot be granted now, else empty."""
        with self._lock:
            refusal = self._wishes.refusal(wish, self._state)
            if not refusal:
                self._wishes.ask(wish)
        if not refusal:
            self._on_change(self)
        return refusal

    def next_wish(self) -> Wish | None:
        with self._lock:
            wish = self._wishes.take()
        if wish is not None:
            self._on_change(self)
        return wish

    def is_paused(self) -> bool:
        return self._wishes.is_paused

    def light(self) -> dict[str, Any]:
        """The state without its course."""
        with self._lock:
            return self._light()

    def _light(self) -> dict[str, Any]:
        state = self._state
        until = self._ended or time.monotonic()
        seconds = statistics.median(self._seconds) if self._seconds else None
        has_left = state["state"] in LIVE and seconds is not None and not self._wishes.is_over
        return state | {
            "seconds_per_step": rounded(seconds),
            "elapsed": round(until - self._began, 1),
            "left": rounded((state["num_steps"] - state["step"]) * seconds) if has_left else None,
            "wishes": self._wishes.waiting(state),
            "can": self._wishes.possible(state),
        }

    def full(self) -> dict[str, Any]:
        """The state with the whole course; looks at files, so not on the server's loop."""
        with self._lock:
            state = self._light() | {"history": self._history.columns()}
        return state | self._parts("validation", "checkpoints", "previews")

    def take_event(self) -> dict[str, Any]:
        """What has happened since the event before; looks at files."""
        read_memory = self._memory
        memory = None if read_memory is None else read_memory()
        with self._lock:
            self._state["revision"] += 1
            self._state["memory"] = memory or self._state["memory"]
            event, points = self._light(), list(self._points)
            changed = sorted(self._changed)
            self._points.clear()
            self._changed.clear()
        names = ("step", "loss", "learning_rate")
        event["points"] = {name: [point[n] for point in points] for n, name in enumerate(names)}
        return event | self._parts(*changed)

    def _parts(self, *names: str) -> dict[str, Any]:
        with self._lock:
            measured, checkpoints = sorted(self._measured.items()), sorted(self._checkpoints.items())
            pictures, prompts = sorted(self._pictures.items()), list(self._prompts)
        parts = {
            "validation": lambda: validation_columns(measured),
            "checkpoints": lambda: [{"step": s, "file": p.name} for s, p in checkpoints if p.exists()],
            "previews": lambda: {"prompts": prompts, "steps": [s for s, files in pictures if _exist(files)]},
        }
        return {name: parts[name]() for name in names}

    def picture(self, step: int, index: int) -> Path | None:
        """The preview of a step, by the place of its prompt."""
        with self._lock:
            return self._pictures.get(step, {}).get(index)

    def report(self) -> Path | None:
        """The page about the run, once it is there."""
        with self._lock:
            return (
                self.folder / REPORT_PAGE if self._state["has_report"] and self.folder is not None else None
            )


def _exist(files: Mapping[int, Path]) -> bool:
    return all(path.exists() for path in files.values())
