r"""Captions as windows of 77 tokens, cut where ComfyUI cuts them.

A caption is literal text: parentheses are no weights and `embedding:` names no file, only `\(` and `\)`
read as plain parentheses, as ComfyUI reads them. Words that stand for new tokens become those tokens'
ids, as if each were written `embedding:x`. ComfyUI (comfy/sd1_clip.py, SDTokenizer) keeps what it calls a
word in one piece if it has fewer than eight tokens. A word to it is one embedding, or a stretch of text of
one weight between embeddings: a literal caption without new tokens is one word, and its windows are cut
after every 75 tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from ..diffusion.conditioning import WINDOW_TOKENS
from ..text.new_tokens import NewTokens

START, END = 49406, 49407
PAD_CLIP_L, PAD_CLIP_G = END, 0
WORDS_PER_WINDOW = WINDOW_TOKENS - 2
LONG_WORD = 8
TOKENIZER_FOLDER = Path(__file__).resolve().parents[2] / "assets" / "tiny_sdxl" / "tokenizer"

Token = tuple[int, float]
"""Its id and its weight, 1 for a plain one."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenWindows:
    """Token ids of one caption.

    `clip_l` and `clip_g` (windows, 77) int64, equal but for their padding; `weights` (windows, 77) float32, 1
    where nothing else is asked for.
    """

    clip_l: Tensor
    clip_g: Tensor
    weights: Tensor


class CaptionTokenizer:
    """CLIP's byte-pair vocabulary, as bundled: SDXL's two text encoders share it.

    Args:
        new_tokens: words that stand for tokens of their own; none = all text is CLIP's.
    """

    def __init__(self, new_tokens: NewTokens | None = None) -> None:
        self._new_tokens = new_tokens or NewTokens(())
        # the length is lifted because windows are cut here; CLIP's own limit would only warn of long captions
        self._tokenizer = CLIPTokenizer.from_pretrained(
            str(TOKENIZER_FOLDER), local_files_only=True, model_max_length=10**9
        )

    def ids(self, text: str) -> list[int]:
        """CLIP's own tokens of a text, without start and end; new tokens are not looked for."""
        return self._tokenizer(text)["input_ids"][1:-1]

    def tokenize(self, caption: str) -> TokenWindows:
        """Windows of start, up to 75 tokens, end, padding; an empty caption is one window."""
        return self.tokenize_weighted([(caption, 1.0)])

    def tokenize_weighted(self, segments: Sequence[tuple[str, float]]) -> TokenWindows:
        """Stretches of text, each with its weight, that follow each other in one prompt."""
        words: list[list[Token]] = []
        for text, weight in segments:
            literal = text.replace("\\)", ")").replace("\\(", "(")
            for piece in self._new_tokens.pieces(literal):
                ids = self.ids(piece) if isinstance(piece, str) else piece
                words.append([(token, weight) for token in ids])
        windows = _cut(words)
        return TokenWindows(
            clip_l=torch.tensor([_wrap([token for token, _ in w], PAD_CLIP_L) for w in windows]),
            clip_g=torch.tensor([_wrap([token for token, _ in w], PAD_CLIP_G) for w in windows]),
            weights=torch.tensor([_wrap([weight for _, weight in w], 1.0, (1.0, 1.0)) for w in windows]),
        )


def _cut(words: Sequence[list[Token]]) -> list[list[Token]]:
    """Windows of up to 75 tokens; words of fewer than eight go to the next window whole."""
    windows: list[list[Token]] = [[]]
    for word in words:
        may_be_cut = len(word) >= LONG_WORD
        rest = word
        while len(rest) > (room := WORDS_PER_WINDOW - len(windows[-1])):
            if may_be_cut:
                windows[-1].extend(rest[:room])
                rest = rest[room:]
            windows.append([])
        windows[-1].extend(rest)
    return windows


def _wrap(piece: list, pad: float, ends: tuple[float, float] = (START, END)) -> list:
    row = [ends[0], *piece, ends[1]]
    return row + [pad] * (WINDOW_TOKENS - len(row))
