"""The previews of a run as its folder holds them, found by listing it."""

import os
import re
from pathlib import Path

_NAME = re.compile(r"step-([0-9]{1,9})-([0-9]{1,4})\.png")


def list_pictures(samples: Path, until: int | None = None) -> dict[int, dict[int, Path]]:
    """Step -> place of the prompt -> file, oldest first; nothing that is reached through a link.

    Args:
        samples: the folder `samples` of a run.
        until: the last step that counts; None = all.
    """
    found: dict[int, dict[int, Path]] = {}
    if samples.is_symlink():
        return found
    try:
        entries = sorted(os.scandir(samples), key=lambda entry: entry.name)
    except OSError:
        return found
    for entry in entries:
        match = _NAME.fullmatch(entry.name)
        if match is None or not entry.is_file(follow_symlinks=False):
            continue
        step, index = int(match[1]), int(match[2])
        if until is None or step <= until:
            found.setdefault(step, {})[index] = Path(entry.path)
    return dict(sorted(found.items()))
