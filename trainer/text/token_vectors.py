"""The vectors of new tokens: rows of their own beside CLIP's frozen tables, and all of them that is trained.

A whole table as trainable would carry 49,408 rows with gradients and optimizer state that must be put back
after every step; here they are only read. `n` new tokens, `D` width of one encoder.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapter.flat_weights import FlatWeights
from ..sdxl.model import TextEncoders
from ..sdxl.text_encoder import transformer_of
from ..sdxl.token_windows import CaptionTokenizer
from ..settings.text_config import ENCODERS, PivotalConfig
from .new_tokens import FIRST_ID, NewTokens, initial_words

ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class RealTokens:
    """What CLIP's own vectors are like: deviation of all numbers, and the vectors' lengths."""

    std: float
    typical: float
    shortest: float
    longest: float


class TokenEmbedding(nn.Module):
    """CLIP's own table, and the rows (n, D) of ids from 49408 on, which are no part of the module."""

    def __init__(self, table: nn.Module, rows: Tensor) -> None:
        super().__init__()
        self.table = table
        self._rows = (rows,)  # hidden from nn.Module, which would freeze and move them with the encoder

    def forward(self, ids: Tensor) -> Tensor:
        """(N, T) -> (N, T, D) float32."""
        is_new = ids >= FIRST_ID
        known = self.table(ids.masked_fill(is_new, 0)).float()
        new = F.embedding((ids - FIRST_ID).clamp(min=0), self._rows[0])
        return torch.where(is_new[..., None], new, known)


class TokenVectors:
    """The new rows of both encoders' tables, as weights of their own.

    Args:
        encoders: where they act until `detach`.
        start: "clip_l" and "clip_g", (n, D) each.
        real: of the tables they lie beside.
        norm_pull: 0 to 1, the share of `keep_norms`.

    Attributes:
        weights: names "clip_l" and "clip_g", float32 on the encoders' device; autograd adds gradients there.
    """

    def __init__(
        self,
        encoders: TextEncoders,
        start: Mapping[str, Tensor],
        real: Mapping[str, RealTokens],
        norm_pull: float,
    ) -> None:
        shapes = {name: tuple(start[name].shape) for name in ENCODERS}
        self.weights = FlatWeights(shapes, encoders.clip_l.device, torch.float32)
        self.load_state_dict(start)
        self._start = self.weights.master.clone()
        self._real = dict(real)
        self._norm_pull = norm_pull
        rows = dict(zip(self.weights.names, self.weights.parameters(), strict=True))
        self.detach: Callable[[], None] = _put_in(encoders, rows)
        """Every module of the encoders is what it was before."""

    def state_dict(self) -> dict[str, Tensor]:
        """float32 copies on the CPU, each with its own memory."""
        flat = self.weights.snapshot()
        return {name: self.weights.view(flat, name).clone() for name in ENCODERS}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`; the encoders see the vectors at once.

        Raises:
            ValueError: other names or shapes than these vectors'.
        """
        if set(state) != set(ENCODERS):
            raise ValueError(f"vectors of {', '.join(sorted(state))}, but there must be clip_l and clip_g")
        for name in ENCODERS:
            view = self.weights.view(self.weights.master, name)
            if view.shape != state[name].shape:
                raise ValueError(f"{name} is {tuple(state[name].shape)}, but must be {tuple(view.shape)}")
            view.copy_(state[name])
        self.weights.publish()

    @torch.no_grad()
    def keep_norms(self, is_finite: Tensor | None = None) -> None:
        """Bring the vectors' lengths back to those of real tokens; after each step of the optimizer.

        Each is multiplied by (typical / length)^norm_pull, cog-sdxl's (std0 / std)^0.1 for each row, and held
        in the range of real ones (lengths as in sd-lora-trainer). One that has not moved yet stays as it is,
        and all do where `is_finite`, a scalar bool on the device, says that the step was left out.
        """
        for name in ENCODERS:
            rows = self.weights.view(self.weights.master, name)
            real = self._real[name]
            lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=1e-12)
            pulled = lengths * (real.typical / lengths) ** self._norm_pull
            factors = pulled.clamp(real.shortest, real.longest) / lengths
            has_moved = (rows != self.weights.view(self._start, name)).any(dim=1, keepdim=True)
            if is_finite is not None:
                has_moved &= is_finite
            rows.mul_(torch.where(has_moved, factors, 1.0))
        self.weights.publish()

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return len(self.weights.parameters()[0])

    def num_still(self) -> int:
        """How many tokens are exactly as they started, in one encoder or both. Waits for the device."""
        moved = [
            (self.weights.view(self.weights.master, name) != self.weights.view(self._start, name)).any(dim=1)
            for name in ENCODERS
        ]
        return int((~torch.stack(moved).all(dim=0)).sum())


def attach_new_tokens(
    encoders: TextEncoders, new_tokens: NewTokens, config: PivotalConfig, seed: int
) -> TokenVectors:
    """Put fresh vectors for new tokens beside both encoders' tables.

    They start as copies of the initial words' vectors, repeated over the word's tokens, or as normal noise
    with the deviation of the whole table (train_dreambooth_lora_sdxl_advanced.py, TokenEmbeddingsHandler),
    drawn from (seed, encoder, word) on the CPU: the same bytes on any device.

    Args:
        encoders: private views; their `token_embedding` is replaced until `TokenVectors.detach`.
        new_tokens: the words.
        config: initial words and `norm_pull`.
        seed: 0 to 2^64 - 1.

    Raises:
        InputError: not one initial word for each word.
    """
    tables = {name: _embedding_of(getattr(encoders, name)).weight.detach() for name in ENCODERS}
    real = {name: _real_tokens(table) for name, table in tables.items()}
    tokenizer = CaptionTokenizer()
    known = [tokenizer.ids(words) for words in initial_words(config, new_tokens)]
    start = {}
    for name, table in tables.items():
        parts = []
        for (word, count), ids in zip(new_tokens.words, known, strict=True):
            drawn = _drawn((count, table.shape[1]), f"{seed}:{name}:{word}") * real[name].std
            parts.append(_copied(table, ids, count) if ids else drawn)
        start[name] = torch.cat(parts)
    return TokenVectors(encoders, start, real, config.norm_pull)


@contextlib.contextmanager
def with_vectors(encoders: TextEncoders, vectors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it the encoders read ids from 49408 on as these finished vectors, (n, D) each."""
    device = encoders.clip_l.device
    take_out = _put_in(encoders, {name: vectors[name].to(device, torch.float32) for name in ENCODERS})
    try:
        yield
    finally:
        take_out()


def _put_in(encoders: TextEncoders, rows: Mapping[str, Tensor]) -> Callable[[], None]:
    """Replace both token embeddings; returns what puts them back."""
    places = [transformer_of(getattr(encoders, name)).embeddings for name in ENCODERS]
    before = [_embedding_of(getattr(encoders, name)) for name in ENCODERS]
    for name, place, embedding in zip(ENCODERS, places, before, strict=True):
        place.token_embedding = TokenEmbedding(embedding, rows[name])

    def take_out() -> None:
        for place, embedding in zip(places, before, strict=True):
            place.token_embedding = embedding

    return take_out


def _embedding_of(encoder: nn.Module) -> Any:
    embedding = transformer_of(encoder).embeddings.token_embedding
    if isinstance(embedding, TokenEmbedding):
        raise ValueError("the encoders have new tokens already: take those out first")
    return embedding


def _real_tokens(table: Tensor) -> RealTokens:
    """On the CPU and in float64, so that every device finds the same."""
    total = squares = 0.0
    lengths = []
    for rows in table.split(ROWS_AT_ONCE):
        exact = rows.to("cpu", torch.float64)
        total += float(exact.sum())
        squares += float(exact.square().sum())
        lengths.append(torch.linalg.vector_norm(exact, dim=1))
    mean = total / table.numel()
    length = torch.cat(lengths)
    return RealTokens(
        std=(squares / table.numel() - mean**2) ** 0.5,
        typical=float(length.median()),
        shortest=float(length.min()),
        longest=float(length.max()),
    )


def _copied(table: Tensor, ids: list[int], count: int) -> Tensor:
    cycled = [ids[i % len(ids)] for i in range(count)]
    return table[torch.tensor(cycled, device=table.device)].to("cpu", torch.float32)


def _drawn(shape: tuple[int, int], name: str) -> Tensor:
    digest = hashlib.sha256(name.lower().encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.randn(shape, generator=generator)
