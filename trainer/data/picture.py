"""One picture of a training set and one way to see it."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .augmentation import Augmentation
from .buckets import Size


@dataclass(frozen=True, slots=True)
class Picture:
    """One usable picture. Sizes are of the upright picture, in pixels.

    `captions` already hold the trigger word and are never empty: ("",) stands for no caption at all. Where
    they are variants of others, those are `plain_captions`. `repeats` counts how often an epoch shows the
    picture, folder and settings multiplied. `digest` is the SHA-256 of the file. `background` lies behind
    transparent pixels. Where `has_mask`, the mask is `given_mask` (H, W) uint8 of any size, stretched over
    the upright picture, 255 = trained; without one it is the -masklabel file `mask_path` where its SHA-256
    is `mask_digest`, else the picture's own alpha channel. A picture that came without a file has its
    pixels in `given_pixels` (H, W, 3) uint8 sRGB, an empty `path`, and the digest of shape and bytes of
    these.
    """

    path: Path
    name: str
    width: int
    height: int
    captions: tuple[str, ...]
    caption_source: str
    repeats: int
    digest: str
    background: str = "#ffffff"
    loss_weight: float = 1.0
    has_mask: bool = False
    given_mask: np.ndarray | None = field(default=None, repr=False, compare=False)
    plain_captions: tuple[str, ...] = ()
    given_pixels: np.ndarray | None = field(default=None, repr=False, compare=False)
    mask_path: Path | None = field(default=None, compare=False)
    mask_digest: str = ""

    @property
    def shown_captions(self) -> tuple[str, ...]:
        """The captions as people wrote them, for sheets, reports and statistics."""
        return self.plain_captions or self.captions


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to see a picture: scaled to `scaled`, cut to `bucket` at the crop, mirrored or not.

    Sizes are (width, height); the crop counts in the scaled, not yet mirrored picture. All in pixels. An
    `augmentation` turns the crop before it is mirrored, and colours it last.
    """

    picture: int
    bucket: Size
    crop_top: int
    crop_left: int
    scaled: Size
    flipped: bool
    augmentation: Augmentation | None = None
