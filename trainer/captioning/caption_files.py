"""Captions on disk, where the folder reader finds exactly them: a text file for each picture, or one table.

Only pictures that get a new caption are touched; every file is the old one or the whole new one.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from ..data.caption_tables import TABLE_NAMES, same_name
from ..data.captions import read_caption
from ..data.folder import CAPTION_SUFFIXES, PICTURE_SUFFIXES, scan_folder
from ..data.picture import Picture
from ..data.training_set import TrainingSet, some
from ..errors import InputError
from ..files.atomic_file import write_atomically
from ..settings.caption_config import SaveCaptions
from .caption_table_file import TableFile

KEPT = "free some space, or set save to 'no'; captions made so far are kept, so the next run goes on there"


class CaptionFiles(Protocol):
    """Where new captions go."""

    def save(self, picture: Picture, captions: Sequence[str]) -> None:
        """The captions of one picture; on the disk now, or when `finish` is called.

        Raises:
            InputError: no room, no permission.
        """

    def finish(self) -> None:
        """Everything saved is on the disk; also called when a run is stopped.

        Raises:
            InputError: no room, no permission.
        """


def open_caption_files(dataset: TrainingSet, pictures: Sequence[Picture], save: SaveCaptions) -> CaptionFiles:
    """Where the new captions of `pictures` go; nothing is written yet.

    Args:
        dataset: read from one folder, unless `save` is "no".
        pictures: those of the set that get a new caption.
        save: "no", "txt" for files beside the pictures, "metadata.jsonl" for one in the dataset's folder.

    Raises:
        InputError: pictures without a file, a folder that cannot be written, or captions that the folder
            reader would not find again.
    """
    if save == "no" or not pictures:
        return _Nowhere()
    _require_files(dataset, pictures)
    root = dataset.roots[0]
    folders = [root] if save == "metadata.jsonl" else sorted({picture.path.parent for picture in pictures})
    locked = [folder.name for folder in folders if not os.access(folder, os.W_OK)]
    if locked:
        raise InputError(
            f"captions cannot be written into folder {some(locked)}, which is read-only: make it writable, "
            "or set save to 'no'"
        )
    try:
        if save == "metadata.jsonl":
            return TableFile(root, pictures, dataset.config.caption_column)
        _require_no_rows(dataset, pictures)
        return _TextFiles(pictures)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            f"the folder '{root.name}' cannot be listed: {reason}: load it again, or set save to 'no'"
        ) from error


class _Nowhere:
    def save(self, picture: Picture, captions: Sequence[str]) -> None:
        pass

    def finish(self) -> None:
        pass


def _require_files(dataset: TrainingSet, pictures: Sequence[Picture]) -> None:
    root = dataset.roots[0] if len(dataset.roots) == 1 else None
    bare = [
        p.name for p in pictures if p.given_pixels is not None or root is None or root not in p.path.parents
    ]
    if bare:
        raise InputError(
            f"{len(bare)} pictures do not lie in a folder of a dataset ({some(bare)}), so that no captions "
            "can be written beside them: set save to 'no'"
        )


def _require_no_rows(dataset: TrainingSet, pictures: Sequence[Picture]) -> None:
    """Refuse text files that nobody would read, because a table speaks for their pictures."""
    scan = scan_folder(dataset.roots[0], dataset.config)
    sources = {found.path: found.caption_source for found in scan.pictures}
    listed = [picture.name for picture in pictures if sources.get(picture.path) in TABLE_NAMES]
    if listed:
        raise InputError(
            f"{len(listed)} pictures have their caption in a metadata file ({some(listed)}), which counts "
            "before text files: set save to 'metadata.jsonl'"
        )


class _TextFiles:
    """One text file for each picture, where the reader looks first."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        by_folder: dict[Path, list[Picture]] = {}
        for picture in pictures:
            by_folder.setdefault(picture.path.parent, []).append(picture)
        self._places: dict[Path, Path] = {}
        nowhere: list[str] = []
        for folder, members in by_folder.items():
            names = _Names(folder, [picture.path.name for picture in members])
            for picture in members:
                name = names.text_file_of(picture.path.name)
                if name is None:
                    nowhere.append(picture.name)
                else:
                    self._places[picture.path] = folder / name
        if nowhere:
            raise InputError(
                f"{len(nowhere)} pictures cannot have a text file of their own, because a link or folder has "
                f"its name, or other pictures share it ({some(nowhere)}): set save to 'metadata.jsonl'"
            )

    def save(self, picture: Picture, captions: Sequence[str]) -> None:
        if len(captions) != 1:
            raise InputError(
                f"{picture.name} has {len(captions)} captions, but a text file holds one: set save to "
                "'metadata.jsonl', or if_exists to 'overwrite'"
            )
        place = self._places[picture.path]
        try:
            if not place.exists() or read_caption(place) != (captions[0], ""):
                content = f"{captions[0]}\n".encode()
                write_atomically(place, lambda path: _write(path, content))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"the caption of {picture.name} cannot be written: {reason}: {KEPT}") from error

    def finish(self) -> None:
        pass


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


class _Names:
    """The caption files of one folder, and which name is free for a picture's own.

    A reader looks for a.jpg.txt, a.txt, a.jpg.caption and a.caption, in this order.
    """

    def __init__(self, folder: Path, chosen: Sequence[str]) -> None:
        self._folder = folder
        self._ordinary: set[str] = set()
        self._files: dict[tuple[str, str], str] = {}
        pictures = set(chosen)
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            place = PurePosixPath(entry.name)
            if place.suffix.lower() in PICTURE_SUFFIXES and not entry.name.startswith("."):
                pictures.add(entry.name)
            if place.suffix.lower() in CAPTION_SUFFIXES:
                self._files.setdefault((same_name(place.stem), place.suffix.lower()), entry.name)
            if entry.is_file(follow_symlinks=False):
                self._ordinary.add(entry.name)
        # casefold: on some file systems A.txt is a.txt
        self._readers = Counter(stem.casefold() for name in pictures for stem in _stems(name))

    def text_file_of(self, picture: str) -> str | None:
        """The file that becomes this picture's caption; None where there is none of its own."""
        whole = same_name(picture)
        short = PurePosixPath(whole).stem
        order = [(stem, suffix) for suffix in CAPTION_SUFFIXES for stem in (whole, short)]
        in_use = next((key for key in order if self._text(key)), None)
        if in_use is not None and self._is_own(in_use):
            return self._files[in_use]
        first = CAPTION_SUFFIXES[0]
        for key in ((short, first), (whole, first)):
            before = in_use is None or order.index(key) < order.index(in_use)
            if before and self._is_own(key):
                ending = picture if key[0] == whole else PurePosixPath(picture).stem
                return self._files.get(key, f"{ending}{first}")
        return None

    def _is_own(self, key: tuple[str, str]) -> bool:
        """Whether no other picture reads it, and no link or folder has its name."""
        name = self._files.get(key)
        return self._readers[key[0].casefold()] == 1 and (name is None or name in self._ordinary)

    def _text(self, key: tuple[str, str]) -> str:
        name = self._files.get(key)
        if name is None or not (self._folder / name).is_file():
            return ""
        try:
            return read_caption(self._folder / name)[0]
        except OSError:
            return ""


def _stems(picture: str) -> tuple[str, ...]:
    """The names, without ending, of the caption files that a reader of this picture looks for."""
    name = same_name(picture)
    return tuple(dict.fromkeys([name, PurePosixPath(name).stem]))
