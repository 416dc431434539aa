"""The pictures of a comparison: one after the other on clones of one MODEL, the base as it was at the end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from torch import Tensor

from ...trainer.config import PreviewConfig
from .lora_patches import apply_lora, check_keys
from .new_words import clip_with_words
from .preview import EncodedPrompts, decode_latents, encode_prompts, sample_latents

if TYPE_CHECKING:
    from .lora_words import LoRAWords

BASE_TITLE = "without LoRA"


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture: column `title`, the file and strength it is drawn with (no file: the base)."""

    title: str
    path: Path | None
    strength: float
    prompt_index: int
    prompt: str

    @property
    def drawing(self) -> tuple[Path | None, float, int]:
        """What decides how the picture looks; several cells may show the same."""
        return self.path, self.strength, self.prompt_index


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a sheet shows: a row for each prompt and strength, a column for each checkpoint.

    `files`: column title -> file. `words`: file -> what prompts know in its column, where it was trained with
    words. Where 0 is among the strengths, the model without LoRA is the first column; it is drawn once for
    each prompt.
    """

    name: str
    files: Mapping[str, Path]
    strengths: Sequence[float]
    prompts: Sequence[str]
    preview: PreviewConfig
    words: "Mapping[Path, LoRAWords]"
    cells: Sequence[Cell] = field(init=False)
    """Row by row."""

    def __post_init__(self) -> None:
        cells = []
        for index, prompt in enumerate(self.prompts):
            for strength in self.row_strengths:
                if self.has_base:
                    cells.append(Cell(BASE_TITLE, None, 0.0, index, prompt))
                if strength:
                    cells += [Cell(t, path, strength, index, prompt) for t, path in self.files.items()]
        object.__setattr__(self, "cells", cells)

    @property
    def has_base(self) -> bool:
        return 0 in self.strengths

    @property
    def row_strengths(self) -> list[float]:
        return [strength for strength in self.strengths if strength] or [0.0]

    @property
    def column_titles(self) -> list[str]:
        checkpoints = list(self.files) if any(self.strengths) else []
        return [BASE_TITLE] * self.has_base + checkpoints

    @property
    def row_titles(self) -> list[str]:
        names = [f"strength {strength:g}" if strength else "" for strength in self.row_strengths]
        return names * len(self.prompts)


def draw_comparison(
    model: Any, clip: Any, vae: Any, comparison: Comparison, progress: Callable[[int, int], None]
) -> Tensor:
    """IMAGE batch of all cells, row by row.

    The model's weights are patched and unpatched in turn, as ComfyUI does it; there is no second model. At
    the end, also after an error or Cancel, the wired MODEL is put back.

    Args:
        model: MODEL as wired.
        clip: CLIP as wired.
        vae: VAE as wired.
        comparison: what to draw.
        progress: hears how many pictures are sampled, of how many; what it raises ends the comparison.

    Raises:
        InputError: a file that is no LoRA for this model.
    """
    size = comparison.preview.width, comparison.preview.height
    drawings = list(dict.fromkeys(cell.drawing for cell in comparison.cells))
    patches = list(dict.fromkeys((path, strength) for path, strength, _ in drawings))
    plain = encode_prompts(clip, comparison.prompts, comparison.preview.negative)
    latents: dict[tuple[Path | None, float, int], Tensor] = {}
    try:
        for path, strength in patches:  # each is put onto the weights once
            patched, encoded = _patched(model, clip, path, strength, comparison, plain)
            for drawing in drawings:
                if drawing[:2] == (path, strength):
                    progress(len(latents), len(drawings))
                    latents[drawing] = sample_latents(patched, encoded, drawing[2], comparison.preview, size)
            del patched
        progress(len(latents), len(drawings))
    finally:
        # the last clone's patches come off the shared weights
        comfy.model_management.load_models_gpu([model])
    images = {}
    for drawing, latent in latents.items():
        comfy.model_management.throw_exception_if_processing_interrupted()
        images[drawing] = decode_latents(vae, latent)
    return torch.cat([images[cell.drawing] for cell in comparison.cells])


def _patched(
    model: Any,
    clip: Any,
    path: Path | None,
    strength: float,
    comparison: Comparison,
    plain: EncodedPrompts,
) -> tuple[Any, EncodedPrompts]:
    """MODEL with one file at one strength, and the prompts, encoded anew where CLIP reads them otherwise."""
    from ...trainer.files.safetensors_file import read_safetensors

    if path is None:
        return model, plain
    tensors, _ = read_safetensors(path)
    count = check_keys(model, clip, tensors, path.name)
    patched, patched_clip = apply_lora(model, clip, tensors, strength, strength)
    words = comparison.words.get(path)
    if words is not None:
        patched_clip = clip_with_words(patched_clip, words.vectors)
    elif not count.clip:
        return patched, plain
    return patched, encode_prompts(patched_clip, comparison.prompts, comparison.preview.negative)
