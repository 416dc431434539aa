"""A captioning model from the Hugging Face hub, when the user asked for it: only files that run no code.

What is refused is refused before its weights are fetched.
"""

import importlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..hub.file_transfer import HubFile, Progress, Repository, Transfer
from ..hub.hub_faults import reason, transport_errors
from ..sdxl.model_detection import read_json
from .catalog import repository_of, size_text
from .checkpoint_folder import ADAPTER, INDEX, TAG_TABLE, WHOLE, refuse_kind

SMALL = (".json", ".txt", ".jinja", ".model", ".csv", ".tiktoken")
MAX_SMALL_BYTES = 256 * 2**20
UNFINISHED = "unfinished.part"
"""Stands in a folder until all is there, so that one without its weights is not taken for a model."""
GB = 1e9


def folder_name(repository: str) -> str:
    return repository.replace("/", "--")


def download_repository(name: str, into: Path, on_progress: Progress) -> Path:
    """Fetch a model's config, processor and safetensors weights into `<into>/<owner>--<name>`.

    Files that are there already stay; one that was broken off goes on where it stopped. A model that needs
    code from its repository, has only pickled weights or no room on the disk is refused before its weights.

    Args:
        name: a label or owner/name.
        into: folder of models; made where it is missing.
        on_progress: see `Progress`.

    Returns:
        The model's folder.

    Raises:
        InputError: no such model, no network, no permission, no room, or a model that cannot be used.
    """
    repository = repository_of(name)
    if "/" not in repository:
        raise InputError(
            f"{name!r} is no repository of the Hugging Face hub: write owner/name, or put the model's folder "
            "among the models"
        )
    hub = _hub(name)
    with _sentences(hub, name, repository):
        found = _list(hub, repository)
        folder = into / folder_name(repository)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / UNFINISHED).touch()
        wanted = _wanted_small(found)
        transfer = Transfer(hub, found, folder, on_progress)
        transfer.plan([*wanted, *_likely_weights(found)])
        transfer.fetch([file for file in wanted if file.name == "config.json"])
        _refuse_early(found, folder, name)
        transfer.fetch(wanted)
        weights = _weights(found, folder, name)
        transfer.plan([*wanted, *weights])
        _require_room(folder, transfer.bytes_missing, name)
        transfer.fetch(weights)
        (folder / UNFINISHED).unlink(missing_ok=True)
    return folder


def _hub(name: str) -> Any:
    try:
        hub = importlib.import_module("huggingface_hub")
        importlib.import_module("huggingface_hub.file_download")
    except ImportError as problem:
        raise InputError(
            f"{name} cannot be downloaded: the package huggingface_hub is missing, install it with `pip "
            "install huggingface_hub`"
        ) from problem
    if hub.constants.HF_HUB_OFFLINE:
        raise InputError(
            f"{name} is not on this machine, and HF_HUB_OFFLINE is set: unset it to download the model"
            f"{size_text(name)}, or put its files among the models"
        )
    return hub


@contextmanager
def _sentences(hub: Any, name: str, repository: str) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence."""
    try:
        yield
    except transport_errors(hub) as error:
        raise InputError(f"{name} cannot be downloaded: {reason(hub, error, repository)}") from error


def _list(hub: Any, repository: str) -> Repository:
    info = hub.HfApi().model_info(repository, files_metadata=True)
    files = tuple(
        HubFile(one.rfilename, int(one.size or 0), str(getattr(one.lfs, "sha256", "") or ""))
        for one in info.siblings or ()
        # folders hold other formats and copies
        if "/" not in one.rfilename and "\\" not in one.rfilename and not one.rfilename.startswith(".")
    )
    return Repository(repository, str(info.sha), files)


def _wanted_small(found: Repository) -> list[HubFile]:
    return [
        file
        for file in found.files
        if Path(file.name).suffix in SMALL and file.size <= MAX_SMALL_BYTES and file.name != ADAPTER
    ]


def _refuse_early(found: Repository, folder: Path, name: str) -> None:
    """Before weights are fetched: what `open_folder` would refuse afterwards."""
    names = {file.name for file in found.files}
    if "config.json" not in names:
        raise InputError(
            f"{name} holds no config.json: it is no captioning model of transformers; choose another"
        )
    if TAG_TABLE not in names:
        refuse_kind(read_json(folder / "config.json"), name)
    if not names & {INDEX, WHOLE}:
        raise InputError(
            f"{name} offers no safetensors weights ({WHOLE}), and pickled or GGUF ones are not read: choose "
            "another repository of it, or another captioner such as blip-large or florence-2-base"
        )


def _likely_weights(found: Repository) -> list[HubFile]:
    """What `_weights` will be, as far as names tell before the index is there."""
    if not found.named([INDEX]):
        return found.named([WHOLE])
    return [file for file in found.files if re.fullmatch(r"model-\d+-of-\d+\.safetensors", file.name)]


def _weights(found: Repository, folder: Path, name: str) -> list[HubFile]:
    """The parts that the index names, or the one whole file."""
    if not found.named([INDEX]):
        return found.named([WHOLE])
    table = read_json(folder / INDEX).get("weight_map", {})
    parts = sorted({str(part) for part in table.values()}) if isinstance(table, dict) else []
    weights = found.named(parts)
    if not parts or len(weights) != len(parts):
        raise InputError(
            f"{name} is incomplete on the hub: its index names {len(parts)} files of weights, and "
            f"{len(weights)} are there; choose another repository of the model"
        )
    return weights


def _require_room(folder: Path, num_bytes: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise InputError(
            f"{name} needs {num_bytes / GB:.1f} GB more, but only {free / GB:.1f} GB are free where models "
            "lie; make room or choose a smaller model"
        )
