"""The settings of a run in full, section by section, beside their defaults."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..config import SECTIONS, TrainConfig
from ..data.dataset import TrainingSet

_RUN_FIELDS = ("steps", "batch_size", "seed", "resume")
_TITLES = {"lora": "LoRA", "pivotal": "new tokens"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One value; `usual` is the default, "" for a setting that has none."""

    name: str
    value: str
    usual: str
    is_changed: bool


@dataclass(frozen=True, slots=True)
class SettingsSection:
    title: str
    settings: Sequence[Setting]

    @property
    def num_changed(self) -> int:
        return sum(setting.is_changed for setting in self.settings)


def settings_table(config: TrainConfig, dataset: TrainingSet) -> list[SettingsSection]:
    """Every setting that shapes a run, the pictures' too."""
    own = [_setting(config, field) for field in dataclasses.fields(config) if field.name in _RUN_FIELDS]
    sections = [SettingsSection("training", own)]
    made = {name: getattr(config, name) for name in SECTIONS}
    made |= {
        "dataset": dataset.config,
        "augment": dataset.augment,
        "caption_variants": dataset.caption_variants,
    }
    for name, section in made.items():
        if section is not None:
            settings = [_setting(section, field) for field in dataclasses.fields(section)]
            sections.append(SettingsSection(_TITLES.get(name, name.replace("_", " ")), settings))
    return sections


def _setting(section: Any, field: dataclasses.Field) -> Setting:
    value = getattr(section, field.name)
    if field.default is dataclasses.MISSING:
        return Setting(field.name, _text(value), "", is_changed=False)
    return Setting(field.name, _text(value), _text(field.default), is_changed=value != field.default)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
