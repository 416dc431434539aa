"""Every ordinary file below a folder, without leaving it and without opening anything."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

IGNORED_NAMES = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin"})


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder: `prefix` is "" for the root, else its relative POSIX path with a slash behind."""

    path: Path
    prefix: str
    root_name: str
    files: tuple[str, ...]
    folders: frozenset[str]

    def shown(self, file: str) -> str:
        """The file's relative name as messages may print it: valid Unicode."""
        return (self.prefix + file).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def walk(root: Path) -> tuple[list[Folder], list[tuple[str, str]]]:
    """List `root` and the folders below it, sorted; hidden files are passed over in silence.

    Returns:
        The folders, and (name, reason) of everything else that was left out.
    """
    real_root = Path(os.path.realpath(root))
    folders: list[Folder] = []
    left_out: list[tuple[str, str]] = []
    waiting = [(real_root, "")]
    while waiting:
        path, prefix = waiting.pop()
        try:
            with os.scandir(path) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            left_out.append((prefix or real_root.name, f"cannot be listed: {error.strerror or error}"))
            continue
        files, below = [], []
        for entry in found:
            if entry.name.startswith(".") or entry.name.lower() in IGNORED_NAMES:
                continue
            kind = _kind(entry, real_root)
            if kind == "file":
                files.append(entry.name)
            elif kind == "folder":
                below.append(entry.name)
            else:
                left_out.append((prefix + entry.name, kind))
        folders.append(Folder(path, prefix, real_root.name, tuple(files), frozenset(below)))
        waiting.extend((path / name, f"{prefix}{name}/") for name in reversed(below))
    return folders, left_out


def _kind(entry: os.DirEntry[str], root: Path) -> str:
    """What an entry is: "file", "folder", or the reason why it is neither."""
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        return f"cannot be reached: {error.strerror or error}"
    if entry.is_symlink():
        if stat.S_ISDIR(mode):
            return "is a link to a folder and was not followed"
        if not Path(os.path.realpath(entry.path)).is_relative_to(root):
            return "is a link out of the dataset folder and was not followed"
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "is a pipe, socket or device, not a picture"
