"""Safetensors files: a reader that says what is wrong with one, a writer whose bytes are always the same.

The safetensors library writes metadata in another order each time, and reports a damaged file in its own
terms. Format: 8 bytes n (little endian), n bytes of JSON, then the tensors' bytes without gaps
(https://github.com/huggingface/safetensors#format).
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import InputError

MAX_HEADER_BYTES = 100_000_000
"""The library's own limit."""

_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64"), 64),
}


def serialize(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, bytes]:
    """Header, with its length in front, and data of a file; the same input gives the same bytes.

    The data lies as the safetensors library lays it.

    Raises:
        InputError: the metadata is longer than any reader accepts.
    """
    plain = safetensors.torch.save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
    end = 8 + int.from_bytes(plain[:8], "little")
    entries = json.loads(plain[8:end])
    return pack_header(entries, metadata), plain[end:]


def pack_header(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """The header of these tensor entries, filled up with blanks to a multiple of 8 bytes."""
    whole = {"__metadata__": dict(sorted(metadata.items())), **entries} if metadata else dict(entries)
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise InputError(
            f"the metadata takes {len(text):,} bytes, but a LoRA file can hold {MAX_HEADER_BYTES:,}: "
            "take large texts out of the workflow"
        )
    return len(text).to_bytes(8, "little") + text


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU, in memory of their own, and metadata.

    Raises:
        InputError: there is no such file, it is cut off, damaged, or another format; says which.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror or error}") from error
    header = _checked_header(path.name, content)
    metadata = header.pop("__metadata__", {})
    try:
        return safetensors.torch.load(content), metadata
    except SafetensorError as error:
        raise InputError(f"{path.name} is damaged: {error}") from error


def _checked_header(name: str, content: bytes) -> dict[str, Any]:
    starts_as_pickle = content[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    # a header of 640 bytes starts like a pickle, too; but what follows its length is always JSON
    if starts_as_pickle and content[8:9] != b"{":
        raise InputError(
            f"{name} is a pickle (.pt, .ckpt, .bin), which can run any program when opened: "
            "convert it to safetensors"
        )
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        if len(content) >= 8 and length > MAX_HEADER_BYTES:
            raise InputError(f"{name} is no safetensors file: it announces a header of {length:,} bytes")
        raise InputError(
            f"{name} is cut off: only {len(content):,} bytes are there; copy or download it again"
        )
    if length > MAX_HEADER_BYTES:
        raise InputError(f"{name} has a header of {length:,} bytes; at most {MAX_HEADER_BYTES:,} are allowed")
    header = _parse(name, content[8 : 8 + length])
    _check_places(name, header, len(content) - 8 - length)
    return header


def _parse(name: str, text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is no safetensors file: its header cannot be read") from error
    if not isinstance(header, dict):
        raise InputError(f"{name} is no safetensors file: its header is a {type(header).__name__}")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise InputError(f"{name} is damaged: its metadata must be texts")
    return header


def _check_places(name: str, header: Mapping[str, Any], num_bytes: int) -> None:
    """Refuse tensors that overlap, leave gaps, or reach beyond the file."""
    places = sorted(
        (*_place(name, key, entry), key) for key, entry in header.items() if key != "__metadata__"
    )
    end = 0
    for start, stop, key in places:
        if start != end:
            raise InputError(f"{name} is damaged: {key} starts at byte {start:,}, but must at {end:,}")
        end = stop
    if end > num_bytes:
        raise InputError(
            f"{name} is cut off: {num_bytes:,} of {end:,} bytes of weights are there; "
            "copy or download it again"
        )
    if end < num_bytes:
        raise InputError(f"{name} is damaged: {num_bytes - end:,} bytes after the last tensor")


def _place(name: str, key: str, entry: Any) -> tuple[int, int]:
    """First and last + 1 byte of a tensor."""
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(x) is int and x >= 0 for x in (*shape, start, stop))
        sound = whole and (stop - start) * 8 == math.prod(shape) * _BITS[dtype]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{name} is damaged: the entry of {key} is {entry!r:.80}") from error
    if not sound:
        raise InputError(f"{name} is damaged: {key} is {dtype} {shape}, but takes bytes {start} to {stop}")
    return start, stop
