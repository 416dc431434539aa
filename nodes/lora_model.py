"""A LoRA on a wire: core's LORA_MODEL, a dict of tensors, that also knows its file."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


class TrainedLoRA(dict[str, Tensor]):
    """Key of the file -> tensor; `path` is the file."""

    def __init__(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        super().__init__(tensors)
        self.path = path


def read_tensors(path: Path) -> dict[str, Tensor]:
    from ..trainer.files.lora_file import read_lora

    return dict(read_lora(path).tensors)
