"""Which layers of a text encoder get an update: the six matrices of each layer, as kohya's networks do."""

import re
from collections.abc import Iterable

from torch import nn

from ..files.text_lora_names import TextEncoderName, text_path
from .adapter_layers import can_be_trained

_INDEX = re.compile(r"\.layers\.(\d+)\.")


def choose_text_layers(encoder: nn.Module, name: TextEncoderName) -> dict[str, nn.Module]:
    """Path (`text_lora_names.py`) -> module, in the order of the encoder's modules: 72 and 192 of SDXL's.

    Raises:
        ValueError: no text encoder of CLIP's, or a layer this code cannot train beside.
    """
    found = {text_path(name, path): module for path, module in encoder.named_modules()}
    found.pop("", None)
    if not found:
        raise ValueError(f"{name} is a {type(encoder).__name__} without the layers of a CLIP text encoder")
    for path, module in found.items():
        if not can_be_trained(module):
            raise ValueError(f"{path} is a {type(module).__name__}, no plain layer")
    return found


def idle_text_layers(paths: Iterable[str], name: TextEncoderName, layer: int) -> frozenset[str]:
    """The layers that nothing SDXL is given depends on.

    CLIP-L gives its hidden state `layer` alone: with -2, as SDXL, its last layer is computed for nothing.
    CLIP-G's pooled vector comes from its last layer, so all of it learns.

    Args:
        paths: of all layers of the encoder.
        name: which encoder.
        layer: -1 for the last hidden state, -2 for the one before it.
    """
    if name == "clip_g":
        return frozenset()
    indices = {path: int(_INDEX.findall(path)[0]) for path in paths}
    num_used = max(indices.values(), default=0) + 2 + layer
    return frozenset(path for path, index in indices.items() if index >= num_used)
