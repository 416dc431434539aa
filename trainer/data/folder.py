"""What a folder holds: pictures, their captions and repeats, in every layout people have, mixed.

Captions, the first that is not empty: a row of metadata.jsonl or metadata.csv, a .txt or .caption file
beside the picture, the words of an `N_words` folder (kohya), the prompt of the settings. Nothing is
decoded here, nothing is ever written.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from ..config import DatasetConfig
from ..errors import InputError
from .caption_tables import TABLE_NAMES, read_caption_table, same_name
from .captions import clean_caption, read_caption
from .folder_walk import Folder, walk
from .mask_files import pair_masks
from .pictures import looks_like_picture

CAPTION_SUFFIXES = (".txt", ".caption")
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jp2", ".tga", ".qoi"),
)
MAX_REPEATS = 10_000
ODD_REPEATS = 1_000
"""From here on, the number of an `N_words` folder is more likely a year than a count of repeats."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something the user should know about one file, or about the dataset when `name` is empty."""

    kind: Literal["skipped", "warning", "info"]
    name: str
    message: str

    def __str__(self) -> str:
        return f"{self.name} {self.message}".strip()


@dataclass(frozen=True, slots=True)
class FoundPicture:
    """A file that claims to be a picture; `captions` is empty when it has none anywhere.

    `mask_path` is the -masklabel file beside it.
    """

    path: Path
    name: str
    captions: tuple[str, ...]
    caption_source: str
    repeats: int
    mask_path: Path | None = None


@dataclass
class Scan:
    """All that `scan_folder` found; `problems` are sentences that stop the run."""

    pictures: list[FoundPicture] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    num_caption_files: int = 0


class _Tables:
    """The captions of all metadata tables, by the picture's name in NFC; deeper tables win."""

    def __init__(self, folders: list[Folder], config: DatasetConfig, scan: Scan) -> None:
        self.captions: dict[str, tuple[tuple[str, ...], str]] = {}
        names = {same_name(folder.prefix + file) for folder in folders for file in folder.files}
        for folder in folders:
            prefix = same_name(folder.prefix)
            for file in sorted(folder.files, key=str.lower):
                if file.lower() not in TABLE_NAMES:
                    continue
                table = read_caption_table(
                    folder.path / file,
                    folder.shown(file),
                    config.caption_column,
                    lambda name, prefix=prefix: prefix + name in names,
                )
                scan.problems.extend(table.problems)
                scan.notes.extend(Note("warning", "", warning) for warning in table.warnings)
                for name, captions in table.captions.items():
                    self.captions[prefix + name] = (captions, file.lower())


def scan_folder(root: Path, config: DatasetConfig) -> Scan:
    """Find every picture below `root` with its captions, repeats and mask file, sorted by name.

    Files count as pictures by a picture's ending or by their first bytes. Hidden files and the droppings
    of operating systems are passed over; links out of the folder, links to folders, pipes and devices
    are not followed and noted.

    Raises:
        InputError: `root` is no folder, or cannot be listed.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"the dataset folder '{root}' {what}: choose a folder with pictures in it")
    scan = Scan()
    folders, left_out = walk(root)
    scan.notes.extend(Note("skipped", name, message) for name, message in left_out)
    tables = _Tables(folders, config, scan)
    others: Counter[str] = Counter()
    for folder in folders:
        _scan_one(folder, config, tables, scan, others)
    scan.pictures.sort(key=lambda picture: picture.name)
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        scan.notes.append(Note("info", "", f"files that are no pictures, left alone: {kinds}"))
    masked = sum(picture.mask_path is not None for picture in scan.pictures)
    if masked:
        of_all = f"{masked} of {len(scan.pictures)} pictures"
        text = f"{of_all} have a -masklabel mask: Dataset Masks uses it with source masklabel"
        scan.notes.append(Note("info", "", text))
    return scan


def _scan_one(
    folder: Folder, config: DatasetConfig, tables: _Tables, scan: Scan, others: Counter[str]
) -> None:
    """Add the pictures that lie directly in `folder`."""
    sidecars = _Sidecars(folder, scan)
    pictures = []
    for file in folder.files:
        suffix = PurePosixPath(file).suffix.lower()
        if suffix in CAPTION_SUFFIXES or file.lower() in TABLE_NAMES:
            continue
        if suffix in PICTURE_SUFFIXES or _starts_like_picture(folder.path / file):
            pictures.append(file)
        else:
            others[suffix or "without ending"] += 1
    paired = pair_masks(pictures)
    scan.notes.extend(Note("skipped", folder.shown(file), why) for file, why in paired.unused)
    repeats, words = _folder_name_says(folder, scan) if paired.pictures else (1, "")
    fallbacks = ((words, "folder name"), (clean_caption(config.prompt)[0], "prompt"))
    for file in paired.pictures:
        beside = sidecars.caption_of(file)
        captions, source = tables.captions.get(same_name(folder.prefix + file), ((), ""))
        if captions and beside[0] and beside[0] not in captions:
            scan.notes.append(
                Note("warning", folder.shown(file), f"has a caption in {source} and another in a {beside[1]}")
            )
        if not captions:
            captions, source = next(
                (((text,), origin) for text, origin in (beside, *fallbacks) if text), ((), "none")
            )
        mask = folder.path / paired.masks[file] if file in paired.masks else None
        scan.pictures.append(
            FoundPicture(folder.path / file, folder.shown(file), captions, source, repeats, mask)
        )
    sidecars.note_unused()


class _Sidecars:
    """The caption files of one folder, found by the picture's name with or without its ending."""

    def __init__(self, folder: Folder, scan: Scan) -> None:
        self._folder = folder
        self._scan = scan
        self._files: dict[tuple[str, str], str] = {}
        for file in folder.files:
            path = PurePosixPath(file)
            if path.suffix.lower() in CAPTION_SUFFIXES:
                self._files.setdefault((same_name(path.stem), path.suffix.lower()), file)
        self._unused = dict.fromkeys(self._files.values())
        scan.num_caption_files += len(self._files)

    def caption_of(self, picture: str) -> tuple[str, str]:
        """The caption beside `picture` and what it stood in; empty when there is none."""
        found = [("", "")]
        for key in self._candidates(picture):
            if key in self._files:
                text = self._read(self._files[key])
                found.extend([(text, f"{key[1]} file")] if text else [])
            elif key[0] + key[1] in self._folder.folders:
                self._note(key[0] + key[1], "is a folder, not a caption file")
        if len({text for text, _ in found[1:]}) > 1:
            self._note(picture, f"has two captions: the one in the {found[1][1]} is used")
        return found[min(1, len(found) - 1)]

    def note_unused(self) -> None:
        for file in self._unused:
            self._note(file, "has no picture of its name beside it")

    @staticmethod
    def _candidates(picture: str) -> Iterator[tuple[str, str]]:
        full = same_name(picture)
        for suffix in CAPTION_SUFFIXES:
            yield from dict.fromkeys([(full, suffix), (PurePosixPath(full).stem, suffix)])

    def _read(self, file: str) -> str:
        first_time = file in self._unused
        self._unused.pop(file, None)
        try:
            text, warning = read_caption(self._folder.path / file)
        except OSError as error:
            text, warning = "", f"cannot be read: {error.strerror or error}"
        if not text and not warning:
            warning = "is empty, so its picture counts as one without a caption"
        if warning and first_time:  # a.jpg and a.png share a.txt
            self._note(file, warning)
        return text

    def _note(self, file: str, message: str) -> None:
        self._scan.notes.append(Note("warning", self._folder.shown(file), message))


def _starts_like_picture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return looks_like_picture(file.read(32))
    except OSError:
        return False


def _folder_name_says(folder: Folder, scan: Scan) -> tuple[int, str]:
    """Repeats and words of the nearest `N_words` folder around; (1, "") when there is none."""
    for name in (*reversed(PurePosixPath(folder.prefix).parts), folder.root_name):
        match = re.fullmatch(r"(-?\d+)_(.*)", name, re.DOTALL)
        if match is None:
            continue
        repeats, words = int(match[1]), clean_caption(match[2])[0]
        if not 1 <= repeats <= MAX_REPEATS:
            problem = (
                f"the name of folder '{name}' asks for {repeats} repeats, but 1 to {MAX_REPEATS} make "
                f"sense: rename it to '1_{words}' or, if the number is no count, to '{words}'"
            )
            if problem not in scan.problems:
                scan.problems.append(problem)
            return 1, words
        if repeats >= ODD_REPEATS:
            note = Note(
                "warning", f"folder '{name}'", f"means {repeats} repeats: rename it if that is a date"
            )
            scan.notes.extend([] if note in scan.notes else [note])
        return repeats, words
    return 1, ""
