"""How a preset, settings and widgets become a run's settings, and where each value came from.

Order: preset, then the settings that are plugged in, each in place of the preset's whole section, then the
widgets; a widget of 0 or "preset" is not set.
"""

import dataclasses
import math
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from ..config import (
    SECTIONS,
    LoggingConfig,
    LoRAConfig,
    NoiseConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PreviewConfig,
    PriorConfig,
    ProdigyConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
    ValidationConfig,
)
from ..data.dataset import TrainingSet
from ..data.dataset_sets import with_repeats
from ..errors import InputError
from .recipes import PRESETS, Preset

__all__ = ["PRESETS", "Preset", "Settings", "Widgets", "explain", "find_preset", "resolve"]

ALWAYS_SHOWN = {
    "lora": ("rank", "alpha", "targets"),
    "optimizer": ("learning_rate", "lr_schedule"),
    "objective": ("min_snr_gamma", "caption_dropout"),
}
"""Section -> the fields that `explain` names even where they are at their defaults."""
_WORDS = {
    ("optimizer", "lr_schedule"): "schedule",
    ("objective", "min_snr_gamma"): "min-SNR gamma",
    ("lora", "rank_stabilized"): "rank-stabilized scaling",
    ("prior", "prior_preservation"): "prior preservation",
    ("run", "precision"): "arithmetic",
}
_LONGEST_TEXT = 60


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
    batch_size: int = 0
    """Pictures in one forward pass; 0 = the preset's."""
    seed: int = 42
    resume: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is plugged into the settings sockets, one for each section; None where nothing is."""

    lora: LoRAConfig | None = None
    optimizer: OptimizerConfig | None = None
    schedule: ScheduleConfig | None = None
    prodigy: ProdigyConfig | None = None
    objective: ObjectiveConfig | None = None
    noise: NoiseConfig | None = None
    prior: PriorConfig | None = None
    preview: PreviewConfig | None = None
    validation: ValidationConfig | None = None
    run: RunConfig | None = None
    logging: LoggingConfig | None = None


def find_preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        InputError: there is none of this name.
    """
    if name not in PRESETS:
        raise InputError(f"preset is '{name}', but must be one of {', '.join(PRESETS)}")
    return PRESETS[name]


def resolve(preset: str, widgets: Widgets, settings: Settings, dataset: TrainingSet) -> TrainConfig:
    """The settings of a run.

    Raises:
        InputError: a value is out of its range, the preset is unknown, or the dataset is too small to
            hold a part out.
    """
    recipe = find_preset(preset)
    sections: dict[str, Any] = {}
    for name in SECTIONS:
        plugged = getattr(settings, name)
        sections[name] = getattr(recipe, name) if plugged is None else plugged
    for section, field, value in _set_widgets(widgets):
        sections[section] = replace(sections[section], **{field: value})
    config = TrainConfig(
        name=widgets.name,
        steps=1,
        batch_size=widgets.batch_size or recipe.batch_size,
        seed=widgets.seed,
        resume=widgets.resume,
        **sections,
    )
    return replace(config, steps=_count_steps(recipe, widgets, config, dataset)[0])


def prepared(preset: str, dataset: TrainingSet) -> TrainingSet:
    """The dataset with the recipe's repeats, where it has none of its own.

    Raises:
        InputError: the preset is unknown.
    """
    repeats = find_preset(preset).repeats
    has_own = dataset.num_samples != len(dataset.pictures)
    return dataset if has_own else with_repeats(dataset, repeats)


def explain(preset: str, widgets: Widgets, settings: Settings, dataset: TrainingSet) -> list[str]:
    """Where each value that `resolve` chose comes from, one line each ("rank 16 (preset person)").

    Values at their defaults are left out but for the few everybody looks for. Then the arithmetic of the
    steps, and what else the preset asks for.
    """
    recipe = find_preset(preset)
    config = resolve(preset, widgets, settings, dataset)
    from_node = {(section, field) for section, field, _ in _set_widgets(widgets)}
    lines = []
    for name, kind in SECTIONS.items():
        section = getattr(config, name)
        plugged = f"preset {preset}" if getattr(settings, name) is None else f"{name} settings"
        origin = plugged.replace("lora", "LoRA") if plugged.startswith("lora") else plugged
        for field in dataclasses.fields(kind):
            value = getattr(section, field.name)
            is_shown = field.name in ALWAYS_SHOWN.get(name, ())
            if is_shown or value != field.default:
                where = "node" if (name, field.name) in from_node else origin
                lines.append(_line(config, name, field.name, where))
    if config.batch_size > 1 or widgets.batch_size:
        lines.append(
            f"batch size {config.batch_size} ({'node' if widgets.batch_size else f'preset {preset}'})"
        )
    steps, arithmetic = _count_steps(recipe, widgets, config, dataset)
    origin = "node" if widgets.steps or widgets.epochs else f"preset {preset}"
    lines.append(f"steps {steps} ({origin}{': ' if arithmetic else ''}{arithmetic})")
    return [*lines, *_preset_notes(preset, recipe)]


def _set_widgets(widgets: Widgets) -> list[tuple[str, str, Any]]:
    """(section, field, value) of each widget that overrules a section."""
    candidates = [
        ("lora", "rank", widgets.rank),
        ("lora", "alpha", widgets.alpha),
        ("lora", "targets", "" if widgets.targets == "preset" else widgets.targets),
        ("optimizer", "learning_rate", widgets.learning_rate),
    ]
    return [candidate for candidate in candidates if candidate[2]]


def _line(config: TrainConfig, section: str, field: str, origin: str) -> str:
    """One value in words."""
    value = getattr(getattr(config, section), field)
    if (section, field) == ("lora", "alpha"):
        usual = "usual for rsLoRA" if config.lora.rank_stabilized else "same as rank"
        value, origin = config.lora.effective_alpha, origin if value else usual
    if (section, field) == ("optimizer", "learning_rate"):
        usual = f"usual for {config.optimizer.optimizer}"
        value, origin = config.optimizer.effective_learning_rate, origin if value else usual
    plain = field.replace("_", " ")
    words = _WORDS.get((section, field), plain)
    if section == "preview" and not plain.startswith("preview"):
        words = f"preview {plain}"
    return f"{words} {_text(value)} ({origin})"


def _text(value: Any) -> str:
    """A value as it reads in a sentence; names without their underscores, texts between quotes."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, str):
        return str(value)
    if value.isidentifier():
        return value.replace("_", " ")
    one_line = " / ".join(value.split("\n"))
    if len(one_line) > _LONGEST_TEXT:
        one_line = f"{one_line[:_LONGEST_TEXT]}…"
    return f"'{one_line}'" if " " in one_line else one_line


def _count_steps(
    recipe: Preset, widgets: Widgets, config: TrainConfig, dataset: TrainingSet
) -> tuple[int, str]:
    """Optimizer steps of the run, and their arithmetic in words."""
    if widgets.steps:
        return widgets.steps, ""
    share = config.validation.validation_share
    trained = dataset.split(share)[0] if share else dataset
    length, num_pictures = recipe.length, len(trained.pictures)
    accumulation = config.run.gradient_accumulation
    samples_a_step = config.batch_size * accumulation
    batch = f"batch {config.batch_size}" + (f" x {accumulation}" if accumulation > 1 else "")
    epochs = widgets.epochs or length.epochs
    if epochs:
        repeats = recipe.repeats if trained.num_samples == num_pictures else 1
        an_epoch, words = _steps_an_epoch(trained, repeats, config.batch_size, accumulation)
        return epochs * an_epoch, f"{words} / {batch} = {an_epoch} steps an epoch x {epochs} epochs"
    if length.steps:
        views = length.steps * samples_a_step / num_pictures
        return length.steps, f"x {batch} / {_count(num_pictures)} = each is seen {views:.0f} times"
    wanted = num_pictures * length.steps_per_picture
    at_batch_1 = min(max(wanted, length.min_steps), length.max_steps or wanted)
    words = f"{_count(num_pictures)} x {length.steps_per_picture}"
    if wanted != at_batch_1:
        words += f" = {wanted}, kept within {length.min_steps} to {length.max_steps}"
    if samples_a_step > 1:
        words += f", / {samples_a_step} samples a step"
    others = [f"x {factor} = {num_pictures * factor}" for factor in length.also_tried]
    if others:
        words += f"; the recipe tried {' and '.join(others)} too"
    return math.ceil(at_batch_1 / samples_a_step), words


def _steps_an_epoch(
    dataset: TrainingSet, repeats: int, batch_size: int, accumulation: int
) -> tuple[int, str]:
    """Optimizer steps in an epoch that shows each picture `repeats` times as often, and its samples in words.

    A batch never mixes buckets, so it may be a little more than samples / batch.
    """
    samples = [dataset.samples_in(bucket) * repeats for bucket in dataset.buckets]
    num_pictures, an_epoch = (
        len(dataset.pictures),
        math.ceil(sum(math.ceil(number / batch_size) for number in samples) / accumulation),
    )
    each, rest = divmod(sum(samples), num_pictures)
    words = f"{_count(num_pictures)} x {each} repeats" if each > 1 else _count(num_pictures)
    if rest:
        words = f"{sum(samples)} samples"
    if an_epoch > math.ceil(sum(samples) / (batch_size * accumulation)):
        words += f" in {len(samples)} buckets"
    return an_epoch, words


def _count(num_pictures: int) -> str:
    return f"{num_pictures} picture" + ("s" if num_pictures != 1 else "")


def _preset_notes(name: str, recipe: Preset) -> list[str]:
    notes = [f"preset {name}: {recipe.note}"] if recipe.note else []
    if recipe.needs and find_spec(recipe.needs) is None:
        notes.append(
            f"preset {name} needs the package {recipe.needs}, which is not installed: pip install "
            f"{recipe.needs}, or choose another preset or optimizer"
        )
    return notes
