"""A dataset on the Hugging Face hub, opened with the `datasets` library: its columns and its rows.

The token is that of the user's own login, which the hub's client finds by itself; it is never seen here.
"""

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.pictures import UnreadablePictureError
from ..data.training_set import some
from ..errors import InputError
from ..settings.hub_config import HubConfig
from .dataset_columns import Columns, shown_path
from .dataset_files import download_files
from .datasets_library import (
    Libraries,
    is_missing_file,
    load_libraries,
    quietly,
    sentence_of,
    sentences,
    switched,
    unreachable,
)

Progress = Callable[[int, int], None]
ARCHIVES = ("zip://", "tar://", "gzip://", "bz2://", "xz://", "lz4://", "zstd://", "7z://", "rar://")


@dataclass(frozen=True)
class HubSource:
    """An opened dataset. `num_rows` is 0 where it is not known before the end."""

    commit: str
    config_name: str
    features: Mapping[str, Any]
    num_rows: int
    dataset: Any
    libraries: Libraries
    config: HubConfig

    def rows(self, columns: Columns, start: int) -> Iterator[tuple[int, Any, Any]]:
        """(number, picture cell, caption cell) of each row from `start` on, in the dataset's order.

        Raises:
            InputError: a row cannot be read; one sentence.
        """
        wanted = [columns.image, *([columns.caption] if columns.caption else [])]
        is_streamed = not hasattr(self.dataset, "__len__")
        with sentences(self.libraries, self.config):
            # decode(False) also ends the threads in which newer versions read far ahead
            chosen = self.dataset.decode(False) if is_streamed else self.dataset
            chosen = chosen.select_columns(wanted)
            if not is_streamed and type(self.features[columns.image]).__name__ == "Image":
                chosen = chosen.cast_column(columns.image, self.libraries.datasets.Image(decode=False))
            cells = iter(chosen.skip(start) if start else chosen) if is_streamed else None
        number = start
        while True:
            with sentences(self.libraries, self.config, number):
                if cells is not None:
                    row = next(cells, None)
                else:
                    row = chosen[number] if number < len(chosen) else None
            if row is None:
                return
            yield number, row[columns.image], row.get(columns.caption) if columns.caption else None
            number += 1

    def read_path(self, path: str) -> bytes:
        """The bytes of a file that a cell names: one of this repository, or of the hub's caches.

        Raises:
            UnreadablePictureError: it is not there, or lies elsewhere: a dataset must not name other files of
                this machine.
            InputError: it cannot be read.
        """
        *outer, inner = path.split("::")
        if "://" in inner:
            own = inner.startswith(f"hf://datasets/{self.config.repository}@")
        else:
            own = _is_cached_file(self.libraries, inner)
        if not own or not all(part.startswith(ARCHIVES) for part in outer):
            raise UnreadablePictureError(f"names the file {shown_path(path)!r}, which is not in the dataset")
        fsspec = importlib.import_module("fsspec")
        with sentences(self.libraries, self.config):
            try:
                with fsspec.open(path, "rb") as file:
                    return file.read()
            except (FileNotFoundError, self.libraries.hub.errors.EntryNotFoundError) as error:
                if not is_missing_file(self.libraries, error):
                    raise  # the hub is not there, or no longer open
                raise UnreadablePictureError(
                    f"names the file {shown_path(path)!r}, which is missing"
                ) from error


def _is_cached_file(libraries: Libraries, path: str) -> bool:
    config = libraries.datasets.config
    caches = (config.HF_DATASETS_CACHE, libraries.hub.constants.HF_HUB_CACHE)
    # not resolved: files of the hub's cache are links, but all stay in it
    place = os.path.normpath(path)
    return any(Path(place).is_relative_to(os.path.normpath(cache)) for cache in caches)


def open_source(config: HubConfig, commit: str, on_download: Progress | None) -> HubSource:
    """Open a dataset; without streaming its files are downloaded now, into the hub's own cache.

    Where the hub cannot be reached, what `datasets` has in its cache on this machine is used.

    Args:
        config: the settings.
        commit: the commit that an interrupted fetch began with, else an empty string.
        on_download: called with (done, total) in MB; what it raises ends the work.

    Raises:
        InputError: one sentence.
    """
    libraries = load_libraries()
    if os.path.lexists(config.repository):
        raise InputError(
            f"there is a folder '{config.repository}' where this program was started, which `datasets` would "
            "read in place of the hub's: rename it, or load it with Load Dataset"
        )
    with quietly(libraries):
        sizes, found = _ask_hub(libraries, config, commit)
        # without this, the hub's client would ask again and again for half a minute
        with nullcontext() if found else switched(libraries, "HF_HUB_OFFLINE", True):
            builder = _open_builder(libraries, config, found)
        if (commit or config.revision) and not found and builder.hash not in (commit, config.revision):
            raise InputError(unreachable(config))
        _check_split(config, builder)
        streaming = config.streaming and bool(found)
        if found and not streaming and not Path(builder.cache_dir, "dataset_info.json").is_file():
            _download(libraries, config, builder, sizes, on_download)
        with sentences(libraries, config):
            if streaming:
                dataset = builder.as_streaming_dataset(config.split)
            else:
                builder.download_and_prepare()
                dataset = builder.as_dataset(config.split)
    if dataset.features is None:
        raise InputError(f"{config.repository} does not say what its columns hold: turn streaming off")
    known = (builder.info.splits or {}).get(config.split)
    num_rows = len(dataset) if not streaming else known.num_examples if known else 0
    hashed = str(builder.hash)
    return HubSource(hashed, builder.config.name, dataset.features, num_rows, dataset, libraries, config)


def _check_split(config: HubConfig, builder: Any) -> None:
    splits = list(getattr(builder.config, "data_files", None) or builder.info.splits or [])
    if splits and config.split not in splits:
        there = some([str(split) for split in splits], 30)
        raise InputError(f"{config.repository} has no split '{config.split}', only {there}")


def _ask_hub(libraries: Libraries, config: HubConfig, commit: str) -> tuple[Mapping[str, int], str]:
    """Sizes of all files, and the commit; nothing when the hub cannot be reached."""
    errors = libraries.hub.errors
    try:
        info = libraries.hub.HfApi(endpoint=libraries.datasets.config.HF_ENDPOINT).dataset_info(
            config.repository, revision=commit or config.revision or None, files_metadata=not config.streaming
        )
    except libraries.errors as error:
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 500:
            raise InputError(sentence_of(libraries, config, error)) from error
        return {}, ""
    return {file.rfilename: file.size or 0 for file in info.siblings or []}, info.sha


def _open_builder(libraries: Libraries, config: HubConfig, commit: str) -> Any:
    datasets = libraries.datasets
    wanted = {"revision": commit or config.revision or None}
    try:
        return datasets.load_dataset_builder(config.repository, config.config_name or None, **wanted)
    except libraries.errors as error:
        if isinstance(error, ValueError):
            with sentences(libraries, config):
                names = datasets.get_dataset_config_names(config.repository, **wanted)
            if config.config_name not in names and (config.config_name or len(names) > 1):
                asked = config.config_name
                got = f"no configuration '{asked}'" if asked else "several configurations"
                raise InputError(
                    f"{config.repository} has {got}: put one of {some(names, 30)} into config_name"
                ) from error
        if not commit:
            raise InputError(unreachable(config)) from error
        raise InputError(sentence_of(libraries, config, error)) from error


def _download(
    libraries: Libraries,
    config: HubConfig,
    builder: Any,
    sizes: Mapping[str, int],
    on_download: Progress | None,
) -> None:
    start = f"hf://datasets/{config.repository}@{builder.hash}/"
    files = [str(f) for files in (builder.config.data_files or {}).values() for f in files]
    paths = [file.removeprefix(start) for file in files if file.startswith(start)]
    stopped: list[BaseException] = []

    def report(done: int, total: int) -> None:
        try:
            if on_download is not None:
                on_download(done, total)
        except BaseException as wish:
            stopped.append(wish)  # not a fault of the hub, of whatever type it is
            raise

    try:
        with sentences(libraries, config):
            wanted = {path: sizes.get(path, 0) for path in dict.fromkeys(paths)}
            download_files(libraries.hub, config.repository, builder.hash, wanted, report)
    except InputError:
        if stopped:
            raise stopped[0] from None
        raise
