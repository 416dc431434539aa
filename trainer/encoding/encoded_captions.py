"""Captions as the denoiser reads them: encoded once before training, as long as the text does not learn.

`B` batch, `T` tokens, `D` width of both text encoders together, `P` width of the pooled vector.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..diffusion.conditioning import TextCondition, stack_conditions
from ..errors import InputError
from ..events import Listener
from .encoded_cache import EncodedCache, caption_key


class Conditions(Protocol):
    """What captions mean to the denoiser: looked up, or computed anew while the text encoders learn."""

    def stack(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """`prompt_embeds` (B, T, D) and `pooled` (B, P) of captions of one batch."""
        ...

    def stack_base(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The same as the model has them without any training."""
        ...

    def to(self, device: torch.device, dtype: torch.dtype) -> "Conditions": ...

    @property
    def num_bytes(self) -> int:
        """Of all that is looked up, in the type it has now."""
        ...


class EncodedCaptions(dict[str, TextCondition]):
    """Conditions of captions that stay what they are, by caption."""

    def stack(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        return stack_conditions([self[caption] for caption in captions])

    def stack_base(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        return self.stack(captions)

    def to(self, device: torch.device, dtype: torch.dtype) -> "EncodedCaptions":
        return EncodedCaptions(
            (caption, TextCondition(c.prompt_embeds.to(device, dtype), c.pooled.to(device, dtype)))
            for caption, c in self.items()
        )

    @property
    def num_bytes(self) -> int:
        return sum(c.prompt_embeds.nbytes + c.pooled.nbytes for c in self.values())


def encode_captions(
    captions: Collection[str],
    encode: Callable[[Sequence[str]], Sequence[TextCondition]],
    listener: Listener,
    check_stop: Callable[[], None],
    cache: EncodedCache | None = None,
    fingerprint: str = "",
) -> EncodedCaptions:
    """Encode each distinct caption that the cache lacks; on the CPU, in the type that `encode` gives.

    Each is encoded alone, so that its bits do not depend on the others.

    Args:
        captions: of the run.
        encode: captions in, a condition for each out.
        listener: hears of the progress.
        check_stop: called before each caption; raises to stop.
        cache: what earlier runs encoded, if that is wanted.
        fingerprint: of the text encoders behind `encode`.

    Raises:
        InputError: a caption came out as NaN or infinite; it is named.
    """
    distinct = sorted(set(captions))
    listener.phase("encoding captions", 0, len(distinct))
    cache = cache or EncodedCache()
    keys = {caption: caption_key(fingerprint, caption) for caption in distinct}
    conditions = EncodedCaptions()
    for caption in distinct:
        check_stop()
        found = cache.find("captions", keys[caption])
        if found is not None:
            conditions[caption] = TextCondition(**found)
    if conditions:
        listener.phase("encoding captions", len(conditions), len(distinct))
    for caption in distinct:
        if caption in conditions:
            continue
        check_stop()
        condition = _encode_alone(caption, encode)
        embeds, pooled = condition.prompt_embeds, condition.pooled
        cache.keep("captions", keys[caption], {"prompt_embeds": embeds, "pooled": pooled})
        conditions[caption] = condition
        listener.phase("encoding captions", len(conditions), len(distinct))
    return conditions


def _encode_alone(caption: str, encode: Callable[[Sequence[str]], Sequence[TextCondition]]) -> TextCondition:
    (condition,) = encode([caption])
    embeds, pooled = condition.prompt_embeds.detach(), condition.pooled.detach()
    if not bool(embeds.isfinite().all() and pooled.isfinite().all()):
        raise InputError(
            f"the caption '{caption[:60]}' came out of the text encoders as NaN or infinite: the "
            "CLIP of this checkpoint is damaged, use another checkpoint"
        )
    return TextCondition(embeds.cpu().clone(), pooled.cpu().clone())
