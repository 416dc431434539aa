"""From a command line to the settings of a run: preset, then --config, then --set, then the single flags."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .chosen_pictures import ChosenPictures, known_values
from .config import PICTURE_SETTINGS, SECTIONS, TrainConfig
from .errors import InputError
from .setting_texts import parse_settings
from .settings.presets import Settings, Widgets, find_preset
from .settings.settings_from_lora import settings_of_file

# flag -> the setting that it stands for; None = the flag is not given
FLAGS: Mapping[str, tuple[str, str]] = {
    "optimizer": ("optimizer", "optimizer"),
    "schedule": ("optimizer", "lr_schedule"),
    "adapter": ("lora", "adapter"),
    "accumulation": ("run", "gradient_accumulation"),
    "save_every": ("run", "save_every"),
    "precision": ("run", "precision"),
    "validation_share": ("validation", "validation_share"),
    "preview_every": ("preview", "preview_every"),
    "train_text_encoder": ("text_encoder", "train_text_encoder"),
    "prior_loss_weight": ("prior", "prior_loss_weight"),
    "resolution": ("dataset", "resolution"),
    "trigger": ("dataset", "trigger"),
    "prompt": ("dataset", "prompt"),
    "repeats": ("dataset", "repeats"),
    "flip": ("dataset", "flip"),
    "augment": ("augment", "variants_per_picture"),
    "caption_variants": ("caption_variants", "num_variants"),
    "hub": ("hub", "repository"),
}
_RATES_OF_PARTS = (
    ("text_encoder", "clip_l_learning_rate"),
    ("text_encoder", "clip_g_learning_rate"),
)
"""Rates that go with the optimizer of the whole; the tokens have one of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """What --config holds: sections, values of the run itself (steps, batch_size, seed), of its pictures."""

    sections: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, int] = field(default_factory=dict)
    pictures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Section of `PICTURE_SETTINGS` -> values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Everything that the command line says about a run."""

    preset: str
    widgets: Widgets
    settings: Settings
    pictures: ChosenPictures

    @property
    def precision(self) -> str:
        run = find_preset(self.preset).run if self.settings.run is None else self.settings.run
        return run.precision


def choose_settings(options: argparse.Namespace) -> Chosen:
    """What the flags of `command_line.build_parser` ask for.

    Raises:
        InputError: a file that cannot be read, an unknown setting, a value out of its range.
    """
    if options.num_class_images and not options.class_data:
        raise InputError(
            f"--num-class-images is {options.num_class_images}, but there is no folder to draw them into: "
            "name one with --class-data"
        )
    file = read_config_file(options.config) if options.config else ConfigFile()
    changes = parse_settings(options.set)
    for flag, (section, name) in FLAGS.items():
        if getattr(options, flag) is not None:
            changes.setdefault(section, {})[name] = getattr(options, flag)
    if options.prompts:
        changes.setdefault("preview", {}).setdefault("prompts", "\n".join(options.prompts))
    if options.class_prompt and not options.class_data:
        prior = {"prior_preservation": "base_model", "class_prompt": options.class_prompt}
        changes["prior"] = {**prior, **changes.get("prior", {})}
    pictures = {name: dict(values) for name, values in file.pictures.items()}
    for name in PICTURE_SETTINGS:
        if name in changes:
            pictures.setdefault(name, {}).update(changes.pop(name))
    if not options.data and "hub" not in pictures:
        raise InputError("there are no pictures: name a folder with --data, or a dataset with --hub")
    chosen = ChosenPictures.of(pictures)
    return Chosen(
        preset=options.preset,
        widgets=_widgets(options, file, options.name or _default_name(options, chosen)),
        settings=_settings(options, file, changes),
        pictures=chosen,
    )


def _settings(options: argparse.Namespace, file: ConfigFile, changes: dict[str, dict[str, Any]]) -> Settings:
    """Sections that differ from the preset's."""
    recipe = find_preset(options.preset)
    optimizer = file.sections.get("optimizer", recipe.optimizer)
    asked = changes.get("optimizer", {})
    if asked.get("optimizer", optimizer.optimizer) != optimizer.optimizer:
        # a rate that suits one optimizer is wrong for another by orders of magnitude
        asked.setdefault("learning_rate", 0.0)
        for section, name in _RATES_OF_PARTS:
            if section in changes or section in file.sections:
                changes.setdefault(section, {}).setdefault(name, 0.0)
    changed = dict(file.sections)
    for section, values in changes.items():
        changed[section] = replace(changed.get(section, getattr(recipe, section)), **values)
    return Settings(**changed)


def _widgets(options: argparse.Namespace, file: ConfigFile, name: str) -> Widgets:
    from_file = dict(file.run)
    if options.steps or options.epochs:
        from_file["steps"] = 0
    seed = from_file.get("seed", Widgets(name="").seed) if options.seed is None else options.seed
    return Widgets(
        name=name,
        steps=options.steps or from_file.get("steps", 0),
        epochs=options.epochs,
        rank=options.rank,
        alpha=options.alpha,
        targets=options.targets,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size or from_file.get("batch_size", 0),
        seed=seed,
        resume=options.resume,
        token=options.token,
        new_tokens=options.new_tokens,
        ti_fraction=options.ti_fraction,
    )


def _default_name(options: argparse.Namespace, chosen: ChosenPictures) -> str:
    """That of the first folder, else of the hub dataset without its owner."""
    if chosen.hub is None or options.data:
        return options.data[0].resolve().name
    return chosen.hub.repository.rpartition("/")[2]


def read_config_file(path: Path) -> ConfigFile:
    """Settings out of a LoRA file, a run's config.json, or a JSON file with as many settings as one likes.

    Raises:
        InputError: not readable, not of that form, or a name that is no setting.
    """
    if path.suffix.lower() == ".safetensors":
        loaded = settings_of_file(path)
        counts = {"steps": loaded.steps, "batch_size": loaded.batch_size, "seed": loaded.seed}
        return ConfigFile(sections=loaded.sections, run=counts, pictures=_pictures(loaded.pictures, path))
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"config '{path.name}' cannot be read as JSON ({reason}): give a run's config.json, a JSON file "
            "with settings, or a LoRA"
        ) from error
    whole = content if isinstance(content, dict) else {}
    train = whole.get("settings", whole.get("train", content))
    pictures = {name: whole[name] for name in PICTURE_SETTINGS if whole.get(name)}
    if not all(isinstance(values, dict) for values in (train, *pictures.values())):
        raise InputError(
            f'config \'{path.name}\' holds no settings: write them as {{"lora": {{"rank": 8}}, "steps": 500}}'
        )
    return _sections(train, pictures, path)


def _sections(values: Mapping[str, Any], pictures: Mapping[str, Any], path: Path) -> ConfigFile:
    train = {name: value for name, value in values.items() if name not in PICTURE_SETTINGS}
    try:
        # name and steps are wanted by a TrainConfig, but not of a file that sets a few values
        whole = TrainConfig.from_json({"name": "", "steps": 1, **train})
    except (TypeError, AttributeError) as error:
        raise InputError(
            f"config '{path.name}': a value is of another type than its setting: {error}"
        ) from error
    except InputError as error:
        raise InputError(f"config '{path.name}': {error}") from error
    run = {name: getattr(whole, name) for name in ("steps", "batch_size", "seed") if name in train}
    sections = {name: getattr(whole, name) for name in SECTIONS if name in train}
    return ConfigFile(sections=sections, run=run, pictures=_pictures(pictures, path))


def _pictures(values: Mapping[str, Mapping[str, Any]], path: Path) -> dict[str, dict[str, Any]]:
    return {name: known_values(section, name, path.name) for name, section in values.items()}
