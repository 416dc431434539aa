"""The averaged LoRA as a file of its own: under a free name, with where it comes from in its metadata.

The new words of its sources are in the file itself: it has no embedding file of its own.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from .atomic_file import free_name
from .embedding_file import EMBEDDING_KEY, WORDS_KEY, WordVectors, bundle_words, metadata_of_words
from .joined_words import join_words
from .lora_average import average_loras
from .lora_file import LoRAFile, rounded, write_tensors
from .metadata import FINGERPRINT_KEY, SETTINGS_KEY, content_hashes
from .run_name import check_run_name, file_within
from .safetensors_header import read_header

HASH_KEY = "sshs_model_hash"
# what is true of one run only, and would be read as if this file were that run's
_OF_ONE_RUN = (
    *(FINGERPRINT_KEY, SETTINGS_KEY, WORDS_KEY, EMBEDDING_KEY, "workflow", "prompt"),
    *("ss_steps", "ss_epoch", "ss_session_id"),
)


def _nowhere(_stem: str) -> None:
    """There is no folder of embeddings."""


def write_average(
    folder: Path,
    name: str,
    files: Mapping[str, LoRAFile],
    weights: Sequence[float],
    find: Callable[[str], Path | None] = _nowhere,
) -> tuple[Path, bool]:
    """Average LoRAs into `<name>.safetensors`, or `<name>-2` and so on where that is taken.

    A file that holds the very same average already is given out instead of written again.

    Args:
        folder: of the LoRA files.
        name: plain file name without ending.
        files: file name -> LoRA; the metadata of the last one is kept, as far as it is true of the average.
        weights: one for each file.
        find: name of an embedding file without ending -> its place, for words that no file carries itself.

    Returns:
        The file, and whether it was written now.

    Raises:
        InputError: a bad name, weights that do not fit, or LoRAs or words that have no average.
        OSError: no room or no permission.
    """
    name = check_run_name(name)
    layers = rounded(average_loras(list(files.values()), weights), "fp16")
    words = join_words((x for x, weight in zip(files.items(), weights, strict=True) if weight), find)
    metadata = _metadata(name, files, weights)
    # the hash is of the numbers, whatever they are called
    former = _former(folder, name, content_hashes(_with_words(layers, name, words), metadata)[HASH_KEY])
    if former is not None:
        return former, False
    name = free_name(folder, name)
    path = file_within(folder, f"{name}.safetensors")
    tensors = _with_words(layers, name, words)
    metadata |= {"ss_output_name": name, "modelspec.title": name}
    metadata |= metadata_of_words(_stem(name), words) if words else {}
    write_tensors(path, tensors, {**metadata, **content_hashes(tensors, metadata)})
    return path, True


def _stem(name: str) -> str:
    return f"{name}_emb"


def _with_words(layers: Mapping[str, Tensor], name: str, words: WordVectors | None) -> dict[str, Tensor]:
    return {**layers, **(bundle_words(_stem(name), words) if words else {})}


def _metadata(name: str, files: Mapping[str, LoRAFile], weights: Sequence[float]) -> dict[str, str]:
    last = list(files.values())[-1].metadata
    kept = {key: value for key, value in last.items() if key not in _OF_ONE_RUN}
    sources = ", ".join(f"{file} x {weight:g}" for file, weight in zip(files, weights, strict=True))
    rank = str(sum(max(file.ranks, default=0) for file in files.values()))
    return {
        **kept,
        "ss_output_name": name,
        "modelspec.title": name,
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_training_comment": f"average of {sources}",
    }


def _former(folder: Path, name: str, digest: str) -> Path | None:
    """A file of that name, numbered or not, with the same tensors."""
    numbered = re.compile(rf"{re.escape(name)}(-\d+)?\.safetensors")
    for path in sorted(folder.iterdir()):
        if numbered.fullmatch(path.name) and read_header(path).metadata.get(HASH_KEY) == digest:
            return path
    return None
