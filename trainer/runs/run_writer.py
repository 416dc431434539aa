"""When and how a run is written to disk: state first, then the LoRA, and only then old files go.

A state holds what trains; a LoRA file holds what is shown (`Training.evaluation`).
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from safetensors import SafetensorError

from ..errors import InputError
from ..events import Listener
from ..files.lora_file import read_lora, write_diffusers_lora, write_lora
from ..files.lora_layout import to_kohya
from ..training import Training
from .checkpoint import KEPT_STATES, TrainState, save_state
from .milestones import Milestones
from .run_folder import RunFiles, require_disk_space
from .validation import HeldOutLosses

logger = logging.getLogger(__name__)

WRITE_ERRORS = (OSError, SafetensorError)
LORA, OPTIMIZER, LOSS_SCALE, AVERAGE = "lora/", "optimizer/", "loss_scale/", "average/"
HEADER_BYTES = 2**20


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
            logger.warning("step %d could not be saved: %s", training.step, second)

    def save(self, is_final: bool = False) -> Path:
        """Write the state and the LoRA of the finished steps, then prune.

        Returns:
            The LoRA: `<name>.safetensors` if it is final, else `<name>-stepNNNNNN.safetensors`.

        Raises:
            OSError, SafetensorError: disk full or the like; older files are as they were.
            InputError: the weights are not finite.
        """
        training, step = self._training, self._training.step
        if not bool(training.adapter.weights.master.isfinite().all()):
            raise InputError(
                f"the LoRA's weights are not finite at step {step} and were not saved: go on from an "
                "earlier checkpoint with a lower learning rate"
            )
        save_state(self._files.state, self._state(), self._spared_states())
        path = self._files.lora if is_final else self._files.kept_lora(step)
        self._write_lora(path)
        if is_final and training.config.run.save_diffusers:
            layers_per_block = training.denoiser.unet.config.layers_per_block
            write_diffusers_lora(self._files.diffusers_lora, read_lora(path), layers_per_block)
        self.saved_step = step
        self._prune(step - 1 if is_final else step)
        return path

    def save_or_carry_on(self) -> None:
        """A checkpoint between others: when the disk is full, training goes on and the next one is tried."""
        path = self._try(self.save)
        # outside: an OSError of whoever listens, such as a closed terminal, is no failed write
        if path is not None:
            self._listener.checkpoint(self._training.step, path)

    def save_best_or_carry_on(self) -> None:
        """The LoRA that measures best so far, without a state; the former best goes."""
        path = self._files.kept_lora(self._training.step)

        def save() -> Path:
            self._write_lora(path)
            self._remove_former_best()
            self._best_alone = self._training.step
            return path

        if self._try(save) is not None:
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
                f"'{self._files.folder.name}' ({error}): free some disk space and run again; the run then "
                f"goes on from step {self.saved_step}"
            ) from error
        self._listener.checkpoint(self.saved_step, path)
        return path

    def _try(self, save: Callable[[], Path]) -> Path | None:
        try:
            return save()
        except WRITE_ERRORS as error:
            self.failures.append(
                f"the checkpoint of step {self._training.step} could not be written: {error}"
            )
            logger.warning(self.failures[-1])
            return None

    def _write_lora(self, path: Path) -> None:
        training = self._training
        with training.evaluation():
            weights = training.adapter.state_dict()
        write_lora(
            path,
            weights,
            training.config.lora,
            self._metadata(),
            training.denoiser.unet.config.layers_per_block,
            training.config.run.save_precision,
        )

    def _prune(self, last_step: int) -> None:
        """Remove what is too old, and a checkpoint of the final step: it is the final file already."""
        self._remove_former_best()
        config, best = self._training.config, self._course.losses.best_step
        kept = [(step, path) for step, path in self._files.kept_loras() if step <= self.saved_step]
        within = [
            path
            for step, path in kept
            if step <= last_step and not (config.validation.keep_best and step == best)
        ]
        old = within[: -config.run.keep_last] if config.run.keep_last else []
        for path in [*old, *(path for step, path in kept if step > last_step)]:
            _remove(path)

    def _remove_former_best(self) -> None:
        if self._best_alone not in (0, self._course.losses.best_step):
            _remove(self._files.kept_lora(self._best_alone))
            self._best_alone = 0

    def _spared_states(self) -> set[int]:
        """Steps whose state stays beside the newest two: that of the best, and the one that was asked for."""
        config = self._training.config
        best = self._course.losses.best_step if config.validation.keep_best else 0
        return {best, config.run.resume_from_step}

    def _state(self) -> TrainState:
        training = self._training
        moments, optimizer_figures = training.optimizer.state()
        parts = {LORA: training.adapter.state_dict(), OPTIMIZER: moments}
        if training.loss_scale is not None:
            parts[LOSS_SCALE] = training.loss_scale.state()
        if training.average is not None:
            parts[AVERAGE] = training.average.state()
        tensors = {
            prefix + name: values.detach().cpu().contiguous()
            for prefix, part in parts.items()
            for name, values in part.items()
        }
        figures = {
            "num_skipped": training.num_skipped,
            "skipped_in_a_row": training.skipped_in_a_row,
            "recent_losses": list(training.recent_losses),
            "optimizer": optimizer_figures,
            "validation": self._course.losses.figures(),
        }
        return TrainState(training.step, self._course.fingerprint, tensors, figures)

    def require_space(self) -> None:
        """Check that the disks have room for all that the run will keep.

        Raises:
            InputError: they do not.
        """
        training, config = self._training, self._training.config
        num_weights = training.adapter.weights.master.numel()
        lora_bytes = 4 * num_weights + HEADER_BYTES
        num_kept = self._course.milestones.num_checkpoints
        if config.run.keep_last:
            num_kept = min(num_kept, config.run.keep_last)
        num_best = int(self._course.milestones.has_validation and config.validation.keep_best)
        # One more of each: a new file is whole before an old one goes.
        loras_bytes = (num_kept + num_best + config.run.save_diffusers + 2) * lora_bytes
        averages = 4 if training.average is not None else 0
        a_state = (4 + training.optimizer.bytes_per_weight + averages) * num_weights + HEADER_BYTES
        state_bytes = (KEPT_STATES + num_best + bool(config.run.resume_from_step) + 1) * a_state
        loras, runs = self._files.loras_folder, self._files.folder
        if loras.stat().st_dev == runs.stat().st_dev:
            require_disk_space(loras, loras_bytes + state_bytes, "the LoRA and its checkpoints")
        else:
            require_disk_space(loras, loras_bytes, "the LoRA and its checkpoints")
            require_disk_space(runs, state_bytes, "the states to resume from")


def restore(training: Training, state: TrainState) -> HeldOutLosses:
    """Put a state into a run that was set up with the same settings; returns what was measured by then."""

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): v for k, v in state.tensors.items() if k.startswith(prefix)}

    training.adapter.load_state_dict(part(LORA))
    training.optimizer.load_state(part(OPTIMIZER), state.figures["optimizer"])
    # none in a state that was saved in another arithmetic: the scale is then found anew
    if training.loss_scale is not None and part(LOSS_SCALE):
        training.loss_scale.load_state(part(LOSS_SCALE))
    if training.average is not None:
        training.average.load_state(part(AVERAGE))
    training.step = state.step
    training.num_skipped = state.figures["num_skipped"]
    training.skipped_in_a_row = state.figures["skipped_in_a_row"]
    training.recent_losses.extend(state.figures["recent_losses"])
    return HeldOutLosses.of(state.figures["validation"])


def require_same_file(path: Path, training: Training) -> None:
    """What lies on the disk must be what was trained.

    Raises:
        InputError: it is not.
    """
    written = read_lora(path).tensors
    layers_per_block = training.denoiser.unet.config.layers_per_block
    with training.evaluation():
        trained = to_kohya(training.adapter.state_dict(), training.config.lora, layers_per_block)
    same = written.keys() == trained.keys() and all(
        torch.equal(written[name], values.to(written[name].dtype)) for name, values in trained.items()
    )
    if not same:
        raise InputError(
            f"{path.name} does not hold what was written into it: the disk or the memory may be faulty; "
            "run again, the training goes on from its last state"
        )


def _remove(path: Path) -> None:
    # A file that ComfyUI has open cannot be removed on Windows; it goes the next time.
    with contextlib.suppress(OSError):
        path.unlink()
