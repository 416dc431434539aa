"""Where datasets of the Hugging Face hub are kept: under ComfyUI's input folder, as Load Dataset needs it."""

from pathlib import Path

import folder_paths

from .folders import INPUT

HUB_DATASETS = "hub_datasets"


def hub_datasets_folder() -> Path:
    """The folder for all of them; it need not exist."""
    return Path(folder_paths.get_input_directory()).resolve() / HUB_DATASETS


def shown_hub_folder(folder: Path) -> str:
    """The name under which Load Dataset lists it."""
    return f"{INPUT}/{folder.relative_to(hub_datasets_folder().parent).as_posix()}"
