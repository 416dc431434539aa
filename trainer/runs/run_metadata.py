"""The header of a LoRA file, from the run that writes it."""

from ..data.dataset import TrainingSet
from ..files.metadata import FINGERPRINT_KEY, RunFacts, build_metadata
from ..training import Training
from .job import Job
from .run_setup import PRECISIONS

TIMES = ("ss_training_started_at", "ss_training_finished_at", "modelspec.date")
"""Left out: the same settings give the same bytes, today and tomorrow; the file's own date tells when."""


def run_metadata(
    job: Job, trained: TrainingSet, model_title: str, fingerprint: str, training: Training
) -> dict[str, str]:
    """Of the present step.

    Args:
        job: with the run's own name in its settings.
        trained: the pictures that are trained on.
        model_title: what the model calls itself.
        fingerprint: of the run.
        training: between two steps.
    """
    schedule = training.denoiser.schedule
    facts = RunFacts(
        config=job.config,
        dataset=trained,
        model_title=model_title,
        prediction_type=schedule.prediction_type,
        zero_terminal_snr=schedule.ends_without_signal,
        step=training.step,
        started_at=0.0,
        finished_at=0.0,
        precision=PRECISIONS[training.denoiser.dtype],
        gradient_checkpointing=job.config.run.gradient_checkpointing == "on",
        extra=job.extra_metadata,
    )
    metadata = build_metadata(facts)
    for key in TIMES:
        metadata.pop(key, None)
    return {**metadata, FINGERPRINT_KEY: fingerprint}
