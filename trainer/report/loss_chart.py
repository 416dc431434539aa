"""The course of a run as a chart: its loss and learning rate above, the loss on held-out pictures below."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..runs.loss_history import LoggedRun
from ..runs.validation import HeldOutLosses
from .chart import Axis, Chart, Mark, Panel, Point, Series, smoothed

LOSS_HEIGHT, HELD_OUT_HEIGHT = 250, 150
_SHARE_LEFT_OUT = 0.01  # of the dots at either end, which would flatten the rest
_LEAST_REACH, _POINTS_PER_REACH = 2.0, 30


@dataclass(frozen=True, slots=True)
class Proposal:
    """The step at which the held-out loss was lowest, if that was below the base model's; 0 = none.

    `has_file` tells whether a LoRA of that step is there to be used.
    """

    step: int = 0
    has_file: bool = False

    @property
    def label(self) -> str:
        return "proposed" if self.has_file else "lowest held-out loss"


def propose(held_out: HeldOutLosses, last_step: int, has_best_file: bool) -> Proposal:
    """What `HeldOutLosses.describe` recommends, as a step."""
    best, base = held_out.best_loss, held_out.base_loss
    if best is None or (base is not None and best >= base):
        return Proposal()
    return Proposal(held_out.best_step, has_best_file or held_out.best_step == last_step)


def loss_chart(
    run: LoggedRun, checkpoints: Sequence[int], last_step: int, proposal: Proposal
) -> Chart | None:
    """The chart of a run; None where its log holds nothing to draw.

    Args:
        run: what the log tells.
        checkpoints: steps of which a LoRA file is there.
        last_step: of the run.
        proposal: which of them is marked.
    """
    columns = run.losses.columns()
    points = [(x, y) for x, y in zip(columns["step"], columns["loss"], strict=True) if y is not None]
    measured = [(step, loss) for step, loss in run.validation if loss is not None]
    panels = [*_loss_panel(columns, points), *_held_out_panel(measured, proposal)]
    if not panels:
        return None
    end = max([last_step, *(step for step, _ in (*points, *measured))])
    return Chart(panels, Axis.of_steps(end), _marks(checkpoints, proposal))


def _loss_panel(columns: dict[str, list], points: list[Point]) -> list[Panel]:
    if not points:
        return []
    smooth = smoothed(points, max(_LEAST_REACH, len(points) / _POINTS_PER_REACH))
    dots = sorted(
        {
            (step, value)
            for name in ("low", "loss", "high")
            for step, value in zip(columns["step"], columns[name], strict=True)
            if value is not None
        }
    )
    label = "loss of each step" if len(dots) == len(points) else "loss of the steps: lowest, mean, highest"
    rates = [(x, y) for x, y in zip(columns["step"], columns["learning_rate"], strict=True) if y is not None]
    usual = _without_ends([value for _, value in dots])
    series = [
        Series("raw", label, dots, has_line=False, has_dots=True),
        Series("smooth", "smoothed", smooth),
    ]
    axis = Axis.around([*usual, *(value for _, value in smooth)])
    if not rates:
        return [Panel(series, axis, LOSS_HEIGHT)]
    rate_axis = Axis.around([0.0, max(value for _, value in rates) * 1.1], 5)
    return [Panel(series, axis, LOSS_HEIGHT, [Series("rate", "learning rate", rates)], rate_axis)]


def _held_out_panel(measured: list[Point], proposal: Proposal) -> list[Panel]:
    if not measured:
        return []
    titles = [f"step {step:,}: held-out loss {loss:.4f}" for step, loss in measured]
    series = [Series("held_out", "loss on held-out pictures", measured, has_dots=True, titles=titles)]
    first, last = measured[0], measured[-1]
    if first[0] == 0 and last[0] > 0:
        series.insert(0, Series("base", "before training", [first, (last[0], first[1])]))
    best = [
        (point, title) for point, title in zip(measured, titles, strict=True) if point[0] == proposal.step
    ]
    if best and proposal.step:
        point, title = best[-1]
        series.append(Series("best", "lowest", [point], has_line=False, has_dots=True, titles=[title]))
    return [Panel(series, Axis.around([value for _, value in measured], 5), HELD_OUT_HEIGHT)]


def _marks(checkpoints: Sequence[int], proposal: Proposal) -> list[Mark]:
    marks = [Mark(step, f"step {step:,}: checkpoint") for step in checkpoints if step != proposal.step]
    if proposal.step:
        title = f"step {proposal.step:,}: {proposal.label}"
        marks.append(Mark(proposal.step, title, proposal.label, is_proposed=True))
    return marks


def _without_ends(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    left_out = int(len(ordered) * _SHARE_LEFT_OUT)
    return ordered[left_out : len(ordered) - left_out]
