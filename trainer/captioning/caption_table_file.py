"""New captions in the metadata.jsonl of a dataset's folder, beside all the rows and columns that it has."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.caption_tables import MAX_TABLE_BYTES, TABLE_NAMES, read_caption_table, row_key, same_name
from ..data.captions import read_text
from ..data.picture import Picture
from ..data.training_set import some
from ..errors import InputError
from ..files.atomic_file import write_atomically

NAME = TABLE_NAMES[0]


class TableFile:
    """Collects captions and writes them at once; what the table says of other pictures stays as it is."""

    def __init__(self, root: Path, pictures: Sequence[Picture], column: str) -> None:
        self._root = root
        self._column = column
        self._path = _table_in(root)
        self._new: dict[str, tuple[str, ...]] = {}
        _require_plain_names(root, pictures)
        _require_no_deeper_rows(root, pictures, column)

    def save(self, picture: Picture, captions: Sequence[str]) -> None:
        self._new[_name_of(picture, self._root)] = tuple(captions)

    def finish(self) -> None:
        if not self._new:
            return
        try:
            before = self._read()
            after = "".join(f"{line}\n" for line in self._lines(before))
            if after != before:
                write_atomically(self._path, lambda place: self._write(place, after))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(
                f"{self._path.name} cannot be written: {reason}: free some space, or set save to 'no'; the "
                "captions are kept, so the next run need not make them again"
            ) from error

    def _read(self) -> str:
        if not self._path.exists():
            return ""
        if self._path.stat().st_size > MAX_TABLE_BYTES:
            raise InputError(f"{self._path.name} is over 256 MiB: make it smaller, or set save to 'no'")
        return read_text(self._path, MAX_TABLE_BYTES)[0]

    def _lines(self, before: str) -> list[str]:
        """The old lines with the new captions in them, and a new line for each picture without one."""
        lines, waiting = [], {same_name(name): captions for name, captions in self._new.items()}
        done: set[str] = set()
        for line in before.split("\n"):
            row = _row(line)
            name = row.get("file_name")
            key = row_key(name) if isinstance(name, str) else ""
            if key in waiting or key in done:
                # a second row of a picture would add its captions to those of the first
                row[self._column] = _cell(waiting.pop(key, ()))
                done.add(key)
                line = _json(row)
            if line.strip():
                lines.append(line.rstrip("\r"))
        new = [(name, captions) for name, captions in self._new.items() if same_name(name) in waiting]
        return lines + [_json({"file_name": name, self._column: _cell(captions)}) for name, captions in new]

    def _write(self, place: Path, content: str) -> None:
        """Write, and read back what the folder reader will make of it."""
        place.write_bytes(content.encode("utf-8"))
        table = read_caption_table(place, self._path.name, self._column, lambda name: True)
        wrong = [n for n, captions in self._new.items() if table.captions.get(same_name(n)) != captions]
        if table.problems or wrong:
            what = table.problems[0] if table.problems else f"{some(wrong)} would read back as another text"
            raise InputError(f"captions cannot be added to {self._path.name}: {what}: mend it first")


def _table_in(root: Path) -> Path:
    """The table that the reader takes last, in any case of letters, or a new one."""
    names = [place.name for place in root.iterdir() if place.name.lower() == NAME and place.is_file()]
    path = root / (sorted(names)[-1] if names else NAME)
    if path.is_symlink() or path.is_dir():
        raise InputError(f"{path.name} is a link or a folder: put a file in its place, or set save to 'no'")
    return path


def _require_plain_names(root: Path, pictures: Sequence[Picture]) -> None:
    """Refuse names that mean another file in a table, such as those with a backslash or a drive letter."""
    odd = []
    for picture in pictures:
        name = _name_of(picture, root)
        if row_key(name) != same_name(name) or name[1:2] == ":":
            odd.append(picture.name)
    if odd:
        raise InputError(
            f"{len(odd)} pictures have names that a metadata file cannot hold ({some(odd)}): rename them, or "
            "set save to 'txt'"
        )


def _require_no_deeper_rows(root: Path, pictures: Sequence[Picture], column: str) -> None:
    """Refuse pictures of which a table nearer to them speaks: it counts before that of the root."""
    for folder in sorted({p for picture in pictures for p in picture.path.parents if root in p.parents}):
        for place in sorted(folder.iterdir()):
            if place.name.lower() not in TABLE_NAMES or not place.is_file():
                continue
            table = read_caption_table(place, place.name, column, lambda name: True)
            listed = [
                picture.name
                for picture in pictures
                if folder in picture.path.parents
                and table.captions.get(same_name(picture.path.relative_to(folder).as_posix()))
            ]
            if listed:
                raise InputError(
                    f"{len(listed)} pictures have their caption in {place.relative_to(root).as_posix()} "
                    f"({some(listed)}), which counts before one in the dataset's folder: move its rows "
                    "there, or set save to 'no'"
                )


def _name_of(picture: Picture, root: Path) -> str:
    return picture.path.relative_to(root).as_posix()


def _row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _cell(captions: Sequence[str]) -> str | list[str] | None:
    if not captions:
        return None
    return captions[0] if len(captions) == 1 else list(captions)


def _json(row: dict[str, Any]) -> str:
    """One line; a name that is no valid Unicode is written in escapes."""
    text = json.dumps(row, ensure_ascii=False)
    return text if text.isprintable() and "\ufeff" not in text else json.dumps(row)
