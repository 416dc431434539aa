"""The words that a LoRA was trained with, out of its own file or out of ComfyUI's embeddings folders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...trainer.errors import InputError
from ...trainer.files.bundle import bundle_problem, is_bundled
from ...trainer.files.embedding_file import EMBEDDING_KEY, WordVectors, read_words
from ...trainer.files.lora_file import LoRAFile
from ...trainer.files.metadata import FINGERPRINT_KEY
from ...trainer.files.safetensors_file import read_safetensors
from ...trainer.files.safetensors_header import read_header
from .folders import embedding_file


@dataclass(frozen=True, eq=False, slots=True)
class LoRAWords:
    """Words with their vectors, and where these were found."""

    vectors: WordVectors
    source: str
    """Name of the embedding file; "" = the LoRA's own file."""
    is_other_run: bool
    """Whether that file is not of the run that wrote the LoRA."""

    @property
    def names(self) -> str:
        """Such as "TOK, STY"."""
        return ", ".join(self.vectors.vectors)

    def __str__(self) -> str:
        if not self.source:
            return f"CLIP knows {self.names}, from the LoRA file itself"
        doubt = ", which is of another run than the LoRA" if self.is_other_run else ""
        return f"CLIP knows {self.names}, from {self.source}{doubt}"


def words_of(
    lora: LoRAFile, name: str, find: Callable[[str], Path | None] = embedding_file
) -> LoRAWords | None:
    """The words of a LoRA; None for one without.

    Args:
        lora: its tensors and metadata.
        name: of the LoRA, for errors.
        find: name of an embedding file without ending -> its place, or None.

    Raises:
        InputError: their embedding is in no embeddings folder, or it is damaged or does not fit the LoRA.
    """
    problem = bundle_problem(lora.tensors)
    if problem:
        raise InputError(f"{name} {problem}")
    found: list[Path] = []

    def note_found(stem: str) -> Path | None:
        path = find(stem)
        found.extend([path] if path else [])
        return path

    vectors = read_words(lora, note_found)
    if vectors is None:
        return None
    if not found:
        return LoRAWords(vectors, "", is_other_run=False)
    run = lora.metadata.get(FINGERPRINT_KEY)
    is_other_run = run is not None and read_header(found[0]).metadata.get(FINGERPRINT_KEY) != run
    return LoRAWords(vectors, found[0].name, is_other_run)


def words_of_file(path: Path, find: Callable[[str], Path | None] = embedding_file) -> LoRAWords | None:
    """The words of a LoRA file, without reading its layers where it holds nothing else of interest.

    Raises:
        InputError: as `words_of`; or a damaged file.
    """
    header = read_header(path)
    tensors = read_safetensors(path)[0] if any(map(is_bundled, header.entries)) else {}
    return words_of(LoRAFile(tensors, dict(header.metadata)), path.name, find)


def with_embeddings(files: Sequence[Path]) -> list[Path]:
    """LoRA files, and the embedding files there are that belong to them."""
    stems = [read_header(file).metadata.get(EMBEDDING_KEY) for file in files]
    return [*files, *filter(None, [embedding_file(stem) for stem in stems if stem])]
