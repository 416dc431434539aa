"""The files that a run gives to the world: the LoRA, the embeddings of new words, a diffusers copy."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..adapter.lora import Adapter
from ..errors import InputError
from ..files.embedding_file import bundle, embedding_files, word_metadata, write_embeddings
from ..files.lora_file import read_lora, write_diffusers_lora, write_lora
from ..files.lora_layout import to_kohya
from ..files.safetensors_file import read_safetensors
from ..text.new_tokens import NewTokens
from ..training import Training
from .run_folder import RunFiles


@dataclass(frozen=True, eq=False)
class Shown:
    """The weights of a run as they are shown: `layers` by adapter name and part, `vectors` by encoder."""

    layers: Mapping[str, Tensor]
    vectors: Mapping[str, Tensor]
    new_tokens: NewTokens | None

    @classmethod
    def of(cls, training: Training) -> "Shown":
        """float32 copies on the CPU, averaged where a mean is kept."""
        layers: dict[str, Tensor] = {}
        vectors: dict[str, Tensor] = {}
        with training.evaluation():
            for part in training.parts:
                target = layers if isinstance(part.learner, Adapter) else vectors
                target |= part.learner.state_dict()
        return cls(layers, vectors, None if training.text is None else training.text.new_tokens)

    def bundled(self, training: Training, stem: str) -> dict[str, Tensor]:
        """What of the words goes into the LoRA file itself: all, if asked, or if there is nothing else."""
        if self.new_tokens is None or not (training.config.pivotal.bundle or not self.layers):
            return {}
        return bundle(stem, self.vectors, self.new_tokens)


def write_result(files: RunFiles, training: Training, metadata: Mapping[str, str], is_final: bool) -> Path:
    """Write all files of the present step; returns the LoRA, which comes last but for the diffusers copy.

    Args:
        files: where to.
        training: between two steps.
        metadata: of the run at this step.
        is_final: whether they get the run's own name, and the copy is made.

    Raises:
        OSError: no room or no permission.
        InputError: a weight is not finite.
    """
    shown = Shown.of(training)
    path = files.lora if is_final else files.kept_lora(training.step)
    stem, new = f"{path.stem}_emb", []
    if shown.new_tokens is not None:
        there = files.embeddings_beside(path)
        written = write_embeddings(files.words_folder, stem, shown.vectors, shown.new_tokens, metadata)
        new = [embedding for embedding in written if embedding not in there]
        metadata = {**metadata, **word_metadata(stem, shown.new_tokens)}
    try:
        write_lora(
            path,
            shown.layers,
            training.config.lora,
            metadata,
            layers_per_block(training),
            training.config.run.save_precision,
            shown.bundled(training, stem),
        )
    except OSError:
        for embedding in new:  # words of a LoRA that does not exist
            embedding.unlink(missing_ok=True)
        raise
    if is_final and training.config.run.save_diffusers:
        write_diffusers_lora(files.diffusers_lora, read_lora(path), layers_per_block(training))
    return path


def require_same_files(files: RunFiles, training: Training) -> None:
    """What lies on the disk must be what was trained.

    Raises:
        InputError: it is not.
    """
    shown, stem = Shown.of(training), f"{files.name}_emb"
    layers = to_kohya(shown.layers, training.config.lora, layers_per_block(training))
    _require_same(files.lora, read_lora(files.lora).tensors, layers | shown.bundled(training, stem))
    if shown.new_tokens is not None:
        for name, tensors in embedding_files(stem, shown.vectors, shown.new_tokens).items():
            path = files.words_folder / f"{name}.safetensors"
            _require_same(path, read_safetensors(path)[0], tensors)


def _require_same(path: Path, written: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
    same = written.keys() == trained.keys() and all(
        torch.equal(written[name], values.to(written[name].dtype)) for name, values in trained.items()
    )
    if not same:
        raise InputError(
            f"{path.name} does not hold what was written into it: the disk or the memory may be faulty; "
            "run again, the training goes on from its last state"
        )


def layers_per_block(training: Training) -> int:
    """Of the UNet, which decides how its layers are numbered in a file."""
    return int(training.denoiser.unet.config.layers_per_block)
