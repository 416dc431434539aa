"""A run that has its final file: whether that is the last of it, or whether there is more to do."""

from dataclasses import replace

from ..config import TrainConfig
from .checkpoint import TrainState, list_states, step_of
from .metrics_log import forget_measurement, logged_held_out_losses
from .run_folder import RunFiles, written_as
from .run_report import RunOutcome
from .run_writer import Course
from .validation import HeldOutLosses


def outcome_before(files: RunFiles, model_title: str = "") -> RunOutcome:
    """What the final file and the log tell; 0 steps where the file does not say."""
    outcome = RunOutcome.of(files, model_title, logged_held_out_losses(files.metrics))
    return replace(outcome, steps=written_as(files).steps)


def is_complete(files: RunFiles, config: TrainConfig) -> bool:
    """Whether the final file, which is there, is all that is wanted; else the last state gives it."""
    return _is_last(files, config) and _is_written_as_asked(files, config)


def goes_past(config: TrainConfig, end: int) -> bool:
    """Whether a run that was asked to end after the step `end` is to go on to its planned steps."""
    return config.resume == "continue" or (config.resume == "auto" and config.run.resume_from_step == end)


def _is_last(files: RunFiles, config: TrainConfig) -> bool:
    outcome, states = outcome_before(files), list_states(files.state)
    if not outcome.steps or not states:
        return True
    if step_of(states[0]) > outcome.steps:  # taken up again after it had ended, and then broken off
        return False
    return not (goes_past(config, outcome.steps) and outcome.was_asked_to_end(config))


def _is_written_as_asked(files: RunFiles, config: TrainConfig) -> bool:
    """Whether the finished files have the form that is wanted now."""
    run, pivotal, written = config.run, config.pivotal, written_as(files)
    has_form = written.precision in ("", run.save_precision)
    has_copy = files.diffusers_lora.exists() or not run.save_diffusers
    has_words = all(path.exists() for path in files.embeddings_of(files.lora))
    has_bundle = written.has_bundle or not pivotal.bundle
    if list_states(files.state):
        return has_form and has_copy and has_words and has_bundle
    return has_words or written.has_bundle  # words that are nowhere else are learned anew


def forget_end(
    files: RunFiles, config: TrainConfig, course: Course, state: TrainState
) -> HeldOutLosses | None:
    """A run that goes on past its end counts as one that never ended: what was measured only there, does not.

    Returns:
        What counts in place of what the state knows; None = the state. So it is where the log is gone, too.
    """
    measured = HeldOutLosses.of(state.figures["validation"])
    is_due = measured.last_step != state.step or course.milestones.validates_at(state.step)
    if is_due or not goes_past(config, state.step) or logged_held_out_losses(files.metrics) != measured:
        return None
    forget_measurement(files.metrics, state.step)
    return logged_held_out_losses(files.metrics)
