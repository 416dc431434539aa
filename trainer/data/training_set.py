"""What a run trains on: pictures, the ways to see each of them, and the fingerprint that names it all."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from ..config import DatasetConfig
from ..errors import InputError
from .buckets import Size
from .captions import clean_caption
from .folder import Note
from .masks import latent_mask
from .picture import Picture, Variant
from .variant_pixels import as_pixels, cut_mask, cut_picture, open_mask, open_picture

if TYPE_CHECKING:
    from ..settings.augment_config import AugmentConfig
    from ..settings.caption_variants_config import CaptionVariantsConfig

MAX_NAMES = 5


@dataclass(frozen=True)
class TrainingSet:
    """The pictures of a run; `variants[i]` are the ways to see `pictures[i]`, all in the same bucket.

    Pictures are sorted by name; those of joined sets stand set by set. `config` is what they were loaded
    with; joined sets may have several, and keep the first with the largest resolution. `class_set` holds
    the class images. `fixed_trigger_words` are those of a set made from others; `roots` are the folders read.
    `augment` and `caption_variants` say how its variants and captions were made, where they were.
    """

    pictures: tuple[Picture, ...]
    config: DatasetConfig
    notes: tuple[Note, ...]
    variants: tuple[tuple[Variant, ...], ...]
    fingerprint: str
    root_name: str
    class_set: "TrainingSet | None" = None
    fixed_trigger_words: str | None = None
    roots: tuple[Path, ...] = field(default=(), compare=False)
    augment: "AugmentConfig | None" = None
    caption_variants: "CaptionVariantsConfig | None" = None

    @property
    def num_samples(self) -> int:
        """Samples in an epoch: every picture times its repeats."""
        return sum(picture.repeats for picture in self.pictures)

    @property
    def buckets(self) -> dict[Size, tuple[int, ...]]:
        """(width, height) -> the pictures in it, in order of size."""
        members: dict[Size, list[int]] = {}
        for index, variants in enumerate(self.variants):
            members.setdefault(variants[0].bucket, []).append(index)
        return {bucket: tuple(members[bucket]) for bucket in sorted(members)}

    @property
    def trigger_words(self) -> str:
        """What a prompt must hold: the trigger, else the one caption that all pictures share, else ""."""
        if self.fixed_trigger_words is not None:
            return self.fixed_trigger_words
        if self.config.trigger.strip():
            return clean_caption(self.config.trigger)[0]
        captions = {caption for picture in self.pictures for caption in picture.shown_captions}
        return captions.pop() if len(captions) == 1 else ""

    @property
    def has_masks(self) -> bool:
        return any(picture.has_mask for picture in self.pictures)

    @property
    def most_frequent_size(self) -> Size:
        """(width, height) of the bucket that most samples lie in, pixels."""
        samples = self.samples_by_bucket
        return max(samples, key=samples.__getitem__)

    @property
    def samples_by_bucket(self) -> dict[Size, int]:
        """(width, height) -> samples an epoch draws from that bucket, in order of size."""
        return {
            bucket: sum(self.pictures[index].repeats for index in members)
            for bucket, members in self.buckets.items()
        }

    def batches_per_epoch(self, batch_size: int) -> int:
        """A batch never mixes buckets, so each bucket may end with a smaller one."""
        return sum(math.ceil(samples / batch_size) for samples in self.samples_by_bucket.values())

    def steps_per_epoch(self, batch_size: int, accumulation: int = 1) -> int:
        """Optimizer steps in an epoch, `accumulation` batches each; class images come on top of them."""
        return math.ceil(self.batches_per_epoch(batch_size) / accumulation)

    def crop_picture(self, variant: Variant) -> Image.Image:
        """The variant as an RGB picture of its bucket's size.

        Raises:
            InputError: the file is gone, or is not the one that was loaded.
        """
        return cut_picture(open_picture(self.pictures[variant.picture]), variant)

    def crop_mask(self, variant: Variant) -> Image.Image | None:
        """The mask of the variant, mode L, of its bucket's size, 255 = trained; None without a mask.

        It is scaled, cut and mirrored by the numbers of the pixels, so that the two lie on each other.

        Raises:
            InputError: the file is gone, or is not the one that was loaded.
        """
        mask = open_mask(self.pictures[variant.picture])
        return None if mask is None else cut_mask(mask, variant)

    def load_pixels(self, variant: Variant) -> Tensor:
        """The variant as pixels (3, H, W), float32 in [-1, 1].

        Raises:
            InputError: the file is gone, or is not the one that was loaded.
        """
        return as_pixels(self.crop_picture(variant))

    def load_mask(self, variant: Variant) -> Tensor | None:
        """The variant's mask (1, H/8, W/8), float32 from 0 (left out) to 1; None without a mask.

        Each value is the mean of the 8x8 pixels that its latent stands for (sd-scripts,
        library/custom_train_functions.py, apply_masked_loss: interpolate with mode "area").

        Raises:
            InputError: the file is gone, or is not the one that was loaded.
        """
        mask = self.crop_mask(variant)
        return None if mask is None else latent_mask(mask)

    def load_masks(self, picture: int) -> list[Tensor] | None:
        """`load_mask` of all variants of a picture, whose file is read once.

        Raises:
            InputError: the file is gone, or is not the one that was loaded.
        """
        mask = open_mask(self.pictures[picture])
        if mask is None:
            return None
        return [latent_mask(cut_mask(mask, variant)) for variant in self.variants[picture]]

    def true_time_ids(self, variant: Variant) -> tuple[int, int, int, int, int, int]:
        """(orig_h, orig_w, crop_top, crop_left, target_h, target_w) of what the variant shows, pixels.

        The crop is the one really made, counted in the mirrored picture where it is mirrored (SDXL
        paper, arXiv 2307.01952, 2.2). kohya's trainer stores a letterbox offset here, which is another.
        """
        picture = self.pictures[variant.picture]
        width, height = variant.bucket
        left = variant.scaled[0] - width - variant.crop_left if variant.flipped else variant.crop_left
        return picture.height, picture.width, variant.crop_top, left, height, width

    def split(self, share: float) -> "tuple[TrainingSet, TrainingSet]":
        """The set without about `share` of its pictures, and these: (training, held out).

        Which picture goes where hangs on the bytes of its file alone; equal files go together, so that
        nothing held out is trained on. At least one picture is held out and one is trained on. Held-out
        pictures are seen in one way, once an epoch, without class images.

        Raises:
            InputError: fewer than two different pictures.
        """
        held = _lots(self.pictures, share)
        names = [self.pictures[index].name for index in held]
        note = Note(
            "info",
            "",
            f"{len(held)} of {len(self.pictures)} pictures are held out for validation: {some(names)}",
        )
        out = set(held)
        training = self.only([i for i in range(len(self.pictures)) if i not in out])
        once = self.only(held)
        return (
            replace(
                training,
                notes=(*self.notes, note),
                fingerprint=derived_fingerprint("training part", share, self.fingerprint),
                fixed_trigger_words=self.trigger_words,
            ),
            replace(
                once,
                pictures=tuple(_as_written(picture) for picture in once.pictures),
                variants=tuple(variants[:1] for variants in once.variants),
                notes=(note,),
                fingerprint=derived_fingerprint("held out", share, self.fingerprint),
                fixed_trigger_words=self.trigger_words,
                class_set=None,
            ),
        )

    def only(self, indices: Sequence[int]) -> "TrainingSet":
        """The set with these pictures alone; fingerprint and notes are left for the caller to mend."""
        return replace(
            self,
            pictures=tuple(self.pictures[index] for index in indices),
            variants=tuple(
                tuple(replace(variant, picture=place) for variant in self.variants[index])
                for place, index in enumerate(indices)
            ),
        )


def _as_written(picture: Picture) -> Picture:
    """The picture once an epoch under its plain captions: what is measured must not change by lot."""
    return replace(picture, repeats=1, captions=picture.shown_captions, plain_captions=())


def derived_fingerprint(*parts: object) -> str:
    """The fingerprint of a set made from others; `parts` are text and numbers."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def some(names: Sequence[str], most: int = MAX_NAMES) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _lots(pictures: Sequence[Picture], share: float) -> list[int]:
    """Indices of the held-out pictures, in their order."""
    groups: dict[str, list[int]] = {}
    for index, picture in enumerate(pictures):
        groups.setdefault(picture.digest, []).append(index)
    if len(groups) < 2:
        raise InputError(
            f"validation_share is {share:g}, but the dataset has only {len(groups)} different picture, and "
            "holding one out needs at least 2: add pictures, or set validation_share to 0"
        )
    wanted = min(max(1, round(share * len(pictures))), len(pictures) - 1)
    held: list[int] = []
    by_lot = sorted(groups, key=lambda digest: hashlib.sha256(f"held out/{digest}".encode()).digest())
    for digest in by_lot:
        if len(held) + len(groups[digest]) <= wanted:
            held += groups[digest]
    return sorted(held or min((groups[digest] for digest in by_lot), key=len))
