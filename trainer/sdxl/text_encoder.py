"""SDXL's two frozen text encoders, read as ComfyUI reads them.

`N` windows, `T` = 77·windows tokens, `D` width of both encoders together, `P` width of the pooled vector.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ..diffusion.conditioning import TextCondition
from .token_windows import END, CaptionTokenizer, TokenWindows

WINDOWS_AT_ONCE = 16


class SDXLTextEncoder:
    """Captions in, conditions out.

    Hidden states are the penultimate ones without the final layer norm, CLIP-L's and OpenCLIP bigG's side
    by side (arXiv 2307.01952 sec. 2.1); windows of a long caption follow each other with their start and
    end tokens (ComfyUI's way: 77·n tokens). The pooled vector is bigG's projection at the first end token
    of the first window.

    Args:
        clip_l: the smaller encoder, float32: half precision differs by 1e-3 from what ComfyUI computes.
        clip_g: the larger one with its projection, float32, on the same device.
    """

    def __init__(self, clip_l: CLIPTextModel, clip_g: CLIPTextModelWithProjection) -> None:
        self._clip_l = clip_l.eval().requires_grad_(False)
        self._clip_g = clip_g.eval().requires_grad_(False)
        self._tokenizer = CaptionTokenizer()

    def tokenize(self, caption: str) -> TokenWindows:
        return self._tokenizer.tokenize(caption)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> list[TextCondition]:
        """One float32 condition per caption, on the encoders' device."""
        windows = [self.tokenize(caption) for caption in captions]
        counts = [len(w.clip_l) for w in windows]
        if not counts:
            return []
        ids_l = torch.cat([w.clip_l for w in windows]).split(WINDOWS_AT_ONCE)
        ids_g = torch.cat([w.clip_g for w in windows]).split(WINDOWS_AT_ONCE)
        pieces = [self._encode_windows(a, b) for a, b in zip(ids_l, ids_g, strict=True)]
        states = torch.cat([p[0] for p in pieces]).split(counts)
        pooled = torch.cat([p[1] for p in pieces]).split(counts)
        return [TextCondition(s.flatten(0, 1), p[0].clone()) for s, p in zip(states, pooled, strict=True)]

    def _encode_windows(self, ids_l: Tensor, ids_g: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 77) ids of both encoders -> states (N, 77, D), pooled (N, P)."""
        device = self._clip_l.device
        # a host may have autocast on; the encoders stay in float32 whatever it says
        with torch.autocast(device.type, enabled=False):
            states_l = self._clip_l(ids_l.to(device), output_hidden_states=True).hidden_states[-2]
            large = self._clip_g(ids_g.to(device), output_hidden_states=True)
            ends = (ids_g == END).int().argmax(dim=1).to(device)
            last = large.last_hidden_state[torch.arange(len(ends), device=device), ends]
            pooled = self._clip_g.text_projection(last)
        return torch.cat([states_l, large.hidden_states[-2]], dim=-1), pooled
