"""Where class images lie or are drawn to: a folder that is there already, or a new one under input/."""

from pathlib import Path

import folder_paths

from ...trainer.errors import InputError
from ...trainer.files.run_name import check_run_name
from .folders import NO_FOLDER, dataset_choices, dataset_folder

NEW_FOLDER = "(new_folder)"


def class_folder_choices() -> list[str]:
    return [NEW_FOLDER, *(name for name in dataset_choices() if name != NO_FOLDER)]


def class_folder(choice: str, new_folder: str) -> tuple[Path, str]:
    """The folder to read and draw into, and the name by which messages call it.

    Args:
        choice: one of `class_folder_choices`.
        new_folder: plain name of a folder under input/, there or not, where `choice` is NEW_FOLDER.

    Raises:
        InputError: no such folder, or one outside ComfyUI's own.
    """
    if choice != NEW_FOLDER:
        return dataset_folder(choice), choice
    try:
        name = check_run_name(new_folder)
    except InputError as error:
        raise InputError(f"new_folder: {error}") from None
    root = Path(folder_paths.get_input_directory()).resolve()
    folder = (root / name).resolve()
    if not folder.is_relative_to(root) or folder == root or (folder.exists() and not folder.is_dir()):
        raise InputError(
            f"new_folder is '{new_folder}', which is a file or leads out of ComfyUI's input folder: choose "
            "another name, such as 'class_images'"
        )
    return folder, f"input/{name}"
