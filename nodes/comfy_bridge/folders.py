"""ComfyUI's folders: where data sets may lie, where LoRA files go, and no way out of them.

A dataset is named by its root and its place in it: `input/cats` or `datasets/cats`. A folder registered as
`datasets` that holds pictures itself is `datasets (its name)`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ...trainer.errors import InputError

INPUT, DATASETS = "input", "datasets"
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic")
MAX_DEPTH = 4  # folders below a root that are listed
MAX_FOLDERS = 500  # choices that a menu can still show
NO_FOLDER = "(put pictures into a folder under input/)"


def dataset_roots() -> list[tuple[str, Path]]:
    """(name, folder) of each root: input/, and whatever ComfyUI or the user registered as `datasets`."""
    registered = folder_paths.folder_names_and_paths.get(DATASETS, ([], set()))[0]
    roots = [(INPUT, Path(folder_paths.get_input_directory()))]
    roots += [(DATASETS, Path(folder)) for folder in registered]
    return [(name, folder.resolve()) for name, folder in roots if folder.is_dir()]


def whole_roots() -> dict[str, Path]:
    """The name of each registered folder that may be a dataset itself; ComfyUI's input folder never is."""
    kept = Path(folder_paths.get_input_directory()).resolve()
    names: dict[str, Path] = {}
    for root_name, root in dataset_roots():
        if root_name == INPUT or root in names.values() or kept.is_relative_to(root):
            continue
        name, number = f"{root_name} ({root.name})", 1
        while name in names:
            number += 1
            name = f"{root_name} ({root.name} {number})"
        names[name] = root
    return names


def dataset_choices() -> list[str]:
    """Names of all folders below the roots that hold pictures, themselves or deeper.

    Registered roots are among them where pictures lie directly in them.
    """
    names: dict[str, None] = {}
    for name, root in whole_roots().items():
        _, _, files = next(os.walk(root), ("", [], []))  # nothing where it may not be listed
        if any(map(_is_picture, files)):
            names[name] = None
    for root_name, root in dataset_roots():
        for folder in _folders_with_pictures(root):
            names[f"{root_name}/{folder.relative_to(root).as_posix()}"] = None
            if len(names) >= MAX_FOLDERS:
                break
    return sorted(names) or [NO_FOLDER]


def _folders_with_pictures(root: Path) -> Iterator[Path]:
    """Folders below `root` with a picture in them or below them; symlinked folders are not followed."""
    found: set[Path] = set()
    for folder, subfolders, files in os.walk(root):
        place = Path(folder)
        depth = len(place.relative_to(root).parts)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith((".", "__MACOSX")))
        if depth >= MAX_DEPTH:
            subfolders.clear()
        if not any(map(_is_picture, files)):
            continue
        while place not in found and place != root:
            found.add(place)
            yield place
            place = place.parent


def _is_picture(file: str) -> bool:
    return file.lower().endswith(PICTURE_SUFFIXES) and not file.startswith(".")


def dataset_folder(name: str) -> Path:
    """The folder that a choice of `dataset_choices` names.

    Raises:
        InputError: no such folder, or one outside the roots.
    """
    if whole := whole_roots().get(name):
        return whole
    root_name, _, inside = name.partition("/")
    for registered, root in dataset_roots():
        folder = (root / inside).resolve()
        if registered != root_name or not inside or not folder.is_relative_to(root) or folder == root:
            continue
        if folder.is_dir():
            return folder
    raise InputError(
        f"folder '{name}' was not found: choose a folder of pictures under ComfyUI's input folder or under a "
        "folder that extra_model_paths.yaml names as 'datasets', and press R to refresh the list"
    )


def loras_folder() -> Path:
    """The first folder for LoRA files that can be written.

    Raises:
        InputError: none can.
    """
    return _writable_folder("loras")


def embeddings_folder() -> Path:
    """The first folder for embeddings that can be written.

    Raises:
        InputError: none can.
    """
    return _writable_folder("embeddings")


def _writable_folder(kind: str) -> Path:
    """The first folder that ComfyUI registers for files of this kind and that can be written; made now."""
    for folder in folder_paths.get_folder_paths(kind):
        existing = Path(folder)
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if existing.is_dir() and os.access(existing, os.W_OK):
            Path(folder).mkdir(parents=True, exist_ok=True)
            return Path(folder)
    raise InputError(f"no {kind} folder can be written: make models/{kind} writable")


def run_folder() -> Path:
    """Parent of all runs' folders."""
    return Path(folder_paths.get_output_directory()) / "sdxl_trainer"


def known_folders() -> list[Path]:
    """Those that a sentence about a run may well name: for LoRA files, runs, input and output."""
    named = [*folder_paths.get_folder_paths("loras"), folder_paths.get_input_directory()]
    return [*map(Path, named), run_folder(), Path(folder_paths.get_output_directory())]


def lora_choices() -> list[str]:
    return folder_paths.get_filename_list("loras")


def lora_file(name: str) -> Path:
    """The LoRA file called `name` in one of ComfyUI's loras folders.

    Raises:
        InputError: there is none.
    """
    path = folder_paths.get_full_path("loras", name)
    if path is None or not path.endswith(".safetensors"):
        raise InputError(
            f"LoRA file '{name}' was not found: choose a .safetensors file of ComfyUI's loras folder"
        )
    return Path(path)


def lora_name(path: Path) -> str:
    """The name under which ComfyUI's own loader lists the file."""
    for folder in folder_paths.get_folder_paths("loras"):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return path.name


def embedding_file(stem: str) -> Path | None:
    """The file that `embedding:<stem>` names in a prompt: in an embeddings folder, or in a folder of one.

    `stem` may come from the metadata of any file: one that is no plain name names nothing.
    """
    name = f"{stem}.safetensors"
    if Path(name).name != name:
        return None
    places = [name, *(n for n in folder_paths.get_filename_list("embeddings") if Path(n).name == name)]
    for place in places:
        path = folder_paths.get_full_path("embeddings", place)
        if path is not None:
            return Path(path)
    return None
