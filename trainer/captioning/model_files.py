"""Where the files of a captioning model lie: in given folders or in the hub's cache; no network."""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import InputError
from ..sdxl.model_detection import read_json
from .catalog import repository_of, size_text
from .checkpoint_folder import INDEX, WHOLE, is_florence_of_code
from .model_download import download_repository, folder_name

__all__ = ["download", "download_place", "locate", "missing_model"]

download = download_repository


def locate(name: str, folders: Sequence[Path]) -> Path | None:
    """The folder of a captioning model on this machine.

    Looked for in each folder as `owner--name`, `owner/name`, `name`, then in the hub's cache. A folder with a
    part of the weights does not count, so that an interrupted download goes on, nor does a Florence-2 that
    another pack has under the same name, and that needs code.

    Args:
        name: a label, owner/name of the hub, or a folder's name.
        folders: with the folders of models; those that do not exist are passed over.

    Returns:
        None where it is nowhere.

    Raises:
        InputError: no name of a model, or one that needs code from its repository.
    """
    repository = repository_of(name)
    for folder in folders:
        for candidate in _spellings(repository, name.strip()):
            place = folder / candidate
            if not (place / "config.json").is_file() or not is_whole(place):
                continue
            if "/" not in repository or not _is_of_code(place):
                return place
    return _in_hub_cache(repository)


def download_place(name: str, folders: Sequence[Path]) -> Path | None:
    """The folder that `download` fills; None for a name that is no repository of the hub.

    Raises:
        InputError: no name of a model, or one that needs code from its repository.
    """
    repository = repository_of(name)
    return folders[0] / folder_name(repository) if "/" in repository else None


def missing_model(name: str, places: Sequence[str]) -> InputError:
    """What to say where `locate` found nothing.

    Args:
        name: as the user wrote it.
        places: folders as people know them, such as "models/captioners"; no full paths.
    """
    repository = repository_of(name)
    if "/" not in repository:
        return InputError(
            f"there is no captioning model {name!r} in {' or '.join(places)}: put its folder there, or "
            "choose a known model or a repository of the Hugging Face hub as owner/name"
        )
    called = name if name == repository else f"{name} ({repository})"
    return InputError(
        f"the captioning model {called} is not on this machine: switch on download to fetch it"
        f"{size_text(name)}, or put its files into {places[0]}/{folder_name(repository)}"
    )


def is_whole(folder: Path) -> bool:
    """Whether all weights are there, or none at all, which is another trouble than a download broken off."""
    index = folder / INDEX
    if index.is_file():
        text = index.read_text("utf-8", errors="replace")
        parts = {part for part in _quoted(text) if part.endswith(".safetensors")}
        return all((folder / Path(part).name).is_file() for part in parts)
    return (folder / WHOLE).is_file() or not any(folder.glob("*.part"))


def _is_of_code(folder: Path) -> bool:
    try:
        return is_florence_of_code(read_json(folder / "config.json"))
    except InputError:
        return False


def _quoted(text: str) -> Iterator[str]:
    yield from text.split('"')[1::2]


def _spellings(repository: str, name: str) -> list[str]:
    known = [folder_name(repository), repository, repository.rpartition("/")[2]]
    return list(dict.fromkeys([*known, name, name.lower()]))


def _in_hub_cache(repository: str) -> Path | None:
    if "/" not in repository:
        return None
    try:
        hub = importlib.import_module("huggingface_hub")
        found = Path(hub.snapshot_download(repository, local_files_only=True))
    except (ImportError, OSError, ValueError):
        # the hub's LocalEntryNotFoundError is both of the latter
        return None
    return found if (found / "config.json").is_file() and is_whole(found) and _has_weights(found) else None


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))
