"""The previews of a run as they lie on the disk: what they are called, and what they were drawn with."""

import json
import os
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..config import PreviewConfig
from ..files.atomic_file import write_atomically

RECIPE_FILE = "drawn_with.json"
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for a PNG that is gone or damaged."""
_NAME = re.compile(r"step-([0-9]{1,9})-([0-9]{1,4})\.png")


@dataclass(frozen=True, slots=True)
class DrawnWith:
    """What the pictures of a run were drawn with; `size` is (width, height), pixels."""

    prompts: Sequence[str]
    size: tuple[int, int]


def drawing_path(samples: Path, step: int, index: int) -> Path:
    """Where the picture of a prompt lies, `step-000500-00.png`; `index` counts the prompts from 0."""
    return samples / f"step-{step:06d}-{index:02d}.png"


def list_drawings(samples: Path, up_to: int | None = None) -> dict[int, dict[int, Path]]:
    """Step -> place of the prompt -> file, both in order; nothing that is reached through a link.

    Args:
        samples: the folder `samples` of a run; may be missing.
        up_to: the last step that counts; None = all.
    """
    found: list[tuple[int, int, Path]] = []
    try:
        entries = [] if samples.is_symlink() else list(os.scandir(samples))
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match is not None and entry.is_file(follow_symlinks=False):
                found.append((int(match[1]), int(match[2]), Path(entry.path)))
    except OSError:
        return {}
    drawings: dict[int, dict[int, Path]] = {}
    for step, index, path in sorted(found):
        if up_to is None or step <= up_to:
            drawings.setdefault(step, {})[index] = path
    return drawings


def newest_pictures(samples: Path) -> list[Path]:
    """The pictures of the last step that was drawn, in the order of their prompts."""
    drawings = list_drawings(samples)
    return list(drawings[max(drawings)].values()) if drawings else []


def recipe_of(prompts: Sequence[str], size: tuple[int, int], config: PreviewConfig) -> str:
    """All that shapes the pictures but the LoRA; `size` is (width, height), pixels."""
    return json.dumps([list(prompts), list(size), {**asdict(config), "preview_every": 0}])


def write_recipe(run_folder: Path, recipe: str) -> None:
    """Write down what the pictures are drawn with.

    Raises:
        OSError: it could not be written.
    """
    write_atomically(run_folder / RECIPE_FILE, lambda place: place.write_text(recipe, "utf-8"))


def read_recipe(run_folder: Path) -> str:
    """What `write_recipe` wrote; "" where that cannot be read or is a link."""
    path = run_folder / RECIPE_FILE
    try:
        return "" if path.is_symlink() else path.read_text("utf-8")
    except (OSError, ValueError):
        return ""


def drawn_with(run_folder: Path) -> DrawnWith | None:
    """What the pictures of a run were drawn with; None where nothing sound tells."""
    try:
        prompts, size, *_ = json.loads(read_recipe(run_folder))
    except (ValueError, TypeError, RecursionError):
        return None
    is_size = isinstance(size, list) and len(size) == 2 and all(map(_is_length, size))
    if not is_size or not isinstance(prompts, list) or not all(isinstance(one, str) for one in prompts):
        return None
    return DrawnWith(prompts, (size[0], size[1]))


def _is_length(value: Any) -> bool:
    return type(value) is int and value > 0
