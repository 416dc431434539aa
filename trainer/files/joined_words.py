"""The words of several LoRAs together."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from .embedding_file import WordVectors, read_words
from .lora_file import LoRAFile


def join_words(
    files: Iterable[tuple[str, LoRAFile]], find: Callable[[str], Path | None]
) -> WordVectors | None:
    """What every word of every file stands for; None where no file has words.

    Args:
        files: names and LoRAs; a name may come twice.
        find: as `read_words` takes it.

    Raises:
        InputError: two files have other vectors for the same word, or see `read_words`.
    """
    found: dict[str, tuple[str, str, Mapping[str, Tensor]]] = {}
    for name, lora in files:
        words = read_words(lora, find)
        for word, vectors in words.vectors.items() if words else ():
            former_name, _, former = found.setdefault(word.lower(), (name, word, vectors))
            if not _are_same(vectors, former):
                raise InputError(
                    f"averaging: {former_name} and {name} were trained with the same new word {word}, but it "
                    "stands for other vectors in each, which have no mean: average files of one run from "
                    "after its pivot, or LoRAs whose words differ"
                )
    return WordVectors({word: vectors for _, word, vectors in found.values()}) if found else None


def _are_same(vectors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(tensor.float(), others[encoder].float()) for encoder, tensor in vectors.items())
