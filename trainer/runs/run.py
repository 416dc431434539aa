"""A whole run: from a dataset and a model to a LoRA file, resumed where it stopped.

Whatever ends a run early, be it a wish, an error or an exception of the listener: the finished steps are
written first, as state that resumes and as a LoRA file.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..data.changed_pictures import changed_note
from ..encoding.encoded_cache import EncodedCache
from ..encoding.encoded_dataset import Encoding
from ..errors import CancelledError, InputError
from ..events import Listener, RunStart
from ..files.metadata import dataset_settings
from ..loop import StopEarly, run_steps
from ..memory_plan import free_bytes
from ..report.write_report import write_report
from ..sdxl.model import TrainableModel
from ..training import Training
from .between_steps import BetweenSteps, HeldOut
from .checkpoint import (
    TrainState,
    keep_newest_state,
    load_newest_state,
    load_state,
)
from .disk_checks import must_be_writable
from .finished_run import forget_end, goes_past, is_complete, outcome_before
from .hub import push_once
from .job import Job, Result
from .metrics_log import MetricsLog, logged_losses
from .preparation import prepare
from .previews import Previewer, preview_prompts, preview_size
from .result_files import require_same_files
from .run_checks import checks_at_end, checks_of_reloaded
from .run_folder import (
    RunFiles,
    choose_run,
    is_finished,
    record_run,
)
from .run_lock import lock_run
from .run_metadata import run_metadata
from .run_record import RunRecord
from .run_report import RunOutcome, describe_run
from .run_setup import PRECISIONS, RunPictures, assemble, encode_pictures
from .run_state import require_moved, restore
from .run_text import RunText, open_text
from .run_writer import Course, RunWriter
from .trackers import Trackers
from .validation import HeldOutLosses
from .wishes import Wishes

__all__ = ["Job", "Result", "train"]


def train(job: Job, model: TrainableModel, listener: Listener) -> Result:
    """Train a LoRA, go on with an unfinished run, or find it finished.

    Raises:
        InputError: something the user can mend; finished steps are saved.
        CancelledError: the listener asked to stop; finished steps are saved.
    """
    with torch.inference_mode(False), torch.enable_grad():
        prepared = prepare(job, model, listener)
        job, identity = prepared.job, prepared.identity
        files, notes = choose_run(
            prepared.asked, identity, job.config.resume, job.config.run.resume_from_step
        )
        with must_be_writable(job.run_folder):
            files.folder.mkdir(exist_ok=True)
        with lock_run(files.folder):
            course = Course(identity.fingerprint, prepared.milestones, HeldOutLosses())
            run = _Run(job, prepared.pictures, model, listener, files, course)
            run.notes += [*notes, *prepared.pictures.notes, *prepared.notes]
            if is_finished(files, identity.fingerprint) and is_complete(files, run.config):
                return run.reloaded()
            with must_be_writable(files.folder):
                files.remove_leftovers()
                record_run(files, run.config, identity, dataset_settings(job.dataset))
            return run.train()


class _Run:
    """One call of `train` once its name is settled and locked."""

    def __init__(
        self,
        job: Job,
        pictures: RunPictures,
        model: TrainableModel,
        listener: Listener,
        files: RunFiles,
        course: Course,
    ) -> None:
        self.config = replace(job.config, name=files.name)
        self.job = replace(job, config=self.config)
        self.pictures = pictures
        self.model = model
        self.listener = listener
        self.files = files
        self.course = course
        self.notes: list[str] = []
        self.checks: list[str] = []

    def reloaded(self) -> Result:
        """The result of a run that was finished before."""
        outcome = outcome_before(self.files, self.model.title)
        steps = outcome.steps or self.config.steps
        self._tell_begin(steps)
        loss = _mean(logged_losses(self.files.metrics))
        self.checks += checks_of_reloaded(self.files)
        return self._result(replace(outcome, steps=steps, final_loss=loss), is_reloaded=True)

    def train(self) -> Result:
        config, model, pictures = self.config, self.model, self.pictures
        state = self._load_state()
        step = state.step if state else 0
        measured = None if state is None else forget_end(self.files, self.config, self.course, state)
        self._tell_begin(step)
        cache = EncodedCache(self.job.cache_folder if config.run.cache_encoded else None, self.listener.note)
        encoding = Encoding(model, self.listener, lambda: self._stop_if_asked(step), cache)
        encoded = encode_pictures(pictures, config, encoding)
        self.notes += cache.notes
        with contextlib.ExitStack() as stack:
            record = self._record(step)
            stack.callback(record.trackers.close)
            text = self._open_text(stack)
            previewer = self._previewer(step, record, text)
            room = pictures.bytes_to_ask_for(config, model.device)
            denoiser = stack.enter_context(model.open_denoiser(room))
            if text.trained is not None:
                encoded = encoded.reading(text.trained)
            encoded = encoded.to(model.device, denoiser.dtype, free_bytes(model.device))
            training, notes = assemble(config, pictures, encoded, denoiser, text, self.job.initial_lora)
            if training.adapter is not None:
                stack.callback(training.adapter.detach)
            self.notes += [*notes, *text.notes]
            start = {part.name: part.weights.snapshot() for part in training.parts if part.starts_from_file}
            if state is not None:
                losses = restore(training, state)
                self.course = replace(self.course, losses=measured or losses)
                state = None  # as large as the weights and moments together
            held_out = HeldOut.of(pictures.held_out, encoded.held_out)
            self._train_and_save(training, record, previewer, held_out, start)
            outcome = replace(
                RunOutcome.of(self.files, model.title, self.course.losses),
                steps=training.step,
                trained_steps=training.step - step,
                resumed_from=step,
                final_loss=_mean(training.recent_losses),
                seconds_per_step=_mean(record.seconds),
                num_layers=sum(part.size for part in training.parts if part.name != "tokens"),
                precision=PRECISIONS[denoiser.dtype],
                checkpointing=training.memory.title,
                num_skipped=training.num_skipped,
            )
        self.notes += [*record.trackers.failures, *changed_note(self.job.dataset)]
        return self._result(outcome)

    def _tell_begin(self, step: int) -> None:
        config, trained = self.config.preview, self.pictures.trained
        start = RunStart(
            name=self.files.name,
            folder=self.files.folder,
            step=step,
            num_steps=self.config.steps,
            prompts=preview_prompts(config, trained),
            size=preview_size(config, trained),
        )
        self.listener.begin(start)

    def _open_text(self, stack: contextlib.ExitStack) -> RunText:
        """The text encoders, if they learn; they are let go before the denoiser is."""
        own = stack.enter_context(contextlib.ExitStack())
        captions = self.pictures.captions(self.config)
        return open_text(self.config, self.model, captions, self.job.initial_lora, self.listener, own)

    def _load_state(self) -> TrainState | None:
        """Where the run goes on; None = at its beginning.

        Raises:
            InputError: there is no such state, and the settings want one.
        """
        folder, fingerprint = self.files.state, self.course.fingerprint
        if self.config.run.resume_from_step and self.config.resume != "new":
            return load_state(folder, self.config.run.resume_from_step, fingerprint)
        state, damaged = load_newest_state(folder, fingerprint)
        if state is None and self.config.resume == "continue":
            anew = "new' to train it" if self.files.lora.exists() else "auto' to start it"
            raise InputError(
                f"resume is 'continue', but the run '{self.files.name}' has no state that can be read "
                f"({'; '.join(damaged)}): set resume to '{anew} anew"
            )
        self.notes += damaged
        return state

    def _record(self, step: int) -> RunRecord:
        trackers = Trackers(
            self.config.logging, self.files, self.config.to_json(), self.course.fingerprint, step
        )
        return RunRecord(self.listener, MetricsLog(self.files.metrics, step), trackers)

    def _previewer(self, step: int, record: RunRecord, text: RunText) -> Previewer | None:
        if not (self.course.milestones.preview_every or self.listener.can_wish()):
            return None
        previewer = Previewer(
            self.model, self.config.preview, self.pictures.trained, self.files.samples, record, text.trained
        )
        previewer.start(step)
        return previewer

    def _stop_if_asked(self, step: int) -> None:
        """For as long as no step of this call is done: there is nothing new to save."""
        if self.listener.should_stop():
            kept = self.files.kept_lora(step)
            raise CancelledError(step, kept if kept.exists() else None)

    def _train_and_save(
        self,
        training: Training,
        record: RunRecord,
        previewer: Previewer | None,
        held_out: HeldOut | None,
        start: Mapping[str, Tensor],
    ) -> None:
        """Everything from the first step to the file that is checked.

        Args:
            training: at the step where this call begins.
            record: hears of it.
            previewer: draws on the way, if wanted or if somebody may ask for it.
            held_out: what is measured, if anything.
            start: (N,) master weights of each part that starts from a LoRA.
        """
        metadata = partial(
            run_metadata, self.job, self.pictures.trained, self.model.title, self.course.fingerprint, training
        )
        with RunWriter(self.files, self.course, training, metadata, record) as writer:
            writer.require_space()
            self._stop_if_asked(training.step)
            wishes = Wishes(training, writer, record, previewer, goes_past(self.config, training.step))
            between = BetweenSteps(training, self.course, writer, record, wishes, held_out, previewer)
            with contextlib.suppress(StopEarly):
                training.settle_text()  # as it had before anything was measured or drawn at this step
                between.start()
                run_steps(training, record.step, between.after_step)
            self.notes += require_moved(training, start)
            between.finish()
        self.notes += writer.failures
        require_same_files(self.files, training)
        self.checks += checks_at_end(training, self.files)
        keep_newest_state(self.files.state)
        between.draw_last()
        if previewer is not None:
            self.notes += previewer.failures

    def _result(self, outcome: RunOutcome, is_reloaded: bool = False) -> Result:
        config, files, trained = self.config, self.files, self.pictures.trained
        if config.logging.hub_model_id:
            self.listener.phase("uploading", 0, 1)
        pushed = push_once(files, config, trained, outcome)
        outcome = replace(outcome, notes=[*self.notes, *pushed])
        report = describe_run(outcome, config, trained)
        self.listener.phase("writing the report", 0, 1)
        written = write_report(files, outcome, config, trained, report, self.checks)
        return Result(
            lora_path=files.lora,
            name=files.name,
            steps=outcome.steps,
            trained_steps=outcome.trained_steps,
            resumed_from=outcome.resumed_from,
            final_loss=outcome.final_loss,
            trigger_words=self.job.dataset.trigger_words,
            report="\n".join([report, *written.problems]),
            report_page=written.page,
            report_picture=written.picture,
            is_reloaded=is_reloaded,
            samples_folder=files.samples,
            held_out=outcome.held_out,
            embeddings=tuple(files.embeddings_beside(files.lora)),
            embedding=", ".join(files.words_of(files.lora)),
        )


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else math.nan
