"""What captioners said, kept on disk: a run that was stopped goes on, and the same is never asked twice."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data.picture import Picture
from ..errors import InputError
from ..settings.caption_config import CaptionConfig
from ..settings.captioner_config import GenerationConfig

FOLDER = ".captions"
"""Where journals lie, below the folder of all runs."""


class CaptionJournal:
    """The raw captions of one captioner with one question and one generation config.

    A file of JSON lines, one for each picture, named after what was asked of which weights, so that prefix,
    suffix and all else that comes after the model may change. Each line is on the disk before the next
    picture begins; one that was cut off by a crash is passed over.
    """

    def __init__(
        self, folder: Path, identity: str, config: CaptionConfig, generation: GenerationConfig
    ) -> None:
        asked = {"style": config.style, "question": config.asked, "generation": asdict(generation)}
        name = hashlib.sha256(json.dumps([identity, asked], sort_keys=True).encode()).hexdigest()
        self.path = folder / f"{name[:32]}.jsonl"
        self._captions = dict(_read(self.path))

    def get(self, picture: Picture) -> str | None:
        """What the captioner said about these bytes before this background; None where it was not asked."""
        return self._captions.get(_key(picture))

    def add(self, picture: Picture, text: str) -> None:
        """Write down what the captioner said.

        Raises:
            InputError: the file cannot be written, or the disk is full.
        """
        digest, background = _key(picture)
        row = json.dumps({"digest": digest, "background": background, "caption": text}, ensure_ascii=True)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                file.write(_line_end_missing(file) + row.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(
                f"the caption of {picture.name} cannot be kept in the output folder ({FOLDER}): {reason}: "
                "free some space or make it writable; captions made before are kept"
            ) from error
        self._captions[digest, background] = text


def _key(picture: Picture) -> tuple[str, str]:
    return picture.digest, picture.background


def _line_end_missing(file: Any) -> bytes:
    """What closes a line that a crash cut off."""
    if file.seek(0, os.SEEK_END) == 0:
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"


def _read(path: Path) -> "list[tuple[tuple[str, str], str]]":
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            row = json.loads(line)
            key, caption = (row["digest"], row["background"]), row["caption"]
        except (ValueError, TypeError, KeyError):
            continue
        if isinstance(caption, str):
            found.append((key, caption))
    return found
