"""The table of contents of a safetensors file, read with suspicion: the file may come from anywhere.

Nothing is loaded, and nothing the file says is believed before it is checked against the file's size.
Format: https://github.com/huggingface/safetensors#format.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError

# the format allows 100 MB; SDXL's header has 0.4 MB, and a workflow with a thumbnail fits many times
MAX_HEADER_BYTES = 25_000_000
BITS = {"F4": 4, "BOOL": 8, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
BITS |= {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "U8": 8, "I8": 8}
BITS |= {name: 8 for name in ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor: its type ("F16"), shape, and where its bytes stand, from the file's beginning."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


class _DamagedError(Exception):
    """What is wrong with the header, as the end of a sentence."""


def read_header(path: Path) -> Header:
    """Names, types, shapes and places of all tensors.

    Raises:
        InputError: no such file, a truncated or damaged one, or one that is no safetensors file.
    """
    if not path.is_file():
        raise InputError(f"{path.name}: there is no such file; check the path")
    try:
        return _read(path)
    except _DamagedError as problem:
        raise InputError(f"{path.name} {problem}; download or save it again") from problem
    except OSError as problem:
        raise InputError(f"{path.name} cannot be read: {problem.strerror}") from problem


def _read(path: Path) -> Header:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise _DamagedError(
                f"is no whole safetensors file: {size} bytes long, but its header claims {length}"
            )
        raw = file.read(length)
    try:
        table = json.loads(raw)
    except (ValueError, RecursionError) as problem:
        raise _DamagedError("is no safetensors file: its header is not readable JSON") from problem
    if not isinstance(table, dict):
        raise _DamagedError("is no safetensors file: its header is no table of tensors")
    metadata = table.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _DamagedError("has a damaged header: its metadata are no texts")
    entries = {name: _entry(name, values, 8 + length) for name, values in table.items()}
    _check_places(entries, 8 + length, size)
    return Header(entries, metadata)


def _entry(name: str, values: Any, offset: int) -> Entry:
    damaged = _DamagedError(f"has a damaged header at {name[:80]!r}")
    if not isinstance(values, dict):
        raise damaged
    dtype, shape, places = (values.get(key) for key in ("dtype", "shape", "data_offsets"))
    numbers = [shape, places]
    if not all(isinstance(n, list) and all(type(x) is int and x >= 0 for x in n) for n in numbers):
        raise damaged
    if dtype not in BITS or len(places) != 2:
        raise damaged
    entry = Entry(dtype, tuple(shape), offset + places[0], offset + places[1])
    if (entry.stop - entry.start) * 8 != entry.num_elements * BITS[dtype]:
        raise damaged
    return entry


def _check_places(entries: Mapping[str, Entry], start: int, size: int) -> None:
    """Tensors must follow each other without gap or overlap and end where the file ends."""
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != start:
            raise _DamagedError(
                f"has a damaged header: {name[:80]!r} overlaps another tensor or leaves a gap"
            )
        start = entry.stop
    if start > size:
        raise _DamagedError(f"is truncated: {size} bytes are there of {start}")
    if start < size:
        raise _DamagedError(f"has a damaged header: it accounts for {start} of {size} bytes")
