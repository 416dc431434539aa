"""A whole run: from a dataset and a model to a LoRA file, resumed where it stopped.

Whatever ends a run early, be it a wish, an error or an exception of the listener: the finished steps are
written first, as state that resumes and as a LoRA file.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from .batches import BatchPlan
from .checkpoint import TrainState, keep_newest_state, load_newest_state
from .config import TrainConfig
from .dataset import TrainingSet
from .encoded_dataset import EncodedDataset, encode_dataset
from .errors import CancelledError, InputError
from .events import Listener, StepReport
from .loop import Training, run_steps
from .lora import UP, attach_lora
from .memory_plan import bytes_needed, bytes_to_ask_for, checkpoint_modules, free_bytes, plan_memory
from .metadata import RunFacts, build_metadata
from .model import Denoiser, TrainableModel
from .optimizers import build_optimizer
from .run_folder import (
    FINGERPRINT_KEY,
    RunFiles,
    choose_run,
    is_finished,
    must_be_writable,
    record_run,
    run_identity,
)
from .run_lock import lock_run
from .run_name import check_run_name, file_within
from .run_report import RunOutcome, describe_run
from .run_writer import (
    MetricsLog,
    RunWriter,
    logged_losses,
    needs_loss_scale,
    require_same_file,
    restore,
)

MOMENT_BYTES = 8
"""AdamW keeps two float32 numbers for each weight; they are made in the first step."""
_PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to train.

    `loras_folder` gets the LoRA files, `run_folder / name` everything else. `extra_metadata` goes into
    the header of the LoRA as it is ("workflow", "prompt").
    """

    config: TrainConfig
    dataset: TrainingSet
    loras_folder: Path
    run_folder: Path
    extra_metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished run. `trained_steps` counts this call's own steps: 0 when a finished run was reloaded."""

    lora_path: Path
    name: str
    steps: int
    trained_steps: int
    resumed_from: int
    final_loss: float
    trigger_words: str
    report: str


def train(job: Job, model: TrainableModel, listener: Listener) -> Result:
    """Train a LoRA, go on with an unfinished run, or find it finished.

    Raises:
        InputError: something the user can mend; finished steps are saved.
        CancelledError: the listener asked to stop; finished steps are saved.
    """
    with torch.inference_mode(False), torch.enable_grad():
        name = check_run_name(job.config.name)
        identity = run_identity(
            job.config, (job.dataset.fingerprint, job.dataset.config), (model.fingerprint, model.title)
        )
        for folder in (job.loras_folder, job.run_folder):
            with must_be_writable(folder):
                folder.mkdir(parents=True, exist_ok=True)
        file_within(job.loras_folder, f"{name}.safetensors")
        asked = RunFiles(name, job.loras_folder, file_within(job.run_folder, name))
        files, notes = choose_run(asked, identity, job.config.resume == "auto")
        with must_be_writable(job.run_folder):
            files.folder.mkdir(exist_ok=True)
        with lock_run(files.folder):
            run = _Run(job, model, listener, files, identity.fingerprint)
            run.notes += notes
            if is_finished(files, identity.fingerprint):
                return run.reloaded()
            with must_be_writable(files.folder):
                files.remove_leftovers()
                record_run(files, run.config, identity)
            return run.train()


class _Run:
    """One call of `train` once its name is settled and locked."""

    def __init__(
        self, job: Job, model: TrainableModel, listener: Listener, files: RunFiles, fingerprint: str
    ) -> None:
        self.job = job
        self.model = model
        self.listener = listener
        self.files = files
        self.fingerprint = fingerprint
        self.config = replace(job.config, name=files.name)
        self.notes: list[str] = []
        self._seconds: list[float] = []

    def reloaded(self) -> Result:
        """The result of a run that was finished before."""
        final_loss = _mean(logged_losses(self.files.metrics))
        return self._result(0, self.config.steps, final_loss, None)

    def train(self) -> Result:
        state, damaged = load_newest_state(self.files.state, self.fingerprint)
        self.notes += damaged
        step = state.step if state else 0
        encoded = encode_dataset(
            self.job.dataset,
            self.model,
            self.config.objective.size_conditioning,
            self.listener,
            lambda: self._stop_if_asked(step),
        )
        with self.model.open_denoiser(
            bytes_to_ask_for(self.config, self.job.dataset, self.model.device)
        ) as denoiser:
            training = self._prepare(denoiser, encoded, state)
            state = None  # as large as the weights and moments together
            try:
                return self._train_and_check(training)
            finally:
                training.adapter.detach()

    def _stop_if_asked(self, step: int) -> None:
        """For as long as no step of this call is done: there is nothing new to save."""
        if self.listener.should_stop():
            kept = self.files.kept_lora(step)
            raise CancelledError(step, kept if kept.exists() else None)

    def _prepare(self, denoiser: Denoiser, encoded: EncodedDataset, state: TrainState | None) -> Training:
        config, device = self.config, self.model.device
        _require_precision(config, denoiser.dtype)
        adapter = attach_lora(denoiser.unet, config.lora, config.seed)
        dataset = self.job.dataset
        training = Training(
            config=config,
            denoiser=Denoiser(unet=denoiser.unet, schedule=denoiser.schedule.to(device)),
            adapter=adapter,
            optimizer=build_optimizer(adapter.weights.parameters(), config.optimizer),
            plan=BatchPlan(dataset, config.batch_size, config.seed, config.objective.caption_dropout),
            encoded=encoded.to(device, denoiser.dtype),
            memory=plan_memory(
                max(0, free_bytes(device) - MOMENT_BYTES * adapter.weights.master.numel()),
                config.run.gradient_checkpointing,
                bytes_needed(config, dataset, denoiser.unet.config, denoiser.dtype.itemsize),
            ),
            loss_scale=needs_loss_scale(denoiser.dtype, device),
        )
        checkpoint_modules(denoiser.unet, training.memory.level)
        if state is not None:
            restore(training, state)
        return training

    def _train_and_check(self, training: Training) -> Result:
        resumed_from = training.step
        metrics = MetricsLog(self.files.metrics, resumed_from)

        def report(step: StepReport) -> None:
            metrics.write(step)
            self._seconds.append(step.seconds)
            self.listener.step(step)

        metadata = partial(self._metadata, training)
        with RunWriter(self.files, self.fingerprint, training, metadata, self.listener) as writer:
            writer.require_space()
            self._stop_if_asked(resumed_from)
            run_steps(training, report, partial(self._after_step, training, writer))
            self._require_moved(training)
            writer.save_or_explain(is_final=True)
        self.notes += writer.failures
        require_same_file(self.files.lora, training)
        keep_newest_state(self.files.state)
        trained_steps = training.step - resumed_from
        return self._result(trained_steps, resumed_from, _mean(training.recent_losses), training)

    def _after_step(self, training: Training, writer: RunWriter, read: Callable[[], None]) -> None:
        step, save_every = training.step, self.config.run.save_every
        if step == self.config.steps:
            return
        if self.listener.should_stop():
            read()
            raise CancelledError(step, writer.save_or_explain())
        if save_every and step % save_every == 0:
            read()
            writer.save_or_carry_on()

    def _metadata(self, training: Training) -> dict[str, str]:
        facts = RunFacts(
            config=self.config,
            dataset=self.job.dataset,
            model_title=self.model.title,
            prediction_type=training.denoiser.schedule.prediction_type,
            step=training.step,
            started_at=0.0,
            finished_at=0.0,
            precision=_PRECISIONS[training.denoiser.dtype],
            gradient_checkpointing=self.config.run.gradient_checkpointing == "on",
            extra=self.job.extra_metadata,
        )
        metadata = build_metadata(facts)
        # The same settings give the same bytes, today and tomorrow; the file's own date tells when.
        for key in ("ss_training_started_at", "ss_training_finished_at", "modelspec.date"):
            metadata.pop(key, None)
        return {**metadata, FINGERPRINT_KEY: self.fingerprint}

    def _require_moved(self, training: Training) -> None:
        """A run that did not learn is no success.

        Raises:
            InputError: all updates are zero.
        """
        layers, weights = training.adapter.layers, training.adapter.weights
        num_still = sum(not bool(weights.view(weights.master, path + UP).any()) for path in layers)
        if num_still == len(layers):
            rate, skipped = self.config.optimizer.learning_rate, training.num_skipped
            raise InputError(
                f"nothing was learned: after {training.step} steps at learning rate {rate:g} no weight of "
                f"the LoRA has moved ({skipped} steps were skipped): raise the learning rate or the steps"
            )
        if num_still:
            self.notes.append(f"{num_still} of {len(layers)} layers have not moved")

    def _result(
        self, trained_steps: int, resumed_from: int, final_loss: float, training: Training | None
    ) -> Result:
        config, files = self.config, self.files
        facts = RunOutcome(
            name=files.name,
            model_title=self.model.title,
            file_name=files.lora.name,
            kept_names=[path.name for _, path in files.kept_loras()],
            trained_steps=trained_steps,
            resumed_from=resumed_from,
            final_loss=final_loss,
            seconds_per_step=_mean(self._seconds),
            num_layers=len(training.adapter.layers) if training else 0,
            precision=_PRECISIONS[training.denoiser.dtype] if training else "",
            checkpointing=training.memory.title if training else "",
            num_skipped=training.num_skipped if training else 0,
            notes=self.notes,
        )
        return Result(
            lora_path=files.lora,
            name=files.name,
            steps=config.steps,
            trained_steps=trained_steps,
            resumed_from=resumed_from,
            final_loss=final_loss,
            trigger_words=self.job.dataset.trigger_words,
            report=describe_run(facts, config, self.job.dataset),
        )


def _require_precision(config: TrainConfig, dtype: torch.dtype) -> None:
    if config.run.precision not in ("auto", _PRECISIONS[dtype]):
        raise InputError(
            f"precision is {config.run.precision}, but the model is held in {_PRECISIONS[dtype]}: load it "
            "in that type, or set precision to auto"
        )


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else math.nan
