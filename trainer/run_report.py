"""What a run did, in words: for the report output and the terminal. Names files, never folders."""

from collections.abc import Sequence
from dataclasses import dataclass

from .config import TrainConfig
from .dataset import TrainingSet


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What the report tells beside the settings."""

    name: str
    model_title: str
    file_name: str
    kept_names: Sequence[str]
    trained_steps: int
    resumed_from: int
    final_loss: float
    seconds_per_step: float
    num_layers: int
    precision: str
    checkpointing: str
    num_skipped: int
    notes: Sequence[str]


def describe_run(outcome: RunOutcome, config: TrainConfig, dataset: TrainingSet) -> str:
    """The report as lines of text."""
    lora, optimizer = config.lora, config.optimizer
    lines = [
        f"LoRA '{outcome.name}' for {outcome.model_title}: rank {lora.rank}, alpha {lora.effective_alpha:g}, "
        f"{lora.targets}" + (f", {outcome.num_layers} layers" if outcome.num_layers else ""),
        f"{describe_arithmetic(config, dataset)}",
        f"learning rate {optimizer.learning_rate:g} {optimizer.lr_schedule.replace('_', ' ')}, "
        f"min-SNR gamma {config.objective.min_snr_gamma:g}, "
        f"caption dropout {config.objective.caption_dropout:g}, seed {config.seed}",
        _what_was_done(outcome, config),
    ]
    if outcome.trained_steps:
        lines.append(f"arithmetic {outcome.precision}, gradient checkpointing {outcome.checkpointing}")
    if outcome.num_skipped:
        lines.append(f"{outcome.num_skipped} steps were skipped because their gradient was not finite")
    lines += outcome.notes
    lines.append(f"file {outcome.file_name}")
    if outcome.kept_names:
        lines.append(f"checkpoints {', '.join(outcome.kept_names)}")
    if dataset.trigger_words:
        lines.append(f"trigger words: {dataset.trigger_words}")
    return "\n".join(lines)


def describe_arithmetic(config: TrainConfig, dataset: TrainingSet) -> str:
    """From pictures to steps and epochs."""
    accumulation = config.run.gradient_accumulation
    an_epoch = dataset.batches_per_epoch(config.batch_size) / accumulation
    batch = f"batch {config.batch_size}" + (f" x {accumulation}" if accumulation > 1 else "")
    return (
        f"{len(dataset.pictures)} pictures, {dataset.num_samples} samples an epoch / {batch} = "
        f"{an_epoch:g} steps an epoch; {config.steps} steps = {config.steps / an_epoch:.1f} epochs"
    )


def _what_was_done(outcome: RunOutcome, config: TrainConfig) -> str:
    if not outcome.trained_steps:
        return f"finished before ({config.steps} steps): the file was reloaded, nothing was trained"
    started = f"went on from step {outcome.resumed_from}, " if outcome.resumed_from else ""
    return (
        f"{started}trained {outcome.trained_steps} steps, {outcome.seconds_per_step:.2f} s a step; "
        f"loss over the last steps {outcome.final_loss:.4f}"
    )
