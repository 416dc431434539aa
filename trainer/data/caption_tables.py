"""metadata.jsonl and metadata.csv: rows of a file name and its caption, as Hugging Face's imagefolder.

Source: https://huggingface.co/docs/datasets/image_dataset (column `file_name`; `text` by default here).
"""

import csv
import io
import json
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .captions import clean_caption, read_text

TABLE_NAMES = ("metadata.jsonl", "metadata.csv")
MAX_TABLE_BYTES = 2**28


@dataclass
class CaptionTable:
    """What one table says about the pictures below its folder.

    `captions` goes from a picture's name, relative to the table and in NFC, to its captions, which may
    be none. `problems` stop the run, `warnings` do not; both name the table and the row.
    """

    captions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def same_name(name: str) -> str:
    """A key that is equal for two spellings of one file name (composed or decomposed accents)."""
    return unicodedata.normalize("NFC", name)


def read_caption_table(path: Path, shown: str, column: str, exists: Callable[[str], bool]) -> CaptionTable:
    """Read a table; every bad row becomes a problem, and reading goes on.

    Args:
        path: metadata.jsonl or metadata.csv.
        shown: how messages name it.
        column: the caption column; a list of captions means that one is drawn at each step.
        exists: whether the folder has a file of this name, relative to the table and in NFC.
    """
    table = CaptionTable()
    try:
        text, warning = read_text(path, MAX_TABLE_BYTES)
    except OSError as error:
        table.problems.append(f"{shown} cannot be read: {error.strerror or error}")
        return table
    if warning:
        table.warnings.append(f"{shown} {warning}")
    rows = _csv_rows if path.suffix.lower() == ".csv" else _jsonl_rows
    seen_columns: set[str] = set()
    for number, row in rows(text.replace("\0", "")):
        where = f"{shown} row {number}"
        if isinstance(row, str):
            table.problems.append(f"{where}: {row}")
            continue
        seen_columns |= {str(key) for key in row}
        problem = _name_problem(row.get("file_name"), exists)
        if problem:
            table.problems.append(f"{where}: {problem}")
        else:
            _add_row(table, where, row, column)
    if seen_columns and column not in seen_columns:
        found = ", ".join(sorted(seen_columns))
        table.problems.append(
            f"{shown} has no column '{column}', only {found}: name the caption column in caption_column"
        )
    return table


def _add_row(table: CaptionTable, where: str, row: dict[str, Any], column: str) -> None:
    captions = _captions_of(row.get(column))
    if captions is None:
        table.problems.append(
            f"{where}: '{column}' is {row[column]!r:.60}, but must be a text or a list of texts"
        )
        return
    key = row_key(row["file_name"])
    cleaned = [clean_caption(caption) for caption in captions]
    table.warnings.extend(f"{where}: {warning}" for _, warning in cleaned if warning)
    if key in table.captions:
        table.warnings.append(f"{where}: {key} has an earlier row, whose captions are kept as well")
    kept = (*table.captions.get(key, ()), *(caption for caption, _ in cleaned if caption))
    table.captions[key] = tuple(dict.fromkeys(kept))


def row_key(name: str) -> str:
    """The key of a row: its file_name with slashes, no blanks around it, composed accents."""
    return same_name(posixpath.normpath(name.strip().replace("\\", "/")))


def _name_problem(name: object, exists: Callable[[str], bool]) -> str:
    if not isinstance(name, str) or not name.strip():
        return "it has no file_name"
    path = name.strip().replace("\\", "/")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return f"file_name {name!r} is an absolute path, but must be relative to the table"
    if ".." in path.split("/"):
        return f"file_name {name!r} leads out of the folder with '..'"
    return "" if exists(row_key(name)) else f"there is no file {name!r}"


def _captions_of(value: object) -> list[str] | None:
    """The captions in a cell; None when it holds something else."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    return None


def _jsonl_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    # Not splitlines: JSON may hold U+2028 and the like inside a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            yield number, f"this is no JSON object: {getattr(error, 'msg', 'nested too deeply')}"
            continue
        yield number, row if isinstance(row, dict) else f"this is no JSON object: {line.strip():.60}"


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    header = text.lstrip().split("\n", 1)[0]
    # Spreadsheets of several countries write semicolons.
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    columns: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = [cell.strip() for cell in cells]
            elif len(cells) != len(columns):
                yield reader.line_num, f"it has {len(cells)} cells, but the header has {len(columns)}"
            else:
                row = dict(zip(columns, cells, strict=True))
                yield reader.line_num, {name: _list_in_cell(cell) for name, cell in row.items()}
    except csv.Error as error:
        yield reader.line_num, f"this is no CSV: {error}"


def _list_in_cell(cell: str) -> str | list[str]:
    """A JSON list of texts, when a CSV cell holds one: the way to give several captions."""
    if not cell.lstrip().startswith("["):
        return cell
    try:
        value = json.loads(cell)
    except json.JSONDecodeError:
        return cell
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else cell
