"""When and how a run is written to disk: state first, then the LoRA, and only then old files go.

A state holds what trains; a LoRA file holds what is shown (`Training.evaluation`).
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from safetensors import SafetensorError

from ..errors import InputError, reason_of
from ..events import Listener
from ..training import Training
from .asked_for import AskedFor
from .checkpoint import KEPT_STATES, save_state
from .disk_checks import require_disk_space
from .milestones import Milestones
from .result_files import write_result
from .run_folder import RunFiles
from .run_state import state_of
from .validation import HeldOutLosses

logger = logging.getLogger(__name__)

WRITE_ERRORS = (OSError, SafetensorError)
HEADER_BYTES = 2**20
ASKED_STATES = 2
"""Of the checkpoints that were asked for, so many of the newest keep their state, which is larger."""


@dataclass(frozen=True, eq=False)
class Course:
    """Which run it is, what is due when, and what the held-out loss has done so far."""

    fingerprint: str
    milestones: Milestones
    losses: HeldOutLosses


class RunWriter:
    """Writes checkpoints of one run; as a context, also when something else ends it.

    Args:
        files: where to.
        course: of the run.
        training: what to write; read anew at each saving.
        metadata: gives that of a LoRA file of the present step.
        listener: hears of every LoRA file.
    """

    def __init__(
        self,
        files: RunFiles,
        course: Course,
        training: Training,
        metadata: Callable[[], Mapping[str, str]],
        listener: Listener,
    ) -> None:
        self._files = files
        self._course = course
        self._training = training
        self._metadata = metadata
        self._listener = listener
        self.asked = AskedFor(files)
        """What was asked of the run on its way, now or before it was taken up."""
        best = course.losses.best_step
        self._best_alone = 0 if course.milestones.saves_at(best) else best
        """The step of a file that is there only because it was the best."""
        self.saved_step = training.step
        self.failures: list[str] = []
        """Sentences about checkpoints that could not be written."""

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        training = self._training
        if kind is None or not training.is_between_steps or training.step == self.saved_step:
            return
        try:
            self.save()
        except (*WRITE_ERRORS, InputError, RuntimeError) as second:
            # RuntimeError: a device that failed cannot be read. The first error is the one to show.
            logger.warning("step %d could not be saved: %s", training.step, reason_of(second))

    def save(self, is_final: bool = False) -> Path:
        """Write the state and the LoRA of the finished steps, then prune.

        Returns:
            The LoRA: `<name>.safetensors` if it is final, else `<name>-stepNNNNNN.safetensors`.

        Raises:
            OSError, SafetensorError: disk full or the like; older files are as they were.
            InputError: the weights are not finite.
        """
        training, step = self._training, self._training.step
        if not all(bool(part.weights.master.isfinite().all()) for part in training.parts):
            raise InputError(
                f"the LoRA's weights are not finite at step {step} and were not saved: go on from an "
                "earlier checkpoint with a lower learning rate"
            )
        state = state_of(training, self._course.fingerprint, self._course.losses)
        save_state(self._files.state, state, self._spared_states())
        self.saved_step = step
        path = write_result(self._files, training, self._metadata(), is_final)
        self._prune(step - 1 if is_final else step)
        return path

    def save_or_carry_on(self) -> None:
        """A checkpoint between others: when the disk is full, training goes on and the next one is tried."""
        path = self._try(self.save)
        # outside: an OSError of whoever listens, such as a closed terminal, is no failed write
        if path is not None:
            self._listener.checkpoint(self._training.step, path)

    def save_as_asked(self) -> None:
        """The checkpoint of now, which stays until the user removes it; when the disk is full, none."""
        step, there = self._training.step, self._files.kept_lora(self._training.step)
        is_there = self.saved_step == step and there.exists()

        def save() -> Path:
            self.asked.keep(step)
            return there if is_there else self.save()

        path = self._try(save)
        if path is None:
            self.asked.forget(step)
        elif not is_there:
            self._listener.checkpoint(step, path)

    def save_best_or_carry_on(self) -> None:
        """The LoRA that measures best so far, without a state; the former best goes."""

        def save() -> Path:
            path = write_result(self._files, self._training, self._metadata(), is_final=False)
            self._remove_former_best()
            self._best_alone = self._training.step
            return path

        path = self._try(save)
        if path is not None:
            self._listener.checkpoint(self._training.step, path)

    def save_or_explain(self, is_final: bool = False) -> Path:
        """The checkpoint that must be written.

        Raises:
            InputError: it could not be.
        """
        try:
            path = self.save(is_final)
        except WRITE_ERRORS as error:
            raise InputError(
                f"step {self._training.step} could not be saved in '{self._files.loras_folder.name}' and "
                f"'{self._files.folder.name}' ({reason_of(error)}): free some disk space and run again; the "
                f"run then goes on from step {self.saved_step}"
            ) from error
        self._listener.checkpoint(self.saved_step, path)
        return path

    def _try(self, save: Callable[[], Path]) -> Path | None:
        try:
            return save()
        except WRITE_ERRORS as error:
            failure = f"the checkpoint of step {self._training.step} could not be written: {reason_of(error)}"
        self.failures.append(failure)
        logger.warning(failure)
        self._listener.note(failure)
        return None

    def _prune(self, last_step: int) -> None:
        """Remove what is too old, and a checkpoint of the final step: it is the final file already."""
        self._remove_former_best()
        keep_last = self._training.config.run.keep_last
        kept = [
            (step, path)
            for step, path in self._files.kept_loras()
            if step <= self.saved_step and step not in self.asked.checkpoints
        ]
        within = [path for step, path in kept if step <= last_step and step != self._best_kept]
        old = within[:-keep_last] if keep_last else []
        for path in [*old, *(path for step, path in kept if step > last_step)]:
            self._remove(path)

    @property
    def _best_kept(self) -> int:
        """The step whose checkpoint stays because it measures best; 0 = none."""
        return self._course.losses.best_step if self._training.config.validation.keep_best else 0

    def _remove_former_best(self) -> None:
        if self._best_alone in (0, self._course.losses.best_step):
            return
        if self._best_alone not in self.asked.checkpoints:
            self._remove(self._files.kept_lora(self._best_alone))
        self._best_alone = 0

    def _spared_states(self) -> set[int]:
        """Steps whose state stays beside the newest two: the best, two asked for, where it was to go on."""
        there = sorted(step for step in self.asked.checkpoints if self._files.kept_lora(step).exists())
        return {self._best_kept, self._training.config.run.resume_from_step, *there[-ASKED_STATES:]}

    def _remove(self, lora: Path) -> None:
        """A kept LoRA and the words that belong to it."""
        for path in (lora, *self._files.embeddings_beside(lora)):
            # A file that ComfyUI has open cannot be removed on Windows; it goes the next time.
            with contextlib.suppress(OSError):
                path.unlink()

    def require_space(self) -> None:
        """Check that the disks have room for all that the run will keep.

        Raises:
            InputError: they do not.
        """
        training, config = self._training, self._training.config
        sizes = [(part.weights.master.numel(), part.bytes_per_weight) for part in training.parts]
        lora_bytes = 4 * sum(number for number, _ in sizes) + HEADER_BYTES
        num_kept = self._course.milestones.num_checkpoints
        if config.run.keep_last:
            num_kept = min(num_kept, config.run.keep_last)
        num_best = int(self._course.milestones.has_validation and config.validation.keep_best)
        # One more of each: a new file is whole before an old one goes.
        loras_bytes = (num_kept + num_best + config.run.save_diffusers + 2) * lora_bytes
        a_state = sum((4 + beside) * number for number, beside in sizes) + HEADER_BYTES
        num_spared = num_best + bool(config.run.resume_from_step)
        num_spared += ASKED_STATES * self._listener.can_wish()
        state_bytes = (KEPT_STATES + num_spared + 1) * a_state
        loras, runs = self._files.loras_folder, self._files.folder
        if loras.stat().st_dev == runs.stat().st_dev:
            require_disk_space(loras, loras_bytes + state_bytes, "the LoRA and its checkpoints")
        else:
            require_disk_space(loras, loras_bytes, "the LoRA and its checkpoints")
            require_disk_space(runs, state_bytes, "the states to resume from")
