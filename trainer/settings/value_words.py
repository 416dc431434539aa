"""One setting of a run as people read it: its name, the value that acts, where it came from."""

from dataclasses import dataclass
from typing import Any, Literal

from ..config import TrainConfig
from ..optimization.optimizer_kinds import PRODIGY_KINDS
from .part_rates import part_optimizer, part_window

_WORDS = {
    ("optimizer", "lr_schedule"): "schedule",
    ("objective", "min_snr_gamma"): "min-SNR gamma",
    ("lora", "rank_stabilized"): "rank-stabilized scaling",
    ("prior", "prior_preservation"): "prior preservation",
    ("run", "precision"): "arithmetic",
    ("text_encoder", "train_text_encoder"): "text encoders trained:",
    ("text_encoder", "clip_l_learning_rate"): "CLIP-L rate",
    ("text_encoder", "clip_g_learning_rate"): "CLIP-G rate",
    ("text_encoder", "weight_decay"): "text encoder weight decay",
    ("pivotal", "learning_rate"): "token rate",
    ("pivotal", "optimizer"): "token optimizer",
    ("pivotal", "weight_decay"): "token weight decay",
}
_ALWAYS_SHOWN = {
    "lora": ("rank", "alpha", "targets"),
    "optimizer": ("learning_rate", "lr_schedule"),
    "objective": ("min_snr_gamma", "caption_dropout"),
}
_SHOWN_WITH_TOKENS = ("new_tokens", "ti_fraction", "learning_rate")
_LONGEST_TEXT = 60

OriginKind = Literal["preset", "settings", "widget", "usual"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from, in words and as one of four kinds; "usual" follows from other values."""

    words: str
    kind: OriginKind


@dataclass(frozen=True, slots=True)
class ChosenValue:
    """One value of a run in words; `place` is "section.field" or a name, `detail` says how it was counted."""

    place: str
    setting: str
    value: str
    origin: Origin
    detail: str = ""

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.setting} {self.value} ({self.origin.words}{detail})"


def is_always_shown(config: TrainConfig, section: str, field: str) -> bool:
    """Whether a report names a setting even where it is at its default: the few everybody looks for."""
    if section == "pivotal":
        return config.pivotal.is_on and field in _SHOWN_WITH_TOKENS
    if section == "text_encoder":
        return field.removesuffix("_learning_rate") in config.text_encoder.trained
    return field in _ALWAYS_SHOWN.get(section, ())


def chosen_value(
    config: TrainConfig, section: str, field: str, origin: Origin, is_length_known: bool = True
) -> ChosenValue:
    """One value in words, "CLIP-L rate 5e-05 (half of the UNet's)"; `origin` counts where it is not 0.

    A share of the run is told in steps too where `config.steps` is the run's.
    """
    value, usual = _value_and_usual(config, section, field)
    if usual and not getattr(getattr(config, section), field):
        origin = Origin(usual, "usual")
    plain = field.replace("_", " ")
    words = _WORDS.get((section, field), plain)
    if section == "preview" and not plain.startswith("preview"):
        words = f"preview {plain}"
    steps = _steps(config, field) if is_length_known else ""
    return ChosenValue(f"{section}.{field}", words, f"{_text(value)}{steps}", origin)


def _value_and_usual(config: TrainConfig, section: str, field: str) -> tuple[Any, str]:
    """The value that acts, and where it comes from if the setting itself is 0."""
    if (section, field) == ("lora", "alpha"):
        usual = "usual for rsLoRA" if config.lora.rank_stabilized else "same as rank"
        return config.lora.effective_alpha, usual
    if (section, field) == ("optimizer", "learning_rate"):
        return config.optimizer.effective_learning_rate, f"usual for {config.optimizer.optimizer}"
    if (section, field) == ("pivotal", "learning_rate"):
        tokens = part_optimizer(config, "tokens")
        return tokens.learning_rate, f"usual for tokens with {tokens.optimizer}"
    if section == "text_encoder" and field.endswith("_learning_rate"):
        is_same = config.optimizer.optimizer in PRODIGY_KINDS
        part = part_optimizer(config, "clip_l" if field.startswith("clip_l") else "clip_g")
        return part.learning_rate, "same as the UNet's" if is_same else "half of the UNet's"
    return getattr(getattr(config, section), field), ""


def _steps(config: TrainConfig, field: str) -> str:
    """What a fraction of the run comes to."""
    if field == "ti_fraction" and config.pivotal.is_on:
        return f": tokens train to step {part_window(config, 'tokens')[1]} of {config.steps}"
    if field == "stop_fraction" and config.text_encoder.trained:
        return f": to step {part_window(config, config.text_encoder.trained[0])[1]} of {config.steps}"
    return ""


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
