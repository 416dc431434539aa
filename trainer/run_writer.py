"""When and how a run is written to disk: state first, then the LoRA, and only then old files go."""

import contextlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import torch
from safetensors import SafetensorError

from .atomic_file import write_atomically
from .checkpoint import KEPT_STATES, TrainState, optimizer_tensors, restore_optimizer, save_state
from .errors import InputError
from .events import Listener, StepReport
from .loop import LOSSES_KEPT, Training
from .lora_file import read_lora, to_kohya, write_lora
from .loss_scale import LossScale
from .run_folder import RunFiles, require_disk_space

logger = logging.getLogger(__name__)

WRITE_ERRORS = (OSError, SafetensorError)
LORA, OPTIMIZER, LOSS_SCALE = "lora/", "optimizer/", "loss_scale/"


class RunWriter:
    """Writes checkpoints of one run; as a context, also when something else ends it.

    Args:
        files: where to.
        fingerprint: of the run.
        training: what to write; read anew at each saving.
        metadata: gives that of a LoRA file of the present step.
        listener: hears of every LoRA file.
    """

    def __init__(
        self,
        files: RunFiles,
        fingerprint: str,
        training: Training,
        metadata: Callable[[], Mapping[str, str]],
        listener: Listener,
    ) -> None:
        self._files = files
        self._fingerprint = fingerprint
        self._training = training
        self._metadata = metadata
        self._listener = listener
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
        save_state(self._files.state, self._state())
        path = self._files.lora if is_final else self._files.kept_lora(step)
        write_lora(
            path,
            training.adapter.state_dict(),
            training.config.lora,
            self._metadata(),
            training.denoiser.unet.config.layers_per_block,
        )
        self.saved_step = step
        self._prune(step - 1 if is_final else step)
        return path

    def save_or_carry_on(self) -> None:
        """A checkpoint between others: when the disk is full, training goes on and the next one is tried."""
        try:
            path = self.save()
        except WRITE_ERRORS as error:
            self.failures.append(
                f"the checkpoint of step {self._training.step} could not be written: {error}"
            )
            logger.warning(self.failures[-1])
            return
        # outside: an OSError of whoever listens, such as a closed terminal, is no failed write
        self._listener.checkpoint(self.saved_step, path)

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

    def _prune(self, last_step: int) -> None:
        """Remove what is too old, and a checkpoint of the final step: it is the final file already."""
        kept = [(step, path) for step, path in self._files.kept_loras() if step <= self.saved_step]
        within = [path for step, path in kept if step <= last_step]
        keep_last = self._training.config.run.keep_last
        old = within[:-keep_last] if keep_last else []
        for path in [*old, *(path for step, path in kept if step > last_step)]:
            # A file that ComfyUI has open cannot be removed on Windows; it goes the next time.
            with contextlib.suppress(OSError):
                path.unlink()

    def _state(self) -> TrainState:
        training = self._training
        weights = training.adapter.state_dict()
        tensors = {LORA + k: v.detach().to("cpu", copy=True).contiguous() for k, v in weights.items()}
        tensors |= {OPTIMIZER + k: v for k, v in optimizer_tensors(training.optimizer).items()}
        if training.loss_scale is not None:
            tensors |= {LOSS_SCALE + k: v for k, v in training.loss_scale.state().items()}
        figures = {
            "num_skipped": training.num_skipped,
            "skipped_in_a_row": training.skipped_in_a_row,
            "recent_losses": list(training.recent_losses),
        }
        return TrainState(training.step, self._fingerprint, tensors, figures)

    def require_space(self) -> None:
        """Check that the disks have room for all that the run will keep.

        Raises:
            InputError: they do not.
        """
        config, num_weights = self._training.config, self._training.adapter.weights.master.numel()
        lora_bytes = 4 * num_weights + 2**20
        every = config.run.save_every
        num_kept = (config.steps - 1) // every if every else 0
        if config.run.keep_last:
            num_kept = min(num_kept, config.run.keep_last)
        # One more of each: a new file is whole before an old one goes.
        loras_bytes = (num_kept + 2) * lora_bytes
        state_bytes = (KEPT_STATES + 1) * (12 * num_weights + 2**20)
        loras, runs = self._files.loras_folder, self._files.folder
        if loras.stat().st_dev == runs.stat().st_dev:
            require_disk_space(loras, loras_bytes + state_bytes, "the LoRA and its checkpoints")
        else:
            require_disk_space(loras, loras_bytes, "the LoRA and its checkpoints")
            require_disk_space(runs, state_bytes, "the states to resume from")


def restore(training: Training, state: TrainState) -> None:
    """Put a state into a run that was set up with the same settings."""

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): v for k, v in state.tensors.items() if k.startswith(prefix)}

    training.adapter.load_state_dict(part(LORA))
    restore_optimizer(training.optimizer, part(OPTIMIZER))
    if training.loss_scale is not None:
        training.loss_scale.load_state(part(LOSS_SCALE))
    training.step = state.step
    training.num_skipped = state.figures["num_skipped"]
    training.skipped_in_a_row = state.figures["skipped_in_a_row"]
    training.recent_losses.extend(state.figures["recent_losses"])


def require_same_file(path: Path, training: Training) -> None:
    """What lies on the disk must be what was trained.

    Raises:
        InputError: it is not.
    """
    written = read_lora(path).tensors
    layers_per_block = training.denoiser.unet.config.layers_per_block
    trained = to_kohya(training.adapter.state_dict(), training.config.lora, layers_per_block)
    same = written.keys() == trained.keys() and all(
        torch.equal(written[name], values.to(written[name].dtype)) for name, values in trained.items()
    )
    if not same:
        raise InputError(
            f"{path.name} does not hold what was written into it: the disk or the memory may be faulty; "
            "run again, the training goes on from its last state"
        )


class MetricsLog:
    """metrics.jsonl: one line for each step, in order, also after a resume."""

    def __init__(self, path: Path, resumed_from: int) -> None:
        self._path = path
        if path.exists():
            lines = path.read_text("utf-8", "replace").splitlines()
            kept = "".join(f"{line}\n" for line in lines if _step_of(line) <= resumed_from)
            write_atomically(path, lambda temporary: temporary.write_text(kept, "utf-8"))

    def write(self, report: StepReport) -> None:
        line = {
            "step": report.step,
            "epoch": round(report.epoch, 4),
            "loss": report.loss if math.isfinite(report.loss) else None,
            "grad_norm": report.grad_norm if math.isfinite(report.grad_norm) else None,
            "learning_rate": report.learning_rate,
            "seconds": round(report.seconds, 4),
        }
        # A log is no reason to end a run: a full disk is told about where the checkpoint fails.
        with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def logged_losses(path: Path) -> list[float]:
    """The losses at the end of metrics.jsonl; none where it is gone."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()[-LOSSES_KEPT:]
    except OSError:
        return []
    losses = [json.loads(line).get("loss") for line in lines if _step_of(line) < math.inf]
    return [loss for loss in losses if isinstance(loss, float)]


def _step_of(line: str) -> float:
    """The step of a line; infinite for one that was cut off by a crash."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def needs_loss_scale(dtype: torch.dtype, device: torch.device) -> LossScale | None:
    """Float16 has no room for small gradients; bfloat16 and float32 do."""
    return LossScale(device) if dtype == torch.float16 else None
