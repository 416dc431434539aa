"""The curves of a run in TensorBoard and in Weights & Biases, beside metrics.jsonl.

accelerate's trackers are not used: they make its process singleton, which would fix the device and the
precision of every other pack in a ComfyUI. Nothing here ends a run: what fails is said once.
"""

import hashlib
import importlib
import logging
import math
import netrc
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from ..config import LoggingConfig
from ..errors import reason_of
from ..events import StepReport
from .run_folder import RunFiles

logger = logging.getLogger(__name__)

TRACKER_ERRORS = (ImportError, OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError)
"""What optional packages of any version raise when they are broken, misused or cut off."""
TITLES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases"}
WANDB_HOST = "https://api.wandb.ai"
WANDB_SETTINGS: Mapping[str, Any] = {
    # the host's console, code, machine and paths are nobody's business
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "host": "",
    "program": "",
    "silent": True,
    # seconds: a dead network must not hold up a run
    "init_timeout": 30.0,
    "finish_timeout": 60.0,
}


class Tracker(Protocol):
    """A place that shows curves and pictures."""

    errors: tuple[type[BaseException], ...]
    """What it may raise beside `TRACKER_ERRORS`."""

    def log(self, step: int, figures: Mapping[str, float]) -> None: ...

    def show(self, step: int, name: str, picture: Image.Image) -> None: ...

    def close(self) -> None: ...


class TensorBoardTracker:
    """Event files in `<run>/tensorboard`, for `tensorboard --logdir`."""

    errors: tuple[type[BaseException], ...] = ()

    def __init__(self, files: RunFiles, settings: Mapping[str, Any], resumed_from: int) -> None:
        module = importlib.import_module("torch.utils.tensorboard")
        folder = files.folder / "tensorboard"
        # what a run that is taken up had written behind this step is not shown
        self._writer = module.SummaryWriter(str(folder), purge_step=resumed_from + 1)
        if not resumed_from:
            self._writer.add_text("settings", "\n\n".join(_lines(settings)), 0)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def show(self, step: int, name: str, picture: Image.Image) -> None:
        self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WandbTracker:
    """A run in Weights & Biases; offline where WANDB_MODE says so.

    Raises:
        RuntimeError: nobody is logged in; it would ask in the terminal and wait for ever.
    """

    def __init__(self, files: RunFiles, settings: Mapping[str, Any], project: str, fingerprint: str) -> None:
        wandb = importlib.import_module("wandb")
        self.errors: tuple[type[BaseException], ...] = (wandb.Error,)
        if os.environ.get("WANDB_MODE", "online") in ("online", "run") and not _has_wandb_login():
            raise RuntimeError("nobody is logged in: run `wandb login`, or set WANDB_MODE to offline")
        known = getattr(wandb.Settings, "model_fields", {})
        self._wandb = wandb
        self._run = wandb.init(
            project=project,
            name=files.name,
            id=hashlib.sha256(f"{files.name}/{fingerprint}".encode()).hexdigest()[:16],
            resume="allow",
            dir=str(files.folder),
            config=dict(settings),
            reinit="create_new",
            settings=wandb.Settings(**{k: v for k, v in WANDB_SETTINGS.items() if k in known}),
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def show(self, step: int, name: str, picture: Image.Image) -> None:
        self._run.log({name: self._wandb.Image(picture)}, step=step)

    def close(self) -> None:
        self._run.finish()


class Trackers:
    """All trackers of a run, opened when there is something to show; one that fails is left out from then on.

    Args:
        config: which.
        files: of the run.
        settings: of the run, plain values.
        fingerprint: of the run.
        resumed_from: the step it goes on from.
    """

    def __init__(
        self,
        config: LoggingConfig,
        files: RunFiles,
        settings: Mapping[str, Any],
        fingerprint: str,
        resumed_from: int,
    ) -> None:
        self.failures: list[str] = []
        """A sentence about each tracker that failed."""
        self._trackers: dict[str, Tracker] = {}
        openers: dict[str, Callable[[], Tracker]] = {
            "tensorboard": lambda: TensorBoardTracker(files, settings, resumed_from),
            "wandb": lambda: WandbTracker(files, settings, config.project, fingerprint),
        }
        self._unopened = {k: v for k, v in openers.items() if config.tracker in (k, "all")}

    def _open(self, name: str, open_tracker: Callable[[], Tracker]) -> None:
        wandb_error = _error_class_of(name)
        try:
            self._trackers[name] = open_tracker()
        except ModuleNotFoundError as error:
            package = (error.name or name).partition(".")[0]
            self._note(name, f"the package {package} is missing, install it with `pip install {name}`")
        except (*TRACKER_ERRORS, *wandb_error) as error:
            self._note(name, reason_of(error))

    def step(self, report: StepReport) -> None:
        figures = {
            "loss": report.loss,
            "grad_norm": report.grad_norm,
            "learning_rate": report.learning_rate,
            "effective_learning_rate": report.effective_learning_rate,
            "seconds_per_step": report.seconds,
        }
        finite = {name: value for name, value in figures.items() if math.isfinite(value)}
        self._each(lambda tracker: tracker.log(report.step, finite))

    def validation(self, step: int, loss: float) -> None:
        if math.isfinite(loss):
            self._each(lambda tracker: tracker.log(step, {"validation_loss": loss}))

    def preview(self, step: int, pictures: Sequence[Path]) -> None:
        def show(tracker: Tracker) -> None:
            for number, path in enumerate(pictures):
                with Image.open(path) as picture:
                    tracker.show(step, f"preview/{number:02d}", picture)

        self._each(show)

    def close(self) -> None:
        self._unopened = {}
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def _each(self, act: Callable[[Tracker], None]) -> None:
        while self._unopened:
            self._open(*self._unopened.popitem())
        for name, tracker in list(self._trackers.items()):
            try:
                act(tracker)
            except (*TRACKER_ERRORS, *tracker.errors) as error:
                del self._trackers[name]
                self._note(name, reason_of(error))

    def _note(self, name: str, why: str) -> None:
        self.failures.append(
            f"{TITLES[name]} shows nothing more of this run: {why.splitlines()[0]}; all figures are in "
            "metrics.jsonl"
        )
        logger.warning(self.failures[-1])


def _error_class_of(name: str) -> tuple[type[BaseException], ...]:
    """Errors of wandb itself, which have no common ancestor with Python's; none where it is not installed."""
    if name != "wandb":
        return ()
    try:
        return (importlib.import_module("wandb").Error,)
    except (ImportError, AttributeError):
        return ()


def _has_wandb_login() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", WANDB_HOST)).hostname or ""
    places = [os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"]
    for place in filter(None, places):
        try:
            if netrc.netrc(str(place)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _lines(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for key, value in settings.items():
        nested = isinstance(value, Mapping)
        lines += _lines(value, f"{prefix}{key}.") if nested else [f"{prefix}{key} = {value}"]
    return lines
