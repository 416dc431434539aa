"""What a trainer node's preset, widgets and settings nodes come to, before anything runs."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...trainer.config import SECTIONS
from ...trainer.settings.presets import Settings, Widgets, chosen_values, prepared, preset_notes, resolve
from .dataset_look import MAX_KEPT, DatasetChoice
from .json_body import BadRequestError
from .widget_values import made_of_widgets

if TYPE_CHECKING:
    from ...trainer.data.dataset import TrainingSet

# without one of these nobody knows how long a run is
DECIDE_LENGTH = ("steps", "epochs", "batch_size", "run", "validation")
_LENGTH_PLACES = frozenset({"steps", "epochs", "length"})
_PLACES = {
    "rank": "lora.rank",
    "alpha": "lora.alpha",
    "targets": "lora.targets",
    "learning_rate": "optimizer.learning_rate",
    "token": "pivotal.token",
    "new_tokens": "pivotal.new_tokens",
    "ti_fraction": "pivotal.ti_fraction",
    "token_learning_rate": "pivotal.learning_rate",
}
"""Widget of a trainer node -> the place of its value."""


@dataclass(frozen=True, slots=True)
class SettingsChoice:
    """What a trainer node is set to; `unknown` are widgets and sections that another node fills in a run.

    Several `datasets` are joined.
    """

    preset: str
    widgets: Widgets
    settings: Settings
    datasets: tuple[DatasetChoice, ...]
    unknown: frozenset[str]

    @classmethod
    def of(cls, content: dict[str, Any]) -> "SettingsChoice":
        """The body of a request: preset, widgets, settings by section, dataset(s) or null, unknown names.

        Raises:
            BadRequestError: another form, or values of other types.
            InputError: values that a run would refuse.
        """
        settings, unknown, preset = (content.get(n) for n in ("settings", "unknown", "preset"))
        if not isinstance(preset, str):
            raise BadRequestError("preset: the name of a preset is expected")
        if settings is not None and (not isinstance(settings, dict) or not set(settings) <= set(SECTIONS)):
            raise BadRequestError(f"settings: widgets by section are expected, of {', '.join(SECTIONS)}")
        names = [*SECTIONS, *Widgets.__slots__]
        if unknown is not None and not (isinstance(unknown, list) and all(n in names for n in unknown)):
            raise BadRequestError("unknown: names of widgets and sections are expected")
        plugged = {
            section: made_of_widgets(SECTIONS[section], values, f"{section} settings")
            for section, values in (settings or {}).items()
        }
        sent = content.get("widgets", {})
        named = {"name": "x", **sent} if isinstance(sent, dict) else sent  # the name decides nothing here
        return cls(
            preset=preset,
            widgets=made_of_widgets(Widgets, named, "widgets"),
            settings=Settings(**plugged),
            datasets=_datasets(content.get("dataset")),
            unknown=frozenset(unknown or ()),
        )


def _datasets(content: Any) -> tuple[DatasetChoice, ...]:
    if content is None:
        return ()
    several = content if isinstance(content, list) else [content]
    if not 1 <= len(several) <= MAX_KEPT:
        raise BadRequestError(f"dataset: one, or a list of at most {MAX_KEPT}, is expected")
    return tuple(map(DatasetChoice.of, several))


def settings_look(choice: SettingsChoice, dataset: "TrainingSet | None") -> dict[str, Any]:
    """Rows (setting, value, origin, kind of origin), the arithmetic of steps, what else the preset asks for.

    The arithmetic is "" where there is no dataset, or where what decides the length is not known yet.

    Raises:
        InputError: values that a run would refuse.
    """
    chosen = choice.preset, choice.widgets, choice.settings
    if set(DECIDE_LENGTH) & choice.unknown:
        dataset = None
    if dataset is not None:
        dataset = prepared(choice.preset, dataset)
    values = chosen_values(*chosen, dataset)
    hidden = _hidden_places(choice.unknown)
    return {
        "rows": [
            {
                "setting": value.setting,
                "value": value.value,
                "origin": value.origin.words,
                "kind": value.origin.kind,
            }
            for value in values
            if value.place not in hidden and value.place.split(".")[0] not in choice.unknown
        ],
        **_length(choice, dataset),
        "note": "; ".join(preset_notes(*chosen)),
    }


def _length(choice: SettingsChoice, dataset: "TrainingSet | None") -> dict[str, Any]:
    """The sentence of the run's own report, which counts the pictures trained on, and its numbers."""
    if dataset is None:
        return {"arithmetic": "", "steps": 0, "epochs": 0, "numbers": None}
    from ...trainer.runs.run_report import describe_arithmetic

    config = resolve(choice.preset, choice.widgets, choice.settings, dataset)
    share = config.validation.validation_share
    trained = dataset.split(share)[0] if share else dataset
    an_epoch = trained.batches_per_epoch(config.batch_size) / config.run.gradient_accumulation
    return {
        "arithmetic": describe_arithmetic(config, trained),
        "steps": config.steps,
        "epochs": round(config.steps / an_epoch, 1),
        "numbers": {
            "pictures": len(trained.pictures),
            "samples": trained.num_samples,
            "batch": config.batch_size,
            "accumulation": config.run.gradient_accumulation,
            "an_epoch": an_epoch,
        },
    }


def _hidden_places(unknown: Collection[str]) -> set[str]:
    """Places of the widgets whose values are not known; all of the length for one part of it."""
    places = {_PLACES.get(name, name) for name in unknown}
    return places | (_LENGTH_PLACES if places & _LENGTH_PLACES else set())
