"""Which samples make up a batch: a pure function of (seed, index), so that a resume needs no state.

Every sample (a picture, once per repeat) comes exactly once an epoch; a batch never mixes buckets.
"""

import hashlib
import random
from dataclasses import dataclass

from .training_set import TrainingSet, Variant


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of a batch.

    `variant` is `dataset.variants[picture][variant_index]`; `caption` is
    `dataset.pictures[picture].captions[caption_index]`, or "" where `caption_index` is None because the
    caption was dropped.
    """

    variant: Variant
    variant_index: int
    caption_index: int | None
    caption: str

    @property
    def picture(self) -> int:
        return self.variant.picture


def generator(seed: int, purpose: str, index: int) -> random.Random:
    """A generator of its own for (seed, purpose, index); the global one is never touched."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))


class BatchPlan:
    """The endless sequence of batches of a dataset.

    Args:
        dataset: what to draw from.
        batch_size: samples in a batch; the last batch of a bucket may be smaller.
        seed: of every draw.
        caption_dropout: share of samples whose caption is left out, 0 to 1.
        purpose: plans of other purposes draw independently; "" is that of the training pictures.
    """

    def __init__(
        self,
        dataset: TrainingSet,
        batch_size: int,
        seed: int,
        caption_dropout: float = 0.0,
        purpose: str = "",
    ) -> None:
        self.num_batches = dataset.batches_per_epoch(batch_size)
        """Batches in an epoch."""
        self._dataset = dataset
        self._batch_size = batch_size
        self._seed = seed
        self._caption_dropout = caption_dropout
        self._prefix = f"{purpose}/" if purpose else ""
        self._epoch = -1
        self._order: list[list[int]] = []

    def batch(self, index: int) -> list[Draw]:
        """The batch of micro step `index`, counted from 0 over all epochs."""
        epoch, place_in_epoch = divmod(index, self.num_batches)
        if epoch != self._epoch:
            self._order, self._epoch = self._shuffled(epoch), epoch
        # Three numbers per sample, used or not: a change of one setting leaves the other draws alone.
        chance = generator(self._seed, f"{self._prefix}sample", index)
        return [
            self._draw(picture, chance.random(), chance.random(), chance.random())
            for picture in self._order[place_in_epoch]
        ]

    def _draw(self, picture: int, for_variant: float, for_caption: float, for_dropout: float) -> Draw:
        variants = self._dataset.variants[picture]
        captions = self._dataset.pictures[picture].captions
        variant_index = int(for_variant * len(variants))
        caption_index = int(for_caption * len(captions))
        if for_dropout < self._caption_dropout:
            return Draw(variants[variant_index], variant_index, None, "")
        return Draw(variants[variant_index], variant_index, caption_index, captions[caption_index])

    def _shuffled(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch as lists of picture indices."""
        chance = generator(self._seed, f"{self._prefix}epoch", epoch)
        batches: list[list[int]] = []
        for pictures in self._dataset.buckets.values():
            samples = [p for p in pictures for _ in range(self._dataset.pictures[p].repeats)]
            chance.shuffle(samples)
            batches += [
                samples[start : start + self._batch_size]
                for start in range(0, len(samples), self._batch_size)
            ]
        chance.shuffle(batches)
        return batches
