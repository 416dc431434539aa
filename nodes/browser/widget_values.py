"""Values of widgets as a browser sends them, checked before a dataclass of settings is made of them."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeVar, get_origin, get_type_hints

from .json_body import BadRequestError

LARGEST_NUMBER = 2**64
"""No widget goes further; arithmetic with what is far larger may not end, or not in a float."""

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_Kind = TypeVar("_Kind")


def made_of_widgets(kind: type[_Kind], values: Any, title: str, names: Collection[str] = ()) -> _Kind:
    """The dataclass with these fields; those that are not sent have their defaults.

    Args:
        kind: a dataclass whose fields are bool, int, float, text or a choice of texts.
        values: names and values as JSON gave them.
        title: what the values are, for the sentence of an error.
        names: the fields that may be sent; empty = all.

    Raises:
        BadRequestError: no object, an unknown name, or a value of another type.
        InputError: a value that `kind` refuses.
    """
    if not isinstance(values, Mapping):
        raise BadRequestError(f"{title}: names and values of widgets are expected")
    hints = get_type_hints(kind)
    known = set(names) or {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if any(name not in known for name in values):
        raise BadRequestError(
            f"{title}: there is a name that no widget has; there are {', '.join(sorted(known))}"
        )
    checked = {name: _value(hints[name], value, f"{title}: {name}") for name, value in values.items()}
    return kind(**checked)


def _value(hint: Any, value: Any, name: str) -> Any:
    wanted = str if get_origin(hint) is Literal else hint
    if wanted is float and type(value) is int:
        value = float(value) if abs(value) <= LARGEST_NUMBER else math.inf
    if type(value) is not wanted:
        raise BadRequestError(f"{name} must be {_WORDS[wanted]}")
    if wanted in (int, float) and not abs(value) <= LARGEST_NUMBER:
        raise BadRequestError(f"{name} is too large")
    return value
