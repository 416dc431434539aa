"""From a command line to the pictures of a run: folders or the hub, masks, variants, looks, class images."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .config import PICTURE_SETTINGS, AugmentConfig, CaptionVariantsConfig, DatasetConfig, HubConfig
from .data.augmented_dataset import with_augmentation
from .data.caption_variants import with_caption_variants
from .data.dataset import TrainingSet, load_dataset
from .data.dataset_sets import join_datasets, with_masks
from .errors import InputError
from .events import Listener
from .hub.hub_dataset import fetch_hub_dataset
from .terminal import told_progress

HUB_FOLDER = "hub_datasets"
FETCHED_COLUMN = "text"
SDXL_RESOLUTION = 1024
SMALL_RESOLUTION = 512
"""Below it, buckets in steps of 64 would be few."""
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenPictures:
    """What the command line says of pictures; `augment`, `caption_variants`, `hub` None = not wanted."""

    dataset: Mapping[str, Any] = field(default_factory=dict)
    """Fields of DatasetConfig that are set."""
    augment: AugmentConfig | None = None
    caption_variants: CaptionVariantsConfig | None = None
    hub: HubConfig | None = None

    @classmethod
    def of(cls, values: Mapping[str, Mapping[str, Any]]) -> "ChosenPictures":
        """Section of `PICTURE_SETTINGS` -> values.

        Raises:
            InputError: a value out of its range.
        """
        others = {name: kind for name, kind in PICTURE_SETTINGS.items() if name != "dataset"}
        made = {name: kind(**values[name]) for name, kind in others.items() if name in values}
        return cls(dataset=values.get("dataset", {}), **made)

    def dataset_config(self, native_resolution: int) -> DatasetConfig:
        """The dataset settings; `native_resolution` is the model's, for where none is asked for."""
        resolution = self.dataset.get("resolution") or native_resolution
        step = {} if resolution >= SMALL_RESOLUTION else {"bucket_step": 32}
        return DatasetConfig(**{**step, **self.dataset, "resolution": resolution})


def known_values(values: Mapping[str, Any], section: str, place: str) -> dict[str, Any]:
    """`values` of a section of `PICTURE_SETTINGS`, found in the file that messages call `place`.

    Raises:
        InputError: a name that is no setting, or a value of another type than its setting.
    """
    kinds = {setting.name: type(setting.default) for setting in fields(PICTURE_SETTINGS[section])}
    unknown = sorted(set(values) - kinds.keys())
    if unknown:
        raise InputError(f"config '{place}': {section} settings: {', '.join(unknown)} unknown")
    for name, value in values.items():
        kind = kinds[name]
        if type(value) is not kind and (kind, type(value)) != (float, int):
            wrong = f"{name} is {value!r}, but must be {_KINDS[kind]}"
            raise InputError(f"config '{place}': {section} settings: {wrong}")
    return dict(values)


def load_pictures(options: argparse.Namespace, chosen: ChosenPictures, listener: Listener) -> TrainingSet:
    """The pictures of all folders as one set, with masks, caption variants and looks; no class images.

    Raises:
        InputError: see `load_dataset`, `fetch_hub_dataset`, `with_masks`, `join_datasets`.
        CancelledError: the listener asked to stop.
    """
    on_progress = told_progress(listener, "reading pictures")
    config = chosen.dataset_config(native_resolution(options.checkpoint))
    count = len(options.data) + (chosen.hub is not None)
    weights = options.loss_weights or [1.0] * count
    if len(weights) != count:
        raise InputError(
            f"--loss-weights has {len(weights)} numbers, but there are {count} datasets: give one for each"
        )
    sets = [load_dataset(folder, config, on_progress) for folder in options.data]
    if chosen.hub is not None:
        folder = _fetched(chosen.hub, options.output / HUB_FOLDER, listener)
        # the table of a fetched folder is our own, whatever column those of the user have
        sets.append(load_dataset(folder, replace(config, caption_column=FETCHED_COLUMN), on_progress))
    if options.masks:
        sets = [with_masks(dataset, options.masks, on_progress) for dataset in sets]
    plain = len(sets) == 1 and weights == [1.0]
    dataset = sets[0] if plain else join_datasets(list(zip(sets, weights, strict=True)))
    if chosen.caption_variants is not None:
        dataset = with_caption_variants(dataset, chosen.caption_variants)
    if chosen.augment is not None:
        dataset = with_augmentation(dataset, chosen.augment)
    return dataset


def _fetched(config: HubConfig, into: Path, listener: Listener) -> Path:
    """The folder of a hub dataset."""
    fetching = told_progress(listener, "fetching pictures")
    return fetch_hub_dataset(config, into, fetching, told_progress(listener, "downloading, MB"))


def native_resolution(checkpoint: Path) -> int:
    """Side of the pictures a model was made for, pixels; 1024 where its folder does not tell."""
    try:
        config = json.loads((checkpoint / "unet" / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return SDXL_RESOLUTION
    return 8 * config.get("sample_size", SDXL_RESOLUTION // 8)
