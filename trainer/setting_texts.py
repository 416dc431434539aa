"""Settings as a person types them: "section.field=value", typed by the dataclass that holds the field."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from .config import PICTURE_SETTINGS, SECTIONS
from .errors import InputError

TYPEABLE: Mapping[str, type] = {**SECTIONS, **PICTURE_SETTINGS}
"""Section -> its dataclass."""
_ON, _OFF = ("on", "true", "yes", "1"), ("off", "false", "no", "0")


def parse_settings(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Section -> field -> value; of the same field given twice, the last counts.

    Args:
        texts: such as "run.save_every=100", "lora.adapter=lokr" or "objective.edm_training=on".

    Raises:
        InputError: all texts that name no setting or give it no value of its type.
    """
    values: dict[str, dict[str, Any]] = {}
    problems = []
    for text in texts:
        try:
            section, field, value = _parse(text)
        except InputError as problem:
            problems.append(str(problem))
        else:
            values.setdefault(section, {})[field] = value
    if problems:
        raise InputError("\n".join(problems))
    return values


def all_settings() -> list[str]:
    """Every "section.field" there is."""
    return [f"{name}.{field.name}" for name, kind in TYPEABLE.items() for field in dataclasses.fields(kind)]


def _parse(text: str) -> tuple[str, str, Any]:
    place, is_given, value = (part.strip() for part in text.partition("="))
    section, _, field = place.partition(".")
    if not is_given:
        raise InputError(
            f"'{text}' sets nothing: write it as section.field=value, such as run.save_every=100"
        )
    if place not in all_settings():
        raise InputError(f"'{place}' is no setting: {_what_there_is(place)}")
    return section, field, _value(place, get_type_hints(TYPEABLE[section])[field], value)


def _what_there_is(place: str) -> str:
    """The settings that may have been meant: similar ones, and those of the section, or of all."""
    close = difflib.get_close_matches(place, all_settings(), n=3)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    section = f"{place.partition('.')[0]}."
    of_section = [name for name in all_settings() if name.startswith(section)]
    return f"{meant}there are {', '.join(of_section or all_settings())}"


def _value(place: str, kind: Any, text: str) -> Any:
    if kind is bool:
        if text.lower() not in (*_ON, *_OFF):
            raise InputError(f"{place} is '{text}', but must be on or off")
        return text.lower() in _ON
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            number = "whole number" if kind is int else "number"
            raise InputError(f"{place} is '{text}', but must be a {number}") from None
    return text
