"""A dataset of the Hugging Face hub, fetched once into an ordinary folder of pictures with a metadata.jsonl.

From then on it is read like any other folder, without network and without the `datasets` library. What came
from where is in a hidden file beside the pictures.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..data.pictures import UnreadablePictureError
from ..data.training_set import some
from ..errors import InputError
from ..files.atomic_file import write_atomically
from ..settings.hub_config import HubConfig
from .dataset_columns import Columns, caption_in, choose_columns, picture_in
from .dataset_source import HubSource, open_source
from .growing_folder import JOURNAL, GrowingFolder, disk_sentences

MANIFEST = ".hub_dataset.json"
MAX_NAME = 100
MAX_SKIPPED = 20
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class HubManifest:
    """Where the pictures of a folder came from.

    `asked` are the settings that decide what is in it; `skipped` has the first sentences about left out rows.
    """

    asked: dict[str, Any]
    repository: str
    commit: str
    config_name: str
    split: str
    image_column: str
    caption_column: str
    note: str
    num_pictures: int = 0
    num_skipped: int = 0
    skipped: tuple[str, ...] = ()
    finished: bool = False


def hub_folder(config: HubConfig, into: Path) -> Path:
    """Where `fetch_hub_dataset` puts the pictures: `<owner>--<name>/<config>-<split>[-first-N]` below `into`.

    Columns and a revision that are asked for are part of the name, so that each choice has its own folder.
    """
    parts = [config.config_name or "default", config.split]
    if config.max_pictures:
        parts.append(f"first-{config.max_pictures}")
    named = (("image", config.image_column), ("caption", config.caption_column), ("at", config.revision))
    parts += [f"{what}-{value}" for what, value in named if value]
    return into / _folder_name(config.repository.replace("/", "--")) / _folder_name("-".join(parts))


def _folder_name(name: str) -> str:
    """A plain name, and a different one for a different `name`; `10_cat` would mean repeats."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:MAX_NAME].rstrip(".")
    plain = re.sub(r"^(-?\d+_|\.)", r"_\1", plain)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def hub_manifest(folder: Path) -> HubManifest | None:
    """What is known about a fetched folder; None where there is no finished one.

    Raises:
        InputError: the hidden file is damaged.
    """
    manifest = _read_manifest(folder)
    return manifest if manifest is not None and manifest.finished else None


def fetch_hub_dataset(
    config: HubConfig,
    into: Path,
    on_progress: Progress | None = None,
    on_download: Progress | None = None,
) -> Path:
    """Fetch a dataset into its folder, or find it there already; needs the network for the first only.

    An interrupted fetch goes on where it stopped, with the commit it began with. Rows without a usable
    picture are passed over and noted.

    Args:
        config: which dataset.
        into: the folder for hub datasets; `hub_folder` says where in it.
        on_progress: called with (done, total) pictures; what it raises ends the fetch. The total is the
            number done where nobody knows it.
        on_download: called with (done, total) MB while whole files are downloaded; what it raises ends it.

    Returns:
        The folder: pictures `000000.jpg` by the number of their row, and metadata.jsonl with a column `text`.

    Raises:
        InputError: one sentence: no such dataset, part or column, no access, no network, no room.
    """
    folder = hub_folder(config, into)
    known = hub_manifest(folder)
    if known is not None and _answers(known, config):
        return folder
    if folder.exists():
        raise InputError(
            f"the folder '{folder}' is there already and is not this dataset as fetched from the hub: rename "
            "it, and run again"
        )
    growing = folder.with_name(f".{folder.name}.part")
    begun = _read_manifest(growing)
    if begun is not None and not _answers(begun, config):
        raise InputError(f"the folder '{growing}' holds another unfinished fetch: delete it")
    if begun is None or not begun.finished:
        _fetch(config, growing, begun, on_progress, on_download)
    with disk_sentences():
        (growing / JOURNAL).unlink(missing_ok=True)
        growing.rename(folder)
    return folder


def _fetch(
    config: HubConfig,
    growing: Path,
    begun: HubManifest | None,
    on_progress: Progress | None,
    on_download: Progress | None,
) -> None:
    """Fill the hidden folder, and write its manifest last."""
    source = open_source(config, begun.commit if begun else "", on_download)
    columns = choose_columns(source.features, config)
    if begun is None:
        begun = _manifest(source, columns)
        with disk_sentences():
            growing.mkdir(parents=True, exist_ok=True)
        _write_manifest(growing, begun)
    with GrowingFolder(growing) as pictures:
        _copy_rows(source, columns, pictures, on_progress)
        if not pictures.num_pictures:
            why = some(pictures.skipped, 3) or "it is empty"
            raise InputError(f"split '{config.split}' of {config.repository} has no usable picture: {why}")
        pictures.write_table()
        done = replace(
            begun,
            num_pictures=pictures.num_pictures,
            num_skipped=len(pictures.skipped),
            skipped=tuple(pictures.skipped[:MAX_SKIPPED]),
            finished=True,
        )
    _write_manifest(growing, done)


def _copy_rows(
    source: HubSource, columns: Columns, pictures: GrowingFolder, on_progress: Progress | None
) -> None:
    most = source.config.max_pictures or source.num_rows
    total = min(most, source.num_rows) if source.num_rows else most
    if source.config.max_pictures and pictures.num_rows >= source.config.max_pictures:
        return
    for number, cell, caption in source.rows(columns, pictures.num_rows):
        try:
            data, suffix = picture_in(cell, source.read_path)
        except UnreadablePictureError as error:
            pictures.skip(str(error))
        else:
            pictures.add(data, suffix, caption_in(caption, columns))
        if on_progress is not None:
            on_progress(number + 1, max(total, number + 1))
        if number + 1 == source.config.max_pictures:
            return


def _asked(config: HubConfig) -> dict[str, Any]:
    """The settings that decide what is in the folder; streaming is only another way to get it."""
    return {name: value for name, value in asdict(config).items() if name != "streaming"}


def _answers(manifest: HubManifest, config: HubConfig) -> bool:
    """Whether the folder holds what is asked for; the default configuration may be named or not."""
    named = {"config_name": config.config_name or "default"}
    in_full = {**manifest.asked, "config_name": manifest.config_name}
    return manifest.asked == _asked(config) or in_full == {**_asked(config), **named}


def _manifest(source: HubSource, columns: Columns) -> HubManifest:
    return HubManifest(
        asked=_asked(source.config),
        repository=source.config.repository,
        commit=source.commit,
        config_name=source.config_name,
        split=source.config.split,
        image_column=columns.image,
        caption_column=columns.caption,
        note=columns.note,
    )


def _read_manifest(folder: Path) -> HubManifest | None:
    place = folder / MANIFEST
    try:
        values = json.loads(place.read_text("utf-8"))
        return HubManifest(**{**values, "skipped": tuple(values["skipped"])})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"'{place}' is damaged: delete the folder it is in, and fetch it again") from error


def _write_manifest(folder: Path, manifest: HubManifest) -> None:
    text = json.dumps(asdict(manifest), indent=1)
    with disk_sentences():
        write_atomically(folder / MANIFEST, lambda place: place.write_text(text, "utf-8") and None)


def describe_hub_dataset(manifest: HubManifest, place: str) -> str:
    """The beginning of a report: where the pictures came from, where they lie now, what was left out.

    Args:
        manifest: of the folder.
        place: the folder as messages may name it.
    """
    commit = f", commit {manifest.commit[:10]}" if manifest.commit else ""
    captions = f"captions from '{manifest.caption_column}'" if manifest.caption_column else manifest.note
    lines = [
        f"{manifest.num_pictures} pictures from {manifest.repository} on the Hugging Face hub (configuration "
        f"{manifest.config_name}, split {manifest.split}{commit}): pictures from '{manifest.image_column}', "
        f"{captions}.",
        f"They lie in {place} and are read from there from now on; Load Dataset lists them too.",
    ]
    if manifest.num_skipped:
        rows = "1 row was" if manifest.num_skipped == 1 else f"{manifest.num_skipped} rows were"
        lines.append(f"{rows} left out: {some(manifest.skipped, 5)}.")
    return "\n".join(lines)
