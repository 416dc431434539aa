"""What makes two runs the same: everything that shapes their numbers, and nothing else."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import DatasetConfig, TrainConfig
from ..settings.part_rates import part_optimizer, text_rank

RECIPE = 3
"""Counts up whenever the same settings no longer give the same numbers."""
_NOT_OF_THE_RESULT = ("name", "resume", "preview", "logging", "validation", "text_encoder", "pivotal")
_NOT_OF_THE_RESULT_IN_RUN = (
    "save_every",
    "save_every_epochs",
    "keep_last",
    "resume_from_step",
    "save_precision",
    "save_diffusers",
    "gradient_checkpointing",
    "cache_encoded",
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a run is: two runs with equal fingerprints train the same numbers."""

    values: Mapping[str, Any]
    """Nested plain values: settings, dataset, model."""

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """What is different in `other`, an older run, as "rank 16 -> 8"."""
        before, now = _flat(other), _flat(self.values)
        return [
            f"{key.rpartition('.')[2]} {_shown(before.get(key))} -> {_shown(now.get(key))}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]


def run_identity(
    config: TrainConfig,
    dataset: tuple[str, DatasetConfig],
    model: tuple[str, str],
    validate_every: int = 0,
    initial_lora: str = "",
) -> Identity:
    """All that shapes the numbers of a run, and nothing else.

    Args:
        config: settings; the name, what to save, to log and to draw are left out.
        dataset: fingerprint and settings.
        model: fingerprint and title.
        validate_every: optimizer steps between two measurements, from `Milestones`: they decide where a run
            ends early.
        initial_lora: digest of the LoRA that training starts from, if any.
    """
    settings = {k: v for k, v in config.to_json().items() if k not in _NOT_OF_THE_RESULT}
    settings["run"] = {k: v for k, v in settings["run"].items() if k not in _NOT_OF_THE_RESULT_IN_RUN}
    # what 0 stands for, so that it equals the same value set by hand
    settings["lora"] = {**settings["lora"], "alpha": config.lora.effective_alpha}
    settings["optimizer"] = {
        **settings["optimizer"],
        "learning_rate": config.optimizer.effective_learning_rate,
        "beta2": config.optimizer.effective_beta2,
    }
    settings |= _text_settings(config)
    values = {
        "recipe": RECIPE,
        "settings": {**settings, "validation": _validation(config, validate_every)},
        "dataset": {"dataset": dataset[0], **dataclasses.asdict(dataset[1])},
        "model": {"model": model[0]},
    }
    return Identity({**values, "start": {"initial_lora": initial_lora}} if initial_lora else values)


def _text_settings(config: TrainConfig) -> dict[str, Any]:
    """What is trained of the text; nothing where nothing is, as in runs from before that could be."""
    found: dict[str, Any] = {}
    if config.text_encoder.trained:
        rates = {
            f"{name}_learning_rate": part_optimizer(config, name).learning_rate
            for name in config.text_encoder.trained
        }
        found["text_encoder"] = {
            **dataclasses.asdict(config.text_encoder),
            "clip_l_learning_rate": 0.0,
            "clip_g_learning_rate": 0.0,
            **rates,
            "text_encoder_rank": text_rank(config),
        }
    if config.pivotal.is_on:
        optimizer = part_optimizer(config, "tokens")
        found["pivotal"] = {
            **{k: v for k, v in dataclasses.asdict(config.pivotal).items() if k != "bundle"},
            "optimizer": optimizer.optimizer,
            "learning_rate": optimizer.learning_rate,
        }
    return found


def _validation(config: TrainConfig, validate_every: int) -> dict[str, Any]:
    """Which pictures are held out, and when measuring them may end the run."""
    validation = config.validation
    if not validation.validation_share:
        return {}
    patience = validation.early_stop_patience
    if not patience:
        return {"validation_share": validation.validation_share}
    return {
        "validation_share": validation.validation_share,
        "early_stop_patience": patience,
        "validate_every": validate_every,
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _shown(value: Any) -> str:
    """Fingerprints by their first eight digits: only that they differ is of interest."""
    return value[:8] if isinstance(value, str) and re.fullmatch("[0-9a-f]{32,}", value) else str(value)
