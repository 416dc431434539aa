"""A finished LoRA on the Hugging Face hub, when the settings name a repository.

The token comes from the hub's own login or HF_TOKEN and is never seen here. The run is over and its file
safe: what fails is a sentence in the report, and the next call tries again.
"""

import contextlib
import importlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError, safe_open

from ..config import TrainConfig
from ..data.dataset import TrainingSet
from ..files.atomic_file import write_atomically
from ..hub.hub_faults import LOGIN, cleaned, reason, transport_errors
from .drawings import newest_pictures
from .model_card import model_card
from .previews import preview_prompts
from .run_folder import RunFiles
from .run_report import RunOutcome

logger = logging.getLogger(__name__)


def push_once(files: RunFiles, config: TrainConfig, dataset: TrainingSet, outcome: RunOutcome) -> list[str]:
    """Upload the LoRA, its model card and its newest previews, unless this very file is there already.

    Returns:
        A sentence for the report; none where no repository is named.
    """
    repository = config.logging.hub_model_id
    if not repository:
        return []
    try:
        hub = importlib.import_module("huggingface_hub")
        faults = transport_errors(hub)
    except (ImportError, AttributeError):
        return [
            "not uploaded: the package huggingface_hub is missing, install it with `pip install "
            "huggingface_hub` and run again"
        ]
    try:
        metadata = _metadata(files)
        mark = {"repository": repository, "sshs_model_hash": metadata.get("sshs_model_hash", "")}
        if _pushed(files) == mark:
            return [f"uploaded before to {repository} on the Hugging Face hub"]
        if hub.get_token() is None:
            return [f"not uploaded to {repository}: nobody is logged in; {LOGIN}, then run again"]
        card = model_card(config, dataset, outcome, metadata, _named_pictures(files, config, dataset))
        url = _upload(hub, files, config, card)
    except (*faults, ValueError, RuntimeError, SafetensorError) as error:
        logger.warning("upload to %s failed: %s", repository, cleaned(error))
        why = reason(hub, error, repository, "run again")
        return [
            f"not uploaded to {repository}: {why}; the LoRA is safe on this machine, and a login needs "
            "write access to upload it"
        ]
    with contextlib.suppress(OSError):
        write_atomically(files.pushed, lambda place: place.write_text(json.dumps(mark), "utf-8"))
    return [f"uploaded to {url}"]


def _upload(hub: Any, files: RunFiles, config: TrainConfig, card: str) -> str:
    """One commit with everything; returns the repository's address."""
    api = hub.HfApi()
    repository = config.logging.hub_model_id
    url = api.create_repo(repository, private=config.logging.hub_private, exist_ok=True)
    contents: Mapping[str, Any] = {
        files.lora.name: str(files.lora),
        **{path.name: str(path) for path in files.embeddings_beside(files.lora)},
        "README.md": card.encode(),
        **{f"images/{path.name}": str(path) for path in newest_pictures(files.samples)},
    }
    api.create_commit(
        repository,
        [hub.CommitOperationAdd(path_in_repo=k, path_or_fileobj=v) for k, v in contents.items()],
        commit_message=f"Upload {files.name}",
    )
    return str(url)


def _named_pictures(files: RunFiles, config: TrainConfig, dataset: TrainingSet) -> list[tuple[str, str]]:
    """(path in the repository, prompt) of the newest previews."""
    prompts = preview_prompts(config.preview, dataset)
    paths = newest_pictures(files.samples)
    return [(f"images/{path.name}", prompt) for path, prompt in zip(paths, prompts, strict=False)]


def _metadata(files: RunFiles) -> dict[str, str]:
    with safe_open(files.lora, framework="pt") as file:
        return file.metadata() or {}


def _pushed(files: RunFiles) -> object:
    try:
        return json.loads(files.pushed.read_text("utf-8"))
    except (OSError, ValueError):
        return None
