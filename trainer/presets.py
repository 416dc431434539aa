"""Starting points for four kinds of LoRA, as plain values, and how they become a run's settings.

Order: preset, then the settings that are plugged in, then the widgets; a widget of 0 or "preset" is not
set. Figures: published recipes for SDXL, 8-100 pictures, batch 1 (ai-toolkit, kohya, OneTrainer, and the
Hugging Face DreamBooth posts, which find faces best near 120 steps a picture).
"""

import math
from dataclasses import dataclass, field, replace

from .config import (
    LoRAConfig,
    LRSchedule,
    ObjectiveConfig,
    OptimizerConfig,
    PreviewConfig,
    RunConfig,
    Targets,
    TrainConfig,
)
from .dataset import TrainingSet
from .errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    rank: int
    targets: Targets = "attention+ff"
    learning_rate: float = 1e-4
    lr_schedule: LRSchedule
    caption_dropout: float = 0.05
    min_snr_gamma: float = 5.0
    steps_per_picture: int
    """How often each picture is seen, at batch size 1."""
    min_steps: int
    max_steps: int
    """Limits of the steps at batch size 1; larger batches take fewer steps over as many pictures."""

    @property
    def summary(self) -> str:
        """The preset in one line, for tooltips."""
        return (
            f"rank {self.rank}, {self.targets}, learning rate {self.learning_rate:g} "
            f"{self.lr_schedule.replace('_', ' ')}, {self.steps_per_picture} steps a picture "
            f"({self.min_steps} to {self.max_steps})"
        )


PRESETS = {
    "person": Preset(
        rank=16,
        lr_schedule="constant_with_warmup",
        steps_per_picture=110,
        min_steps=600,
        max_steps=2500,
    ),
    "character": Preset(rank=16, lr_schedule="cosine", steps_per_picture=90, min_steps=1000, max_steps=3000),
    "style": Preset(rank=32, lr_schedule="cosine", steps_per_picture=50, min_steps=1000, max_steps=4000),
    "object": Preset(
        rank=16,
        lr_schedule="constant_with_warmup",
        steps_per_picture=90,
        min_steps=600,
        max_steps=2000,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Widgets:
    """The values on the training node itself."""

    name: str
    steps: int = 0
    """Optimizer steps; 0 = from `epochs`, else from the preset."""
    epochs: int = 0
    """Passes over the dataset; 0 = use `steps`."""
    rank: int = 0
    alpha: float = 0.0
    targets: str = "preset"
    learning_rate: float = 0.0
    batch_size: int = 1
    seed: int = 42
    resume: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is plugged into the settings sockets; None where nothing is."""

    lora: LoRAConfig | None = None
    optimizer: OptimizerConfig | None = None
    objective: ObjectiveConfig | None = None
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    run: RunConfig = field(default_factory=RunConfig)


def resolve(preset: str, widgets: Widgets, settings: Settings, dataset: TrainingSet) -> TrainConfig:
    """The settings of a run.

    Raises:
        InputError: a value is out of its range, or the preset is unknown.
    """
    recipe = find_preset(preset)
    lora = settings.lora or LoRAConfig(rank=recipe.rank, targets=recipe.targets)
    optimizer = settings.optimizer or OptimizerConfig(
        learning_rate=recipe.learning_rate, lr_schedule=recipe.lr_schedule
    )
    objective = settings.objective or ObjectiveConfig(
        min_snr_gamma=recipe.min_snr_gamma, caption_dropout=recipe.caption_dropout
    )
    if widgets.rank:
        lora = replace(lora, rank=widgets.rank)
    if widgets.alpha:
        lora = replace(lora, alpha=widgets.alpha)
    if widgets.targets != "preset":
        lora = replace(lora, targets=widgets.targets)
    if widgets.learning_rate:
        optimizer = replace(optimizer, learning_rate=widgets.learning_rate)
    return TrainConfig(
        name=widgets.name,
        steps=_steps(recipe, widgets, settings, dataset)[0],
        batch_size=widgets.batch_size,
        seed=widgets.seed,
        resume=widgets.resume,
        lora=lora,
        optimizer=optimizer,
        objective=objective,
        preview=settings.preview,
        run=settings.run,
    )


def explain(preset: str, widgets: Widgets, settings: Settings, dataset: TrainingSet) -> list[str]:
    """Where each value that `resolve` chose comes from, one line each ("rank 16 (preset person)")."""
    config = resolve(preset, widgets, settings, dataset)
    lora_from = "LoRA settings" if settings.lora else f"preset {preset}"
    optimizer_from = "optimizer settings" if settings.optimizer else f"preset {preset}"
    objective_from = "objective settings" if settings.objective else f"preset {preset}"
    alpha = config.lora.effective_alpha
    alpha_from = "node" if widgets.alpha else lora_from if config.lora.alpha else "same as rank"
    rate = config.optimizer.learning_rate
    return [
        f"rank {config.lora.rank} ({'node' if widgets.rank else lora_from})",
        f"alpha {alpha:g} ({alpha_from})",
        f"targets {config.lora.targets} ({'node' if widgets.targets != 'preset' else lora_from})",
        f"learning rate {rate:g} ({'node' if widgets.learning_rate else optimizer_from})",
        f"schedule {config.optimizer.lr_schedule.replace('_', ' ')} ({optimizer_from})",
        f"min-SNR gamma {config.objective.min_snr_gamma:g} ({objective_from})",
        f"caption dropout {config.objective.caption_dropout:g} ({objective_from})",
        f"steps {config.steps} ({_steps(find_preset(preset), widgets, settings, dataset)[1]})",
    ]


def find_preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        InputError: there is none of this name.
    """
    if name not in PRESETS:
        raise InputError(f"preset is '{name}', but must be one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _steps(recipe: Preset, widgets: Widgets, settings: Settings, dataset: TrainingSet) -> tuple[int, str]:
    """Optimizer steps of the run, and where the number comes from."""
    if widgets.steps:
        return widgets.steps, "node"
    accumulation = settings.run.gradient_accumulation
    if widgets.epochs:
        an_epoch = dataset.steps_per_epoch(widgets.batch_size, accumulation)
        return widgets.epochs * an_epoch, f"{widgets.epochs} epochs of {an_epoch} steps"
    num_pictures = len(dataset.pictures)
    wanted = num_pictures * recipe.steps_per_picture
    at_batch_1 = min(max(wanted, recipe.min_steps), recipe.max_steps)
    # max: a batch size of 0 is refused with a sentence by TrainConfig, not by a division here.
    samples_a_step = max(1, widgets.batch_size * accumulation)
    origin = f"preset: {num_pictures} pictures x {recipe.steps_per_picture}"
    if wanted != at_batch_1:
        origin += f" = {wanted}, kept within {recipe.min_steps} to {recipe.max_steps}"
    if samples_a_step > 1:
        origin += f", / {samples_a_step} samples a step"
    return math.ceil(at_batch_1 / samples_a_step), origin
