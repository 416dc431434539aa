"""SDXL Trainer: a ComfyUI node pack. Registers its nodes when ComfyUI is there; otherwise only a package."""

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY"]

# without a package, as a test runner may read this file in a folder with a dash, nothing below can be found
if __package__ and importlib.util.find_spec("comfy_api"):
    from .nodes.extension import SDXLTrainerExtension

    async def comfy_entrypoint() -> "ComfyExtension":
        return SDXLTrainerExtension()

    __all__ += ["comfy_entrypoint"]
