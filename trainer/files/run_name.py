"""Which names a run may have: one that is an ordinary file name on every system, inside its folder."""

import os
import re
import unicodedata
from pathlib import Path

from ..errors import InputError

MAX_CHARACTERS = 100
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
_FORBIDDEN = '/\\:*?"<>|'


def check_run_name(name: str) -> str:
    """The name as it is used for files: NFC, without surrounding spaces and `.safetensors`.

    Raises:
        InputError: the name is empty, too long, or would not be a plain file name on Linux, macOS or
            Windows.
    """
    cleaned = unicodedata.normalize("NFC", name).strip(" ").removesuffix(".safetensors").strip(" ")
    problem = _problem(cleaned)
    if problem:
        shown = ascii(name) if len(name) <= 60 else ascii(name[:60]) + "..."
        raise InputError(f"name {shown} {problem}: choose a plain file name such as 'my_cat'")
    return cleaned


def _problem(name: str) -> str:
    if not name:
        return "is empty"
    if len(name) > MAX_CHARACTERS or len(name.encode("utf-8", "replace")) > 2 * MAX_CHARACTERS:
        return f"has {len(name)} characters, but at most {MAX_CHARACTERS} fit into file names everywhere"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        return "holds a line break or another control character"
    forbidden = [c for c in _FORBIDDEN if c in name]
    if forbidden:
        return f"holds {' '.join(forbidden)}, which names a folder or is forbidden in file names"
    if name.startswith(".") or name.endswith("."):
        return "begins or ends with a dot"
    if name.partition(".")[0].strip().upper() in _RESERVED:
        return "is a device on Windows"
    if re.search(r"-step\d+$", name):
        return "ends like the checkpoint of a run"
    return ""


def file_within(folder: Path, file_name: str) -> Path:
    """`folder / file_name`, which must not lead out of the folder, through links neither.

    Raises:
        InputError: it leads elsewhere.
    """
    path = folder / file_name
    real_folder = os.path.realpath(folder)
    if os.path.dirname(os.path.realpath(path)) != real_folder:
        raise InputError(f"'{file_name}' leads out of the folder '{folder.name}': choose another name")
    return path
