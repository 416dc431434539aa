"""What happens between two steps of a run: it is measured, saved, drawn, stopped, and hears wishes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..data.batches import Draw
from ..data.dataset import TrainingSet
from ..encoding.encoded_dataset import EncodedDataset
from ..events import Listener
from ..loop import StopEarly
from ..settings.part_rates import part_window
from ..training import Training
from .previews import Previewer
from .run_state import require_part_moved
from .run_writer import Course, RunWriter
from .validation import held_out_draws, held_out_loss
from .wishes import Wishes


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The pictures that are not trained on, on the device."""

    encoded: EncodedDataset
    draws: Sequence[Draw]

    @classmethod
    def of(cls, dataset: TrainingSet | None, encoded: EncodedDataset | None) -> "HeldOut | None":
        """None where nothing is held out."""
        return None if dataset is None or encoded is None else cls(encoded, held_out_draws(dataset))


@dataclass(frozen=True, eq=False)
class BetweenSteps:
    """Called after each step; what is due at a step and was cut off by a stop is made up for on resuming."""

    training: Training
    course: Course
    writer: RunWriter
    listener: Listener
    wishes: Wishes
    held_out: HeldOut | None = None
    previewer: Previewer | None = None

    def start(self) -> None:
        """Before the first step of this call.

        Raises:
            StopEarly: the run had ended here before its last file was written.
            InputError: what has learned already has not moved.
        """
        self._require_settled_moved()
        self.wishes.start()
        self._validate()
        self._stop_if_overtrained()
        self._draw()
        self.listener.activity("training")

    def after_step(self, read: Callable[[], None]) -> None:
        """All that is due after a step but the last one, whose turn is `finish`.

        Args:
            read: reports the figures that are still on the device.

        Raises:
            CancelledError: the listener asked to stop; everything is saved.
            StopEarly: the held-out loss has not fallen for as long as the settings allow, or the listener
                asked for the run to end.
            InputError: what has just ended learning has not moved: the rest would be for nothing.
        """
        step, milestones = self.training.step, self.course.milestones
        if step == milestones.last:
            return
        if any(part.window[1] == step for part in self.training.parts):
            self._require_settled_moved()
        self.wishes.stop_if_asked(read)
        is_measured, is_drawn = milestones.validates_at(step), milestones.previews_at(step)
        if is_measured or is_drawn or milestones.saves_at(step):
            read()
            self._validate()
            self._stop_if_overtrained()
            if milestones.saves_at(step):
                self.listener.activity("saving")
                self.writer.save_or_carry_on()
            self._draw()
            self.listener.activity("training")
        self.wishes.hear(read)

    def finish(self) -> None:
        """After the last step, or where the run ended early: the last measurement and the final file.

        Raises:
            InputError: it could not be written.
        """
        self.listener.activity("ending")
        self._validate(is_last=True)
        self.listener.activity("saving")
        self.writer.save_or_explain(is_final=True)

    def draw_last(self) -> None:
        """The last pictures, if any are wanted; only once the file is safe."""
        self.wishes.hear_last()
        if self.previewer is None or self.previewer.has_drawn(self.training.step):
            return
        if self.previewer.draws_unasked or self.wishes.asked_for_pictures:
            self.listener.activity("sampling")
            self.previewer.draw(self.training)

    def _require_settled_moved(self) -> None:
        for part in self.training.parts:
            if part.has_settled:
                require_part_moved(self.training, part)

    def _validate(self, is_last: bool = False) -> None:
        """Measure, if it is due; where the run ends it is, wherever that may be."""
        step = self.training.step
        is_due = is_last or self.course.milestones.validates_at(step)
        if self.held_out is None or not is_due or self.course.losses.last_step >= step:
            return
        self.listener.activity("measuring")
        loss = held_out_loss(self.training, self.held_out.encoded, self.held_out.draws)
        is_best = self.course.losses.add(step, loss)
        milestones = self.course.milestones
        has_file_anyway = is_last or step == milestones.last or milestones.saves_at(step)
        if is_best and self.training.config.validation.keep_best and not has_file_anyway:
            self.listener.activity("saving")
            self.writer.save_best_or_carry_on()
        self.listener.validation(step, loss, is_best)

    def _stop_if_overtrained(self) -> None:
        training, milestones = self.training, self.course.milestones
        patience = training.config.validation.early_stop_patience
        # new tokens that learn no more are no reason to give up before the LoRA had as many chances
        start, _ = part_window(training.config, "unet")
        had_its_chance = training.step >= start + patience * milestones.validate_every
        if (
            training.step < milestones.last
            and had_its_chance
            and self.course.losses.has_lost_patience(patience)
        ):
            raise StopEarly

    def _draw(self) -> None:
        step = self.training.step
        is_due = self.course.milestones.previews_at(step) and step < self.course.milestones.last
        if self.previewer is not None and is_due and not self.previewer.has_drawn(step):
            self.listener.activity("sampling")
            self.previewer.draw(self.training)
