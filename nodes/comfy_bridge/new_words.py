"""Words that a CLIP reads as trained vectors, as ComfyUI reads `embedding:name`, but without a file.

SDTokenizer (comfy/sd1_clip.py) puts the rows of an embedding between the token ids where a prompt names it.
Here the same code meets the name of vectors in memory: a word of the prompt is rewritten into such a name
before the prompt is parsed, so weights, windows and encoding are those of `embedding:`.
"""

import copy
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...trainer.errors import InputError
from ...trainer.settings.text_config import ENCODERS
from ...trainer.text.new_tokens import whole_words

if TYPE_CHECKING:
    from ...trainer.files.embedding_file import WordVectors

# not a number, whatever follows it: in "(a embedding:1.5)" ComfyUI would take it for a weight
PRIVATE_NAME = "sdxl_trainer_word_{}"
# an embedding that the prompt names itself; a word within its name is part of the name
NAMED_EMBEDDING = r"(?-i:embedding:[^\s,():]*)"


class WordReader:
    """Goes before a tokenizer class of ComfyUI's: SDTokenizer that also knows words.

    It is given to shallow copies of tokenizers, so it has no `__init__`; `learn` comes first.
    """

    words: Mapping[str, Tensor]
    """Word, longest first -> vectors (tokens, width)."""

    def learn(self, words: Mapping[str, Tensor]) -> None:
        """Know these words, and no longer those known before."""
        # "TOK" must not be read in "TOK-2" where both are words
        self.words = dict(sorted(words.items(), key=lambda item: -len(item[0])))
        self._vectors = {PRIVATE_NAME.format(index): rows for index, rows in enumerate(self.words.values())}
        self._pattern = re.compile(f"{NAMED_EMBEDDING}|{whole_words(self.words)}", re.IGNORECASE)

    def tokenize_with_weights(self, text: str, *args: Any, **kwargs: Any) -> Any:
        return super().tokenize_with_weights(self._pattern.sub(_name_vectors, text), *args, **kwargs)

    def _try_get_embedding(self, embedding_name: str) -> tuple[Any, ...]:
        """ComfyUI's look-up of a name with the text behind it: (vectors or None, ..., left over text)."""
        found = super()._try_get_embedding(embedding_name)
        return (self._vectors.get(embedding_name.split()[0], found[0]), *found[1:])


def _name_vectors(match: re.Match[str]) -> str:
    if match.lastindex is None:
        return match.group()
    return f" embedding:{PRIVATE_NAME.format(match.lastindex - 1)} "


def clip_with_words(clip: Any, words: "WordVectors") -> Any:
    """A clone of CLIP that reads each word as its vectors; no other clone does.

    A word counts where it stands alone, in capitals or not: "TOK", "(tok:1.2)", "TOK's", but not "TOKEN".
    Words that the CLIP knows already stay known; of two of the same name the later one is read.

    Args:
        clip: CLIP of an SDXL checkpoint, with whatever patches and words it carries.
        words: of one LoRA.

    Raises:
        InputError: the CLIP is no SDXL pair, or of other widths than the vectors; or another pack reads its
            prompts.
    """
    _check_widths(clip, words)
    taught = clip.clone()
    taught.tokenizer = copy.copy(clip.tokenizer)
    for encoder in ENCODERS:
        vectors = {word: parts[encoder] for word, parts in words.vectors.items()}
        reader = _reader(getattr(clip.tokenizer, encoder), vectors)
        _require_read(reader, next(iter(vectors)))
        setattr(taught.tokenizer, encoder, reader)
    return taught


def known_words(clip: Any) -> dict[str, list[Tensor]]:
    """The words that a CLIP was taught, in small letters -> the vectors (tokens, width) of each encoder."""
    found: dict[str, list[Tensor]] = {}
    for encoder in ENCODERS:
        tokenizer = getattr(clip.tokenizer, encoder, None)
        for word, rows in tokenizer.words.items() if isinstance(tokenizer, WordReader) else ():
            found.setdefault(word.lower(), []).append(rows)
    return found


def require_no_words(clip: Any) -> None:
    """Refuse a CLIP whose words would be plain text to the trainer's own tokenizer.

    Raises:
        InputError: it knows a word.
    """
    words = sorted(known_words(clip))
    if words:
        noun, they = ("word", "it") if len(words) == 1 else ("words", "they")
        raise InputError(
            f"clip knows the {noun} {', '.join(words)} from a LoRA in front, but while text encoders or new "
            f"tokens train {they} would be read as plain text: wire the checkpoint's own CLIP"
        )


def _check_widths(clip: Any, words: "WordVectors") -> None:
    for encoder in ENCODERS:
        model = getattr(clip.cond_stage_model, encoder, None)
        if model is None or not hasattr(clip.tokenizer, encoder):
            raise InputError(
                f"the LoRA has words for SDXL's pair of text encoders, but clip has no {encoder}: "
                "wire the CLIP of an SDXL checkpoint"
            )
        wanted = model.transformer.get_input_embeddings().weight.shape[1]
        for word, parts in words.vectors.items():
            width = parts[encoder].shape[1]
            if width != wanted:
                raise InputError(
                    f"the vectors of '{word}' for {encoder} are {width} wide, but clip's are {wanted}: "
                    "wire the CLIP of an SDXL checkpoint, as the LoRA was trained with"
                )


def _reader(tokenizer: Any, words: Mapping[str, Tensor]) -> Any:
    """A copy of one encoder's tokenizer that knows the words, beside those known before."""
    reader = copy.copy(tokenizer)
    if not isinstance(tokenizer, WordReader):
        kind = type(tokenizer)
        reader.__class__ = type(kind.__name__, (WordReader, kind), {})
    if reader.embedding_directory is None:
        reader.embedding_directory = []  # without any, ComfyUI reads `embedding:` as plain text
    known, taken = getattr(tokenizer, "words", {}), {word.lower() for word in words}
    reader.learn({**{word: rows for word, rows in known.items() if word.lower() not in taken}, **words})
    return reader


def _require_read(reader: WordReader, word: str) -> None:
    """Refuse a tokenizer whose copy reads as before, as where a pack has bound a method to the instance.

    Raises:
        InputError: no vector stands where the word is.
    """
    windows = reader.tokenize_with_weights(word)
    if not any(torch.is_tensor(token) for window in windows for token, *_ in window):
        raise InputError(
            f"clip does not read the word {word}, though it was taught: another pack of nodes has replaced "
            "how its prompts are read; switch that pack off"
        )
