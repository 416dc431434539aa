"""Everything that a run says on its way, to all who keep it: the log, the trackers, the listener."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..events import Activity, Listener, RunStart, StepReport, Wish
from .metrics_log import MetricsLog
from .trackers import Trackers


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A listener that writes down what it hears before it passes it on, since who listens may raise."""

    listener: Listener
    metrics: MetricsLog
    trackers: Trackers
    seconds: list[float] = field(default_factory=list)
    """Time of each step."""

    def begin(self, start: RunStart) -> None:
        self.listener.begin(start)

    def activity(self, name: Activity) -> None:
        self.listener.activity(name)

    def phase(self, name: str, done: int, total: int) -> None:
        self.listener.phase(name, done, total)

    def step(self, report: StepReport) -> None:
        self.metrics.step(report)
        self.trackers.step(report)
        self.seconds.append(report.seconds)
        self.listener.step(report)

    def checkpoint(self, step: int, lora_path: Path) -> None:
        self.listener.checkpoint(step, lora_path)

    def validation(self, step: int, loss: float, is_best: bool) -> None:
        self.metrics.validation(step, loss)
        self.trackers.validation(step, loss)
        self.listener.validation(step, loss, is_best)

    def preview(self, step: int, pictures: Sequence[Path]) -> None:
        self.trackers.preview(step, pictures)
        self.listener.preview(step, pictures)

    def note(self, text: str) -> None:
        self.listener.note(text)

    def should_stop(self) -> bool:
        return self.listener.should_stop()

    def can_wish(self) -> bool:
        return self.listener.can_wish()

    def next_wish(self) -> Wish | None:
        return self.listener.next_wish()

    def is_paused(self) -> bool:
        return self.listener.is_paused()
