"""Weights on disk: several safetensors files as one table of tensors, and modules filled from it."""

import hashlib
import mmap
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import InputError
from ..files.safetensors_header import Entry, Header, read_header
from .model_detection import name_a_few
from .original_layout import FUSED, Place

SAMPLES_PER_TENSOR = 16
SAMPLE_BYTES = 8

Locate = Callable[[str], Place]
"""Name of a weight in the module -> where it stands in the files."""


class WeightFiles:
    """The tensors of one or several safetensors files, read only when asked for.

    Raises:
        InputError: a file that is missing, damaged or truncated.
    """

    def __init__(self, paths: Sequence[Path], headers: Sequence[Header] = ()) -> None:
        self.entries: dict[str, Entry] = {}
        self._home: dict[str, Path] = {}
        for path, header in zip(paths, headers or [read_header(p) for p in paths], strict=True):
            self.entries.update(header.entries)
            self._home.update(dict.fromkeys(header.entries, path))

    def check(self, module: nn.Module, locate: Locate, title: str) -> None:
        """Raise an InputError unless every weight of `module` stands in the files, in its size."""
        wrong = []
        for name, weight in module.state_dict().items():
            place = locate(name)
            entry = self.entries.get(place.name)
            thirds = 1 if place.third is None else len(FUSED)
            if entry is None or entry.num_elements != weight.numel() * thirds:
                wrong.append(place.name)
        if wrong:
            raise InputError(
                f"{title} lacks {len(wrong)} weights that SDXL has, or has them in another size "
                f"({name_a_few(wrong)}): it is another or an incomplete model; use a whole SDXL checkpoint"
            )

    def fill(self, module: nn.Module, locate: Locate, device: torch.device, dtype: torch.dtype) -> None:
        """Give every weight of `module`, made on the meta device, its values; frozen, for evaluation."""
        wanted = {name: (locate(name), weight.shape) for name, weight in module.state_dict().items()}
        by_file: dict[Path, list[str]] = {}
        for name, (place, _) in wanted.items():
            by_file.setdefault(self._home[place.name], []).append(name)
        weights = {}
        for path, names in by_file.items():
            with safe_open(path, framework="pt") as file:
                for name in names:
                    place, shape = wanted[name]
                    tensor = _take(file.get_tensor(place.name), place)
                    weights[name] = tensor.reshape(shape).to(device=device, dtype=dtype)
        module.load_state_dict(weights, assign=True, strict=True)
        _make_position_ids(module, device)
        module.eval().requires_grad_(False)

    def fingerprint(self, of: Collection[str] | None = None) -> str:
        """Hash over names, types, shapes and evenly spaced bytes of every tensor, in about a second.

        Args:
            of: these tensors alone; None = all.
        """
        digest = hashlib.sha256()
        wanted = self._home if of is None else set(of)
        for path in sorted(set(self._home.values())):
            names = sorted(name for name, home in self._home.items() if home == path and name in wanted)
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
                for name in names:
                    entry = self.entries[name]
                    digest.update(f"{name} {entry.dtype} {entry.shape}\n".encode())
                    stride = max(SAMPLE_BYTES, (entry.stop - entry.start) // SAMPLES_PER_TENSOR)
                    for start in range(entry.start, entry.stop, stride):
                        digest.update(raw[start : min(start + SAMPLE_BYTES, entry.stop)])
        return digest.hexdigest()


def _take(tensor: Tensor, place: Place) -> Tensor:
    if place.third is not None:
        tensor = tensor.chunk(len(FUSED))[place.third]
    return tensor.T.contiguous() if place.transposed else tensor


def _make_position_ids(module: nn.Module, device: torch.device) -> None:
    """CLIP's positions 0..76, which are in no file and stay behind on the meta device."""
    for name, buffer in list(module.named_buffers()):
        if buffer.is_meta:
            home, _, attribute = name.rpartition(".")
            positions = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
            setattr(module.get_submodule(home), attribute, positions)
