"""The vectors of new tokens as files: `<name>_emb.safetensors`, and the same inside a LoRA file.

A file among a program's embeddings holds `clip_l` (n, 768) and `clip_g` (n, 1280): ComfyUI reads it as
`embedding:<name>_emb`, A1111 by its name, diffusers with `load_textual_inversion`. With several words there
is one file with the vectors of all of them, in their order, and one for each. A LoRA file says in its
metadata which words its run trained and which file holds them; it may carry them itself (`bundle.py`).
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import InputError
from ..settings.text_config import ENCODERS
from ..text.new_tokens import NewTokens, own_stem, word_stem
from .bundle import BUNDLE_PREFIX, bundle_keys, plain_copy, vectors_problem
from .lora_file import LoRAFile, write_tensors
from .metadata import content_hashes
from .run_name import file_within
from .safetensors_file import read_safetensors

__all__ = [
    "BUNDLE_PREFIX",
    "EMBEDDING_KEY",
    "WORDS_KEY",
    "WordVectors",
    "bundle",
    "bundle_words",
    "check_embedding_name",
    "embedding_files",
    "metadata_of_words",
    "read_words",
    "word_metadata",
    "write_embeddings",
]

WORDS_KEY = "sdxl_trainer_words"
"""Metadata: JSON list of [word, first row, number of rows]."""
EMBEDDING_KEY = "sdxl_trainer_embedding"
"""Metadata: name of the file that holds the rows of all words, without ending."""

_ARCHITECTURE = "modelspec.architecture"
_LAST_ROW = 10_000


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Words as they are written in prompts -> "clip_l" (n, 768) and "clip_g" (n, 1280)."""

    vectors: Mapping[str, Mapping[str, Tensor]]

    @classmethod
    def split(cls, vectors: Mapping[str, Tensor], new_tokens: NewTokens) -> "WordVectors":
        """Of the rows of all words, (n, width) for each encoder: each word its own, float32 on the CPU."""
        found = {}
        for word in new_tokens.names:
            rows = new_tokens.rows(word)
            found[word] = {key: plain_copy(vectors[key][rows.start : rows.stop]) for key in ENCODERS}
        return cls(found)


def check_embedding_name(name: str) -> None:
    """Refuse what a prompt cannot hold after `embedding:`, which is cut at spaces, commas and parentheses.

    Raises:
        InputError: anything but the letters A-Z, digits, - and _.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(
            f"name is {name!a}, but a run with new tokens also writes an embedding, which prompts name as "
            "embedding:<name>_emb: use only the letters A to Z, digits, - and _, such as 'my_cat'"
        )


def embedding_files(
    stem: str, vectors: Mapping[str, Tensor], new_tokens: NewTokens
) -> dict[str, dict[str, Tensor]]:
    """What is to be written: file name without ending -> tensors; all words together first.

    Args:
        stem: such as `cat_emb`.
        vectors: "clip_l" (n, 768) and "clip_g" (n, 1280), the rows of all words in their order.
        new_tokens: the words.
    """
    files = {stem: {encoder: plain_copy(vectors[encoder]) for encoder in ENCODERS}}
    if len(new_tokens.words) > 1:
        words = WordVectors.split(vectors, new_tokens).vectors
        files |= {word_stem(stem, word): dict(own) for word, own in words.items()}
    return files


def bundle(stem: str, vectors: Mapping[str, Tensor], new_tokens: NewTokens) -> dict[str, Tensor]:
    """The keys for a LoRA file: of `stem`, or of each word's own embedding where there are several."""
    return bundle_words(stem, WordVectors.split(vectors, new_tokens))


def bundle_words(stem: str, words: WordVectors) -> dict[str, Tensor]:
    """As `bundle`, of vectors that are split already."""
    keys = {}
    for word, vectors in words.vectors.items():
        keys |= bundle_keys(own_stem(stem, word, len(words.vectors)), vectors)
    return keys


def word_metadata(stem: str, new_tokens: NewTokens) -> dict[str, str]:
    """What a LoRA file or the file of all words says of them."""
    return _word_metadata(stem, dict(new_tokens.words))


def metadata_of_words(stem: str, words: WordVectors) -> dict[str, str]:
    """As `word_metadata`, of vectors."""
    return _word_metadata(stem, {word: len(own["clip_l"]) for word, own in words.vectors.items()})


def _word_metadata(stem: str, counts: Mapping[str, int]) -> dict[str, str]:
    rows, first = [], 0
    for word, count in counts.items():
        rows.append([word, first, count])
        first += count
    return {WORDS_KEY: json.dumps(rows), EMBEDDING_KEY: stem}


def write_embeddings(
    folder: Path,
    stem: str,
    vectors: Mapping[str, Tensor],
    new_tokens: NewTokens,
    metadata: Mapping[str, str],
) -> list[Path]:
    """Write the file of all words and, where there are several, one for each; each whole or not at all.

    Args:
        folder: of the embeddings; it must exist.
        stem: such as `cat_emb`.
        vectors: as `embedding_files` takes them.
        new_tokens: the words.
        metadata: of the run's LoRA file; what is said of the words is added here.

    Raises:
        InputError: numbers that are not finite.
        OSError: no room or no permission; former files of these names are still there or whole new ones.
    """
    paths = []
    words = {word_stem(stem, word): {word: count} for word, count in new_tokens.words}
    words[stem] = dict(new_tokens.words)
    kept = dict(metadata)
    if _ARCHITECTURE in kept:
        kept[_ARCHITECTURE] = kept[_ARCHITECTURE].replace("/lora", "/textual-inversion")
    files = embedding_files(stem, vectors, new_tokens)
    problem = vectors_problem(files[stem])
    if problem:
        raise InputError(f"the embedding {stem} {problem}: it is not written")
    for name, tensors in files.items():
        path = file_within(folder, f"{name}.safetensors")
        own = kept | _word_metadata(name, words[name])
        write_tensors(path, tensors, own | content_hashes(tensors, own))
        paths.append(path)
    return paths


def read_words(lora: LoRAFile, find: Callable[[str], Path | None]) -> WordVectors | None:
    """The words that a LoRA was trained with, and their vectors.

    From the LoRA file itself where it carries them, else from its embedding file. A file of another trainer
    that carries embeddings has no list of words: there each embedding's name is the word.

    Args:
        lora: what `read_lora` gives.
        find: name of an embedding file without ending -> its place, or None.

    Returns:
        None for a LoRA without words.

    Raises:
        InputError: its words are neither in it nor in a file, or their vectors are damaged or not the LoRA's.
    """
    bundled = lora.embeddings
    if WORDS_KEY not in lora.metadata:
        return WordVectors(bundled) if bundled else None
    rows, stem = _listed_words(lora.metadata), lora.metadata.get(EMBEDDING_KEY, "")
    names = {word: own_stem(stem, word, len(rows)) for word, _, _ in rows}
    if bundled:
        return WordVectors({word: _bundled_rows(bundled, names[word], word, n) for word, _, n in rows})
    path = find(stem) if stem else None
    if path is None:
        raise InputError(
            f"the LoRA was trained with the new {_named(names)}, whose vectors are in the file "
            f"{stem}.safetensors, which is not among the embeddings: put it there (ComfyUI: "
            "models/embeddings), or use a LoRA with the embedding in it"
        )
    vectors = _read_embedding(path, sum(count for _, _, count in rows))
    return WordVectors(
        {word: {key: vectors[key][first : first + n] for key in ENCODERS} for word, first, n in rows}
    )


def _named(words: Mapping[str, object]) -> str:
    return f"{'word' if len(words) == 1 else 'words'} {', '.join(words)}"


def _listed_words(metadata: Mapping[str, str]) -> list[tuple[str, int, int]]:
    """Word, first row and number of rows, in the order of the rows and without gaps."""
    problem = InputError(
        f"the LoRA's list of words is damaged ({metadata[WORDS_KEY]:.80}): download or copy the file again"
    )
    try:
        entries = json.loads(metadata[WORDS_KEY])
    except (ValueError, RecursionError) as error:
        raise problem from error
    found, end = [], 0
    for entry in entries if isinstance(entries, list) else [None]:
        match entry:
            case [str(word), int(first), int(count)] if word.strip() and first == end and count > 0:
                found.append((word, first, count))
                end += count
            case _:
                raise problem
    if not found or end > _LAST_ROW or len({word.lower() for word, _, _ in found}) != len(found):
        raise problem
    return found


def _bundled_rows(
    bundled: Mapping[str, Mapping[str, Tensor]], name: str, word: str, num_rows: int
) -> Mapping[str, Tensor]:
    vectors = bundled.get(name)
    if vectors is None or len(vectors["clip_l"]) != num_rows:
        there = "has none" if vectors is None else f"has {len(vectors['clip_l'])}"
        raise InputError(
            f"the LoRA's word {word} stands for {num_rows} tokens, but its embedding '{name}' {there}: "
            "download or copy the file again"
        )
    return vectors


def _read_embedding(path: Path, num_rows: int) -> Mapping[str, Tensor]:
    vectors, _ = read_safetensors(path)
    problem = vectors_problem(vectors)
    if problem:
        raise InputError(f"{path.name} {problem}")
    if len(vectors["clip_l"]) != num_rows:
        raise InputError(
            f"{path.name} holds {len(vectors['clip_l'])} tokens, but the LoRA was trained with {num_rows}: "
            "it is of another run"
        )
    return vectors
