"""Pictures that show the same: near-duplicates, mirrored too, found by a hash, confirmed by a thumbnail.

The hash is the difference hash (N. Krawetz, "Kind of Like That", 2013): 64 bits, each telling whether a
point of the shrunk picture is brighter than its left neighbour. Alone it takes drawings on plain backgrounds
for one another, so thumbnails have the last word: 16x16 in colour, each channel without its mean, and of
length one, so that brightness and contrast do not count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

MAX_BITS = 12
"""Bits of 64 by which near-duplicates may differ; measured with MAX_DIFFERENCE, see there."""
MAX_DIFFERENCE = 0.08
"""One less the cosine of two thumbnails. Measured on 232 photos and drawings, with a copy of each: saved as
JPEG of quality 50, halved, blurred by 2 pixels, mirrored, brighter by a fifth, or with contrast 1.3, all are
found; darker by a quarter, all but one that is nearly black; with 2.5 % of every side cut away 96 %, with 5 %
26 %. A copy without its colours is another picture. Of their 26,796 pairs 29 lie within the hash's limit and
thumbnails confirm 16, all of them versions of one picture. Among 200 flat scenes of the stand-in 345 pairs
lie within the hash's limit and 2 are confirmed, alike in colours and place; the nearest two of the twelve
zorps are 0.33 apart."""
MIN_SPREAD = 4.0
"""Grey levels; a thumbnail whose values spread less is one plain colour, and like nothing."""

_THUMB = (16, 16)
_HASH = (9, 8)
_BLOCK = 512


@dataclass(frozen=True, slots=True, eq=False)
class Likeness:
    """What is compared: `bits` (64,) and `mirrored_bits` (64,) bool, `thumb` (16, 16, 3) uint8."""

    bits: np.ndarray
    mirrored_bits: np.ndarray
    thumb: np.ndarray

    @property
    def is_plain(self) -> bool:
        """Whether there is next to nothing in the picture but one colour."""
        return float(self.thumb.std(axis=(0, 1)).max()) < MIN_SPREAD


@dataclass(frozen=True, slots=True)
class Copy:
    """Picture `index` shows what the earlier picture `of` shows, mirrored or not."""

    index: int
    of: int
    mirrored: bool


def look_of(image: Image.Image) -> Likeness:
    """The likeness of a whole upright picture, mode RGB, of any size."""
    grey = np.asarray(image.convert("L").resize(_HASH, Image.Resampling.LANCZOS))
    mirrored = grey[:, ::-1]
    return Likeness(
        bits=(grey[:, 1:] > grey[:, :-1]).ravel(),
        mirrored_bits=(mirrored[:, 1:] > mirrored[:, :-1]).ravel(),
        thumb=np.asarray(image.resize(_THUMB, Image.Resampling.BOX)),
    )


def near_duplicates(likenesses: Sequence[Likeness]) -> list[Copy]:
    """Every picture that shows the same as an earlier one, once; `of` is the first of its group."""
    if len(likenesses) < 2:
        return []
    bits = np.stack([likeness.bits for likeness in likenesses])
    thumbs = np.stack([likeness.thumb for likeness in likenesses]).astype(np.float32)
    sides = (
        (False, bits, thumbs),
        (True, np.stack([likeness.mirrored_bits for likeness in likenesses]), thumbs[:, :, ::-1]),
    )
    straight = _directions(thumbs)
    first = list(range(len(likenesses)))
    pairs: dict[tuple[int, int], bool] = {}
    for mirrored, others, other_thumbs in sides:
        directions = _directions(other_thumbs)
        for rows, columns in close_pairs(bits, others, MAX_BITS):
            alike = np.einsum("ij,ij->i", straight[rows], directions[columns]) >= 1 - MAX_DIFFERENCE
            for one, two in zip(rows[alike].tolist(), columns[alike].tolist(), strict=True):
                pairs.setdefault((one, two), mirrored)
    for one, two in sorted(pairs):
        roots = sorted((_root(first, one), _root(first, two)))
        first[roots[1]] = roots[0]
    return [
        Copy(index, root, _is_mirrored(pairs, root, index))
        for index in range(len(likenesses))
        if (root := _root(first, index)) != index
    ]


def close_pairs(bits: np.ndarray, others: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (i, j), i < j, whose bits[i] and others[j] differ in at most `most` places.

    Args:
        bits: (N, B) bool.
        others: (N, B) bool.
        most: differing places allowed.

    Yields:
        Equally long arrays of i and of j, a part of all pairs at a time.
    """
    # rows of -1 and 1: their product is B less twice the differing places
    left, right = (np.where(values, 1, -1).astype(np.float32) for values in (bits, others))
    least = bits.shape[1] - 2 * most
    for start in range(0, len(bits), _BLOCK):
        rows, columns = np.nonzero(left[start : start + _BLOCK] @ right[start:].T >= least)
        later = columns > rows
        rows, columns = rows[later] + start, columns[later] + start
        for part in range(0, len(rows), _BLOCK * 16):
            yield rows[part : part + _BLOCK * 16], columns[part : part + _BLOCK * 16]


def _directions(thumbs: np.ndarray) -> np.ndarray:
    """(N, 16 * 16 * 3) of length one, or zero for plain pictures; their products are cosines."""
    centred = thumbs - thumbs.mean(axis=(1, 2), keepdims=True)
    plain = thumbs.std(axis=(1, 2)).max(axis=1) < MIN_SPREAD
    flat = centred.reshape(len(thumbs), -1)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    flat[plain] = 0
    return flat


def _root(first: list[int], index: int) -> int:
    while first[index] != index:
        first[index] = first[first[index]]
        index = first[index]
    return index


def _is_mirrored(pairs: dict[tuple[int, int], bool], root: int, index: int) -> bool:
    return pairs.get((root, index), False)
