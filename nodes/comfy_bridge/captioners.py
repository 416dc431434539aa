"""Captioning models in ComfyUI: in which folders they lie, and their stay under its memory management."""

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch

from ...trainer.captioning.catalog import KNOWN, repository_of
from ...trainer.errors import InputError
from .progress import HostListener, report_progress
from .unet_view import drop_weights

if TYPE_CHECKING:
    from ...trainer.captioning.captioner import Captioner
    from ...trainer.captioning.captioner_source import CaptionerSource
    from ...trainer.captioning.checkpoint_folder import CheckpointFolder
    from ...trainer.config import Precision

KINDS = ("captioners", "LLM")
"""Types of model folders that packs register for such models; else folders of these names in models/."""
MAX_FOUND = 200
SECONDS_BETWEEN_TEXTS = 0.25
MB, GB = 10**6, 10**9


def captioner_folders() -> list[Path]:
    """Folders that may hold captioning models, there or not; the first is for downloads."""
    folders: list[Path] = []
    for kind in KINDS:
        registered = folder_paths.folder_names_and_paths.get(kind, ([], set()))[0]
        folders += [*map(Path, registered), Path(folder_paths.models_dir) / kind]
    return list(dict.fromkeys(folders))


def captioner_choices() -> list[str]:
    """The captioners known by a label, then the model folders found, as `model_files.locate` names them."""
    known = {name.lower() for model in KNOWN.values() for name in _spellings(model.repository)}
    found: dict[str, None] = {}
    for root in captioner_folders():
        for name in _model_folders(root):
            if name.lower() not in known and _is_name(name):
                found[name] = None
            if len(found) >= MAX_FOUND:
                break
    return [*KNOWN, *sorted(name for name in found if name not in KNOWN)]


def _is_name(folder: str) -> bool:
    """Whether a model can be asked for by the name of its folder."""
    try:
        repository_of(folder)
    except InputError:
        return False
    return True


def _spellings(repository: str) -> tuple[str, ...]:
    """The folder names under which a repository is found."""
    return repository, repository.replace("/", "--"), repository.rpartition("/")[2]


def _model_folders(root: Path) -> Iterator[str]:
    """`name` or `owner/name` of each folder with a config.json; links are followed, nothing is opened."""
    for place in _subfolders(root):
        if (place / "config.json").is_file():
            yield place.name
            continue
        for inner in _subfolders(place):
            if (inner / "config.json").is_file():
                yield f"{place.name}/{inner.name}"


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(place for place in folder.iterdir() if place.is_dir() and place.name[0] != ".")
    except OSError:
        return []


def captioner_source(name: str, download: bool, node_id: str | None) -> "CaptionerSource":
    """Where a captioning model comes from, and how it is loaded here.

    Args:
        name: a label, a hub id or the name of a folder.
        download: fetch it when it is nowhere on this machine, or mend a damaged copy.
        node_id: of the node that shows the progress.
    """
    from ...trainer.captioning.captioner_source import CaptionerSource

    show = report_progress(f"downloading {name} (MB)", node_id)

    def load(found: "CheckpointFolder", precision: "Precision") -> "AbstractContextManager[Captioner]":
        report_progress(f"loading {name}", node_id)(0, 1)
        return open_captioner(found.folder, name, precision)

    return CaptionerSource(
        name=name,
        folders=tuple(captioner_folders()),
        places=("models/captioners", "models/LLM"),
        open=load,
        on_download=(lambda done, total: show(done // MB, total // MB)) if download else None,
    )


@contextlib.contextmanager
def open_captioner(folder: Path, name: str, precision: "Precision") -> "Iterator[Captioner]":
    """The captioner on ComfyUI's device; other models make room, and nothing of it remains on leaving.

    Where ComfyUI keeps no model on its device (--novram), it works on the CPU.

    Raises:
        InputError: no captioning model lies there, or it does not fit.
    """
    from ...trainer.captioning.captioner import load_captioner

    device = comfy.model_management.get_torch_device()
    captioner = load_captioner(folder, name, precision, device)
    patcher = comfy.model_patcher.ModelPatcher(
        _Held(captioner.module), device, comfy.model_management.unet_offload_device()
    )
    try:
        with _one_sentence(name, patcher.model_size()):
            comfy.model_management.load_models_gpu([patcher], force_full_load=True)
            if {weight.device.type for weight in captioner.module.parameters()} != {device.type}:
                _unload(patcher)
                captioner.module.to("cpu")
            yield captioner
    finally:
        patcher.offload_device = torch.device("meta")  # its weights are not wanted back
        _unload(patcher)
        drop_weights(captioner.module)
        del patcher, captioner
        gc.collect()
        comfy.model_management.soft_empty_cache()


class _Held(torch.nn.Module):
    """ComfyUI writes attributes such as `device` onto a model, which those of transformers do not allow."""

    def __init__(self, captioner: torch.nn.Module) -> None:
        super().__init__()
        self.captioner = captioner


@contextlib.contextmanager
def _one_sentence(name: str, num_bytes: int) -> Iterator[None]:
    """Out of memory is no fault of the code."""
    try:
        yield
    except comfy.model_management.OOM_EXCEPTION as error:
        raise InputError(
            f"there is not enough memory for {name}, whose weights are {num_bytes / GB:.1f} GB: choose a "
            "smaller captioner or fewer max_tokens; captions made so far are kept"
        ) from error


def _unload(patcher: Any) -> None:
    """Take the model off ComfyUI's list and off its device."""
    loaded = comfy.model_management.current_loaded_models
    for entry in [entry for entry in loaded if entry.model is patcher]:
        entry.model_unload()
        loaded[:] = [other for other in loaded if other is not entry]


def caption_progress(node_id: str | None) -> Callable[[int, int, str], None]:
    """A (done, total, caption) callback that shows them on the node, and ends the work on Cancel."""
    listener = _CaptionListener(node_id)

    def report(done: int, total: int, caption: str) -> None:
        listener.captioned(done, total, caption)
        if listener.should_stop():
            listener.raise_interrupt()

    return report


class _CaptionListener(HostListener):
    def __init__(self, node_id: str | None) -> None:
        super().__init__(node_id)
        self._last_text = -SECONDS_BETWEEN_TEXTS

    def captioned(self, done: int, total: int, caption: str) -> None:
        """Show the newest caption; those from a journal come by the thousand, so some are passed over."""
        if done < total and time.monotonic() - self._last_text < SECONDS_BETWEEN_TEXTS:
            return
        self._last_text = time.monotonic()
        self._show("captioning", done, total, f"captioning: {done} of {total}\n{caption}".strip())
