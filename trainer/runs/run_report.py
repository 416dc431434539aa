"""What a run did, in words: for the report output and the terminal. Names files, never folders."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..config import TrainConfig
from ..data.dataset import TrainingSet
from ..settings.part_rates import Part, part_optimizer, part_window
from ..text.new_tokens import NewTokens
from .asked_for import AskedFor
from .run_folder import RunFiles
from .validation import HeldOutLosses


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What the report tells beside the settings; the second half only of a run that trained."""

    name: str
    model_title: str
    file_name: str
    kept_names: Sequence[str]
    has_best_file: bool = False
    held_out: HeldOutLosses = field(default_factory=HeldOutLosses)
    steps: int = 0
    """Steps that the file was trained for, now or before."""
    asked_end: int = 0
    """The step at which the run was asked to end; 0 = nobody asked, or it is not known any more."""
    final_loss: float = math.nan
    notes: Sequence[str] = ()
    trained_steps: int = 0
    resumed_from: int = 0
    seconds_per_step: float = math.nan
    num_layers: int = 0
    precision: str = ""
    checkpointing: str = ""
    num_skipped: int = 0
    embedding_names: Sequence[str] = ()
    """Of new words, as a prompt writes them after `embedding:`."""

    def was_asked_to_end(self, config: TrainConfig) -> bool:
        """Whether the run ended before its last planned step, and not for want of patience."""
        patience = config.validation.early_stop_patience
        is_unknown = patience > 0 and self.held_out.last_step < 0  # the log is gone
        has_lost = is_unknown or self.held_out.has_lost_patience(patience)
        return 0 < self.steps < config.steps and (self.asked_end == self.steps or not has_lost)

    @classmethod
    def of(cls, files: RunFiles, model_title: str, held_out: HeldOutLosses) -> "RunOutcome":
        """What the files tell."""
        return cls(
            name=files.name,
            model_title=model_title,
            file_name=files.lora.name,
            kept_names=[path.name for _, path in files.kept_loras()],
            has_best_file=files.kept_lora(held_out.best_step).exists(),
            held_out=held_out,
            asked_end=AskedFor(files).end,
            embedding_names=files.words_of(files.lora),
        )


def describe_run(outcome: RunOutcome, config: TrainConfig, dataset: TrainingSet) -> str:
    """The report as lines of text; `dataset` holds the pictures trained on."""
    lines = [
        _what_was_trained(outcome, config),
        describe_arithmetic(config, dataset),
        _how(config),
        *_text(config),
        _what_was_done(outcome),
    ]
    if outcome.trained_steps:
        lines.append(f"arithmetic {outcome.precision}, gradient checkpointing {outcome.checkpointing}")
    if outcome.num_skipped:
        lines.append(f"{outcome.num_skipped} steps were skipped because their gradient was not finite")
    if 0 < outcome.steps < config.steps:
        lines.append(f"ended at step {outcome.steps} of {config.steps}{_why_ended(outcome, config)}")
    lines += filter(None, [outcome.held_out.describe(outcome.has_best_file)])
    lines += outcome.notes
    lines.append(f"file {outcome.file_name}")
    if outcome.embedding_names:
        written = " or ".join(f"embedding:{name}" for name in outcome.embedding_names)
        lines.append(f"embedding {', '.join(outcome.embedding_names)}: elsewhere its word is {written}")
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
        f"{an_epoch:g} steps an epoch; {config.steps} steps = {epochs_text(config.steps / an_epoch)} epochs"
    )


def epochs_text(epochs: float) -> str:
    """A number of epochs as it is read best: "110", "1.5"."""
    return f"{epochs:.1f}".removesuffix(".0")


def _what_was_trained(outcome: RunOutcome, config: TrainConfig) -> str:
    lora = config.lora
    if not part_window(config, "unet")[1]:
        return f"new words '{outcome.name}' for {outcome.model_title}, without a LoRA"
    kind = {"lora": "LoRA", "dora": "DoRA", "loha": "LoHa", "lokr": "LoKr"}[lora.adapter]
    layers = f", {outcome.num_layers} layers" if outcome.num_layers else ""
    return (
        f"{kind} '{outcome.name}' for {outcome.model_title}: rank {lora.rank}, "
        f"alpha {lora.effective_alpha:g}, {lora.targets}{layers}"
    )


def _how(config: TrainConfig) -> str:
    optimizer = config.optimizer
    return (
        f"{optimizer.optimizer}, learning rate {optimizer.effective_learning_rate:g} "
        f"{optimizer.lr_schedule.replace('_', ' ')}, min-SNR gamma {config.objective.min_snr_gamma:g}, "
        f"caption dropout {config.objective.caption_dropout:g}, seed {config.seed}"
    )


def _text(config: TrainConfig) -> list[str]:
    """What is trained beside the UNet, from which step to which; nothing in most runs."""
    lines = []
    if config.pivotal.is_on:
        words = [f"{word} ({n} tokens)" for word, n in NewTokens.parse(config.pivotal).words]
        lines.append(f"new words {', '.join(words)}, {_course(config, 'tokens')}")
    for part, title in (("clip_l", "CLIP-L"), ("clip_g", "CLIP-G")):
        if part_window(config, part)[1]:
            lines.append(f"{title}'s LoRA, {_course(config, part)}")
    return lines


def _course(config: TrainConfig, part: Part) -> str:
    optimizer, (first, end) = part_optimizer(config, part), part_window(config, part)
    return f"{optimizer.optimizer}, learning rate {optimizer.learning_rate:g}, steps {first + 1} to {end}"


def _why_ended(outcome: RunOutcome, config: TrainConfig) -> str:
    if outcome.was_asked_to_end(config):
        return " because it was asked to; set resume to 'continue' to go on"
    patience = config.validation.early_stop_patience
    return f": the held-out loss had not fallen for {patience} measurements (early_stop_patience)"


def _what_was_done(outcome: RunOutcome) -> str:
    if not outcome.trained_steps:
        return f"finished before ({outcome.steps} steps): the file was reloaded, nothing was trained"
    started = f"went on from step {outcome.resumed_from}, " if outcome.resumed_from else ""
    return (
        f"{started}trained {outcome.trained_steps} steps, {outcome.seconds_per_step:.2f} s a step; "
        f"loss over the last steps {outcome.final_loss:.4f}"
    )
