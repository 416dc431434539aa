"""Latents and text that earlier runs encoded, on disk: a small file for each, named by what it depends on.

A file is believed only where it is whole, says that it belongs under its name, and holds finite numbers; any
other counts as absent and is written anew. The folder may be deleted at any time: that costs time alone.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..data.picture import Picture, Variant
from ..errors import InputError
from ..files.atomic_file import write_atomically
from ..files.safetensors_file import read_safetensors, serialize

Kind = Literal["latents", "captions"]
TENSORS: Mapping[Kind, frozenset[str]] = {
    "latents": frozenset({"latents"}),
    "captions": frozenset({"prompt_embeds", "pooled"}),
}
"""What a file of each kind holds."""

FORMAT = 1
"""Counts up whenever the same key no longer stands for the same pixels, words or numbers."""
MAX_BYTES = 20 * 2**30
"""What all files together may take: 80,000 latents at 1024 px."""
FREE_BYTES = 4 * 2**30
"""What stays free on the disk, for the LoRA and its checkpoints."""
STALE_SECONDS = 3600
"""A file that is half written for so long has no writer any more."""

_SHARD = re.compile(r"[0-9a-f]{2}")
_FILE = re.compile(r"[0-9a-f]{64}\.safetensors")
_HALF_WRITTEN = re.compile(r"\.[0-9a-f]{40}\.[0-9a-f]{12}\.part")


def latent_key(vae: str, picture: Picture, variant: Variant) -> str:
    """Names the latents of a picture seen in one way; "" where the VAE cannot be told from others.

    Args:
        vae: fingerprint of the VAE and how it computes.
        picture: its bytes and its background count, its name does not.
        variant: all of it counts but the picture's place in the set.
    """
    seen = dataclasses.asdict(variant)
    del seen["picture"]
    return _key(vae, "latents", picture.digest, picture.background, seen)


def caption_key(text_encoders: str, caption: str) -> str:
    """Names the condition of a caption; "" where the text encoders cannot be told from others.

    Args:
        text_encoders: fingerprint of both and how they read and compute.
        caption: as it is given to them.
    """
    return _key(text_encoders, "captions", caption)


def _key(fingerprint: str, *parts: object) -> str:
    if not fingerprint:
        return ""
    return hashlib.sha256(json.dumps([FORMAT, fingerprint, *parts], sort_keys=True).encode()).hexdigest()


def _hear_nothing(_text: str) -> None:
    pass


class EncodedCache:
    """What was encoded before: tensors by their keys, exactly as they were given.

    Several runs may use one folder at once. Where it cannot be written, the run goes on without.

    Args:
        folder: made when it is first written into; None = nothing is kept and nothing is found.
        on_note: hears, once, why nothing can be written.
        max_bytes: what `trim` leaves.
    """

    def __init__(
        self,
        folder: Path | None = None,
        on_note: Callable[[str], None] = _hear_nothing,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.folder = folder
        self._on_note = on_note
        self._max_bytes = max_bytes
        self._found: dict[Kind, set[str]] = {kind: set() for kind in TENSORS}
        self._encoded: dict[Kind, set[str]] = {kind: set() for kind in TENSORS}
        self._problem = ""
        self._has_written = False

    @property
    def notes(self) -> list[str]:
        """Sentences for the report: how much was found, if anything, and why nothing could be written."""
        asked = {kind: len(self._found[kind] | self._encoded[kind]) for kind in TENSORS}
        shares = [f"{len(self._found[kind])} of {number} {kind}" for kind, number in asked.items() if number]
        found = f"encoded by earlier runs and read from the cache: {', '.join(shares)}"
        return [*([found] if any(self._found.values()) else []), *filter(None, [self._problem])]

    def find(self, kind: Kind, key: str) -> dict[str, Tensor] | None:
        """What was kept under a key, on the CPU, as of now the last to be trimmed; None = nothing sound."""
        if self.folder is None or not key:
            return None
        path = _place(self.folder, key)
        tensors = _read(path, key)
        if tensors is None or tensors.keys() != TENSORS[kind]:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        if key not in self._encoded[kind]:
            self._found[kind].add(key)
        return tensors

    def keep(self, kind: Kind, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Write what was just encoded, in place of whatever lies under the key."""
        if self.folder is None or not key:
            return
        self._encoded[kind].add(key)
        if self._problem:
            return
        checks = {"format": str(FORMAT), "key": key, "sha256": _checksum(tensors)}
        content = b"".join(serialize(tensors, checks))
        path = _place(self.folder, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(path.parent).free < FREE_BYTES + len(content):
                self._give_up(f"less than {FREE_BYTES / 2**30:g} GiB of disk space are free")
                return
            write_atomically(path, lambda temporary: _write(temporary, content))
        except OSError as error:
            self._give_up(error.strerror or type(error).__name__)
        else:
            self._has_written = True

    def trim(self) -> None:
        """Remove the least recently used files where there are too many now, and half written ones.

        Only files of a cache's own names are counted and removed.
        """
        if self.folder is None or not self._has_written:
            return
        files = sorted(_own_files(self.folder), key=lambda file: file[0])
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self._max_bytes:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size

    def _give_up(self, reason: str) -> None:
        self._problem = (
            f"the cache of latents and captions cannot be written ({reason}): the next run encodes them anew"
        )
        self._on_note(self._problem)


def _place(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.safetensors"


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _read(path: Path, key: str) -> dict[str, Tensor] | None:
    """The tensors of a file that is what its key says, else None."""
    if not os.path.isfile(path):  # unlike Path.is_file it raises for no folder
        return None
    try:
        tensors, checks = read_safetensors(path)
    except InputError:
        return None
    belongs = checks.get("format") == str(FORMAT) and checks.get("key") == key
    if not belongs or checks.get("sha256") != _checksum(tensors):
        return None
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        return None
    return tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _own_files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """(last use, bytes, path) of each file of the cache; what nobody writes any more is removed."""
    for shard in _entries(folder):
        if not _SHARD.fullmatch(shard.name) or not shard.is_dir(follow_symlinks=False):
            continue
        for entry in _entries(shard):
            is_half_written = bool(_HALF_WRITTEN.fullmatch(entry.name))
            if not is_half_written and not _FILE.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):
                if not entry.is_file(follow_symlinks=False):
                    continue
                facts = entry.stat(follow_symlinks=False)
                if not is_half_written:
                    yield facts.st_mtime, facts.st_size, Path(entry.path)
                elif facts.st_mtime < time.time() - STALE_SECONDS:
                    os.unlink(entry.path)


def _entries(folder: "Path | os.DirEntry[str]") -> list["os.DirEntry[str]"]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []
