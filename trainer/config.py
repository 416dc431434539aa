"""Every setting of a run, as frozen dataclasses that check themselves.

Each field's meaning, unit and working range stands under it; settings nodes show the same fields.
A value of 0 that means "choose for me" says so. All problems of one object come in one message.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .errors import InputError
from .settings.augment_config import AugmentConfig
from .settings.caption_variants_config import CaptionVariantsConfig
from .settings.config_checks import MAX_SEED, between, one_of, refuse
from .settings.dataset_config import Crop, DatasetConfig
from .settings.hub_config import HubConfig
from .settings.lora_config import AdapterKind, Blocks, LoRAConfig, Targets
from .settings.objective_config import NoiseConfig, ObjectiveConfig, PriorConfig, SizeConditioning
from .settings.optimizer_config import (
    LRSchedule,
    OptimizerConfig,
    OptimizerName,
    ProdigyConfig,
    ScheduleConfig,
)
from .settings.run_config import (
    Checkpointing,
    LoggingConfig,
    Precision,
    PreviewConfig,
    RunConfig,
    SavePrecision,
    ValidationConfig,
)
from .settings.text_config import (
    PivotalConfig,
    TextEncoderConfig,
    TokenOptimizer,
    TrainedEncoders,
    TrainFirst,
)

__all__ = [
    "MAX_SEED",
    "PICTURE_SETTINGS",
    "SECTIONS",
    "AdapterKind",
    "AugmentConfig",
    "Blocks",
    "CaptionVariantsConfig",
    "Checkpointing",
    "Crop",
    "DatasetConfig",
    "HubConfig",
    "LRSchedule",
    "LoRAConfig",
    "LoggingConfig",
    "NoiseConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "OptimizerName",
    "PivotalConfig",
    "Precision",
    "PreviewConfig",
    "PriorConfig",
    "ProdigyConfig",
    "Resume",
    "RunConfig",
    "SavePrecision",
    "ScheduleConfig",
    "SizeConditioning",
    "Targets",
    "TextEncoderConfig",
    "TokenOptimizer",
    "TrainConfig",
    "TrainFirst",
    "TrainedEncoders",
    "ValidationConfig",
]

Resume = Literal["auto", "new", "continue"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A whole run, resolved: no field says "choose for me" but those whose docstring does."""

    name: str
    """Name of the LoRA file, without folder and ending."""
    steps: int
    """Optimizer updates of the whole run."""
    batch_size: int = 1
    """Pictures in one forward pass; kohya: train_batch_size."""
    seed: int = 42
    """Seed of every random draw of the run; the same seed gives the same file on the CPU."""
    resume: Resume = "auto"
    """auto: go on with the run of the same name and settings; new: always anew; continue: go on, also past an
    early end that was asked for, or refuse."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    prodigy: ProdigyConfig = field(default_factory=ProdigyConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    run: RunConfig = field(default_factory=RunConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    pivotal: PivotalConfig = field(default_factory=PivotalConfig)

    def __post_init__(self) -> None:
        refuse(
            "training settings",
            [
                between("steps", self.steps, 1, 10_000_000),
                between("batch_size", self.batch_size, 1, 1024),
                between("seed", self.seed, 0, MAX_SEED),
                one_of("resume", self.resume, get_args(Resume)),
            ],
        )

    def to_json(self) -> dict[str, Any]:
        """Nested plain values, as written into config.json and the LoRA's metadata."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """The inverse of `to_json`.

        Raises:
            InputError: a name that is no setting, so that a typo never passes silently.
        """
        plain = {k: v for k, v in values.items() if k not in SECTIONS}
        nested = {k: _build(kind, values[k], k) for k, kind in SECTIONS.items() if k in values}
        return _build(cls, {**plain, **nested}, "training")


SECTIONS: Mapping[str, type] = {
    f.name: f.default_factory
    for f in dataclasses.fields(TrainConfig)
    if isinstance(f.default_factory, type) and dataclasses.is_dataclass(f.default_factory)
}
"""The groups of a TrainConfig: each has a settings node and a socket of its own."""


def _build(kind: type, values: Mapping[str, Any], section: str) -> Any:
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(
            f"{section} settings: {', '.join(unknown)} unknown; there are {', '.join(sorted(known))}"
        )
    return kind(**values)


PICTURE_SETTINGS: Mapping[str, type] = {
    "dataset": DatasetConfig,
    "augment": AugmentConfig,
    "caption_variants": CaptionVariantsConfig,
    "hub": HubConfig,
}
"""What a dataset is made with, none of it part of a TrainConfig; all but the first only where wanted."""
