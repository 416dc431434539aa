r"""Captions as windows of 77 tokens, cut where ComfyUI cuts them.

A caption is literal text: parentheses are no weights and `embedding:` names no file, only `\(` and `\)`
read as plain parentheses, as ComfyUI reads them. ComfyUI (comfy/sd1_clip.py, SDTokenizer) keeps words of
fewer than eight tokens in one piece, but a word to it is a stretch of one weight between embeddings: a
literal caption is one word, and windows are cut after every 75 tokens.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from ..diffusion.conditioning import WINDOW_TOKENS

START, END = 49406, 49407
PAD_CLIP_L, PAD_CLIP_G = END, 0
WORDS_PER_WINDOW = WINDOW_TOKENS - 2
TOKENIZER_FOLDER = Path(__file__).resolve().parents[2] / "assets" / "tiny_sdxl" / "tokenizer"


@dataclass(frozen=True, slots=True, eq=False)
class TokenWindows:
    """Token ids of one caption: `clip_l` and `clip_g` (windows, 77) int64, equal but for their padding."""

    clip_l: Tensor
    clip_g: Tensor


class CaptionTokenizer:
    """CLIP's byte-pair vocabulary, as bundled: SDXL's two text encoders share it."""

    def __init__(self) -> None:
        # the length is lifted because windows are cut here; CLIP's own limit would only warn of long captions
        self._tokenizer = CLIPTokenizer.from_pretrained(
            str(TOKENIZER_FOLDER), local_files_only=True, model_max_length=10**9
        )

    def tokenize(self, caption: str) -> TokenWindows:
        """Windows of start, up to 75 tokens, end, padding; an empty caption is one window."""
        literal = caption.replace("\\)", ")").replace("\\(", "(")
        ids = self._tokenizer(literal)["input_ids"][1:-1]
        pieces = [ids[i : i + WORDS_PER_WINDOW] for i in range(0, len(ids), WORDS_PER_WINDOW)] or [[]]
        return TokenWindows(_wrap(pieces, PAD_CLIP_L), _wrap(pieces, PAD_CLIP_G))


def _wrap(pieces: list[list[int]], pad: int) -> Tensor:
    rows = [[START, *piece, END] for piece in pieces]
    return torch.tensor([row + [pad] * (WINDOW_TOKENS - len(row)) for row in rows])
