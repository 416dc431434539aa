"""A ComfyUI inside this process: its arguments, its folders in a scratch place, and the pack beside it."""

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

from PIL import Image

PACK = Path(__file__).resolve().parents[1]


def boot(comfyui: Path, scratch: Path, *arguments: str) -> None:
    """Make ComfyUI's modules importable, with `arguments` as on its command line.

    Input, output and models folders lie under `scratch`; nothing of the user's is touched.
    """
    sys.path.insert(0, str(comfyui))
    sys.argv = [sys.argv[0], "--base-directory", str(scratch), *arguments]
    import comfy.options

    comfy.options.enable_args_parsing()
    import folder_paths

    for name in ("input", "output", "models/loras"):
        (scratch / name).mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path("loras", str(scratch / "models" / "loras"))


def load_pack() -> ModuleType:
    """Import the pack as ComfyUI does: from its folder, whatever that is called."""
    spec = importlib.util.spec_from_file_location(
        "sdxl_trainer", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{PACK} is no package")
    module = importlib.util.module_from_spec(spec)
    sys.modules["sdxl_trainer"] = module
    spec.loader.exec_module(module)
    return module


def write_pictures(folder: Path, count: int, side: int) -> None:
    """Pictures of noise with captions: what is learned does not matter here."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    for index in range(count):
        picture = Image.frombytes("RGB", (side, side), rng.randbytes(3 * side * side))
        picture.save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"picture number {index} of something", "utf-8")
