"""How a preset, settings and widgets become a run's settings, and where each value came from.

Order: preset, then the settings that are plugged in, each in place of the preset's whole section, then the
widgets; a widget of 0 or "preset" is not set.
"""

import dataclasses
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
    PivotalConfig,
    PreviewConfig,
    PriorConfig,
    ProdigyConfig,
    RunConfig,
    ScheduleConfig,
    TextEncoderConfig,
    TrainConfig,
    ValidationConfig,
)
from ..data.dataset import TrainingSet
from ..data.dataset_sets import with_repeats
from ..errors import InputError
from .recipes import PRESETS, Preset
from .step_count import count_steps
from .value_words import ChosenValue, Origin, chosen_value, is_always_shown

__all__ = [
    "PRESETS",
    "Preset",
    "Settings",
    "Widgets",
    "chosen_values",
    "explain",
    "find_preset",
    "prepared",
    "preset_notes",
    "resolve",
]

_TITLES = {"lora": "LoRA", "text_encoder": "text encoder"}


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
    token: str = ""
    new_tokens: int = 0
    """Tokens for each word; 0 = the preset's."""
    ti_fraction: float = 0.0
    token_learning_rate: float = 0.0


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
    text_encoder: TextEncoderConfig | None = None
    pivotal: PivotalConfig | None = None


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

    What a preset says of new tokens acts only where a token is set. Its rates for the text encoders are
    left out where another optimizer than its own is plugged in: what suits one is far off for another.

    Raises:
        InputError: a value is out of its range, the preset is unknown, or the dataset is too small to
            hold a part out.
    """
    config = _of_one_step(preset, widgets, settings)
    steps, _ = count_steps(find_preset(preset), widgets.steps, widgets.epochs, config, dataset)
    return replace(config, steps=steps)


def _of_one_step(preset: str, widgets: Widgets, settings: Settings) -> TrainConfig:
    """The settings of a run whose length is not known yet."""
    recipe = find_preset(preset)
    _require_one_token(widgets, settings)
    sections: dict[str, Any] = {}
    for name in SECTIONS:
        plugged = getattr(settings, name)
        sections[name] = getattr(recipe, name) if plugged is None else plugged
    if settings.pivotal is None and not widgets.token.strip():
        sections["pivotal"] = PivotalConfig()
    if settings.text_encoder is None and sections["optimizer"].optimizer != recipe.optimizer.optimizer:
        usual = {"clip_l_learning_rate": 0.0, "clip_g_learning_rate": 0.0}
        sections["text_encoder"] = replace(recipe.text_encoder, **usual)
    for section, field, value in _set_widgets(widgets):
        sections[section] = replace(sections[section], **{field: value})
    return TrainConfig(
        name=widgets.name,
        steps=1,
        batch_size=widgets.batch_size or recipe.batch_size,
        seed=widgets.seed,
        resume=widgets.resume,
        **sections,
    )


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
    values = chosen_values(preset, widgets, settings, dataset)
    return [*map(str, values), *preset_notes(preset, widgets, settings)]


def chosen_values(
    preset: str, widgets: Widgets, settings: Settings, dataset: TrainingSet | None
) -> list[ChosenValue]:
    """The values of `explain`, the steps last; without a dataset the steps as the preset puts them.

    Raises:
        InputError: see `resolve`.
    """
    if dataset is None:
        config = _of_one_step(preset, widgets, settings)
    else:
        config = resolve(preset, widgets, settings, dataset)
    from_preset, from_node = Origin(f"preset {preset}", "preset"), Origin("node", "widget")
    of_widgets = {(section, field) for section, field, _ in _set_widgets(widgets)}
    values = []
    for name, kind in SECTIONS.items():
        section, origin = getattr(config, name), from_preset
        if getattr(settings, name) is not None:
            origin = Origin(f"{_TITLES.get(name, name)} settings", "settings")
        for field in dataclasses.fields(kind):
            value = getattr(section, field.name)
            if is_always_shown(config, name, field.name) or value != field.default:
                where = from_node if (name, field.name) in of_widgets else origin
                values.append(chosen_value(config, name, field.name, where, dataset is not None))
    if config.batch_size > 1 or widgets.batch_size:
        where = from_node if widgets.batch_size else from_preset
        values.append(ChosenValue("batch_size", "batch size", str(config.batch_size), where))
    where = from_node if widgets.steps or widgets.epochs else from_preset
    return [*values, _chosen_length(find_preset(preset), widgets, config, dataset, where)]


def _chosen_length(
    recipe: Preset, widgets: Widgets, config: TrainConfig, dataset: TrainingSet | None, origin: Origin
) -> ChosenValue:
    if dataset is not None:
        steps, arithmetic = count_steps(recipe, widgets.steps, widgets.epochs, config, dataset)
        return ChosenValue("steps", "steps", str(steps), origin, arithmetic)
    if widgets.steps:
        return ChosenValue("steps", "steps", str(widgets.steps), origin)
    if widgets.epochs:
        return ChosenValue("epochs", "epochs", str(widgets.epochs), origin)
    return ChosenValue("length", "length", recipe.length.summary, origin)


def _require_one_token(widgets: Widgets, settings: Settings) -> None:
    """Words in two places, of which one would silently win.

    Raises:
        InputError: they differ.
    """
    plugged = "" if settings.pivotal is None else settings.pivotal.token
    own, other = ([word.strip().lower() for word in text.split(",")] for text in (widgets.token, plugged))
    if any(own) and any(other) and own != other:
        raise InputError(
            f"token is '{widgets.token}' on the trainer itself and '{plugged}' in the pivotal settings: "
            "empty one of them, or write the same into both"
        )


def _set_widgets(widgets: Widgets) -> list[tuple[str, str, Any]]:
    """(section, field, value) of each widget that overrules a section."""
    candidates = [
        ("lora", "rank", widgets.rank),
        ("lora", "alpha", widgets.alpha),
        ("lora", "targets", "" if widgets.targets == "preset" else widgets.targets),
        ("optimizer", "learning_rate", widgets.learning_rate),
        ("pivotal", "token", widgets.token.strip()),
        ("pivotal", "new_tokens", str(widgets.new_tokens or "")),
        ("pivotal", "ti_fraction", widgets.ti_fraction),
        ("pivotal", "learning_rate", widgets.token_learning_rate),
    ]
    return [candidate for candidate in candidates if candidate[2]]


def preset_notes(preset: str, widgets: Widgets, settings: Settings) -> list[str]:
    """What else a preset asks for, a sentence each.

    Raises:
        InputError: see `resolve`.
    """
    recipe, config = find_preset(preset), _of_one_step(preset, widgets, settings)
    notes = [f"preset {preset}: {recipe.note}"] if recipe.note else []
    if recipe.pivotal != PivotalConfig() and not config.pivotal.is_on:
        notes.append(
            f"preset {preset} teaches the text encoders a word first, and none is set: use the node Pivotal "
            "Tuning, or --token TOK, with that word in the captions"
        )
    if recipe.needs and find_spec(recipe.needs) is None:
        notes.append(
            f"preset {preset} needs the package {recipe.needs}, which is not installed: pip install "
            f"{recipe.needs}, or choose another preset or optimizer"
        )
    return notes
