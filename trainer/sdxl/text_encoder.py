"""SDXL's two text encoders, read as ComfyUI reads them.

`N` windows, `T` = 77·windows tokens, `D` width of both encoders together, `P` width of the pooled vector.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.conditioning import TextCondition
from ..text.new_tokens import NewTokens
from .model import TextEncoders
from .token_windows import END, CaptionTokenizer, TokenWindows

WINDOWS_AT_ONCE = 16


def transformer_of(encoder: nn.Module) -> Any:
    """The module with `embeddings`, `encoder.layers` and `final_layer_norm`, in transformers 4 and 5."""
    return getattr(encoder, "text_model", encoder)


class SDXLTextEncoder:
    """Captions in, conditions out.

    Hidden states are those of `encoders.layer`, the penultimate, without the final layer norm, CLIP-L's and
    OpenCLIP bigG's side by side (arXiv 2307.01952 sec. 2.1); windows of a long caption follow each other with
    their start and end tokens (ComfyUI's way: 77·n tokens). The pooled vector is bigG's projection at the
    first end token of the first window. All in float32: half precision differs by 1e-3 from what ComfyUI
    computes.

    Args:
        encoders: on one device; what is in them, new tokens and adapters, acts.
        new_tokens: words that stand for new tokens, whose vectors are in `encoders`; none = plain text only.
    """

    def __init__(self, encoders: TextEncoders, new_tokens: NewTokens | None = None) -> None:
        self._encoders = encoders
        self._tokenizer = CaptionTokenizer(new_tokens)

    def tokenize(self, caption: str) -> TokenWindows:
        return self._tokenizer.tokenize(caption)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> list[TextCondition]:
        """One float32 condition per caption, on the encoders' device."""
        return self.encode_with_gradient(captions)

    def encode_with_gradient(self, captions: Sequence[str]) -> list[TextCondition]:
        """As `encode`, the same numbers; gradients flow to what in the encoders asks for one."""
        windows = [self.tokenize(caption) for caption in captions]
        counts = [len(w.clip_l) for w in windows]
        if not counts:
            return []
        states, pooled = self._encode_windows(
            torch.cat([w.clip_l for w in windows]), torch.cat([w.clip_g for w in windows])
        )
        return [
            TextCondition(s.flatten(0, 1), p[0].clone())
            for s, p in zip(states.split(counts), pooled.split(counts), strict=True)
        ]

    @torch.no_grad()
    def encode_weighted(self, segments: Sequence[tuple[str, float]]) -> TextCondition:
        """One prompt of stretches with weights, "a (cat:1.2)" as [("a ", 1.0), ("cat", 1.2)].

        A token's state is moved along the line from its place in an empty window, as ComfyUI does
        (comfy/sd1_clip.py, ClipTokenWeightEncoder); the pooled vector is that of the text without weights.
        """
        windows = self._tokenizer.tokenize_weighted(segments)
        empty = self._tokenizer.tokenize("")
        states, pooled = self._encode_windows(
            torch.cat([windows.clip_l, empty.clip_l]), torch.cat([windows.clip_g, empty.clip_g])
        )
        states, origin = states[:-1], states[-1]
        weights = windows.weights[..., None].to(states.device)
        # plain tokens stay as they are: the way there and back would cost them their last bit
        moved = torch.where(weights == 1, states, (states - origin) * weights + origin)
        return TextCondition(moved.flatten(0, 1), pooled[0].clone())

    def _encode_windows(self, ids_l: Tensor, ids_g: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 77) ids of both encoders -> states (N, 77, D), pooled (N, P), a few windows at a time."""
        lots = zip(ids_l.split(WINDOWS_AT_ONCE), ids_g.split(WINDOWS_AT_ONCE), strict=True)
        parts = [self._encode_lot(a, b) for a, b in lots]
        return torch.cat([states for states, _ in parts]), torch.cat([pooled for _, pooled in parts])

    def _encode_lot(self, ids_l: Tensor, ids_g: Tensor) -> tuple[Tensor, Tensor]:
        small, large, layer = self._encoders.clip_l, self._encoders.clip_g, self._encoders.layer
        device = small.device
        # a host may have autocast on; the encoders stay in float32 whatever it says
        with torch.autocast(device.type, enabled=False):
            states_l, _ = _run(small, ids_l.to(device), layer)
            states_g, last = _run(large, ids_g.to(device), layer)
            # never the largest id, as CLIP once did: new tokens have larger ones
            ends = (ids_g == END).int().argmax(dim=1).to(device)
            pooled = large.text_projection(last[torch.arange(len(ends), device=device), ends])
        return torch.cat([states_l, states_g], dim=-1), pooled


def _run(encoder: nn.Module, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """(N, 77) ids -> what `layer` gives out, and the last states after the final norm; both (N, 77, width).

    A layer further down than the encoder is deep gives the last states, as in ComfyUI.
    """
    transformer = transformer_of(encoder)
    layers = transformer.encoder.layers
    if abs(layer) > len(layers):
        last = transformer(ids).last_hidden_state
        return last, last
    with _watched(layers[layer]) as outputs:
        last = transformer(ids).last_hidden_state
    return outputs[0], last


@contextlib.contextmanager
def _watched(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what the layer gives out; the names of hidden states differ between transformers versions."""
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handle = layer.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()
