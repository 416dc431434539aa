"""Aspect buckets of constant area: which size a picture is trained at, and where it is cut out.

Source of the sizes: kohya-ss/sd-scripts, `make_bucket_resolutions` of library/model_util.py, with sides
from a quarter of the resolution to twice it; at 1024 and step 64 these are 41 sizes.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from functools import lru_cache

Size = tuple[int, int]

NUM_RANDOM_CROPS = 4


@dataclass(frozen=True, slots=True)
class Placement:
    """How a picture fills its bucket: scaled first, then cut out. All in pixels.

    `crop_top` and `crop_left` count in the scaled picture; the bucket always lies within it.
    """

    bucket_width: int
    bucket_height: int
    scaled_width: int
    scaled_height: int
    crop_top: int
    crop_left: int

    @property
    def bucket(self) -> Size:
        return self.bucket_width, self.bucket_height

    @property
    def scaled(self) -> Size:
        return self.scaled_width, self.scaled_height


def bucket_sizes(resolution: int, step: int) -> list[Size]:
    """All (width, height) of about resolution² pixels whose sides are multiples of `step`, sorted."""
    return list(_bucket_sizes(resolution, step))


@lru_cache(maxsize=64)
def _bucket_sizes(resolution: int, step: int) -> tuple[Size, ...]:
    shortest, longest = _side_limits(resolution, step)
    square = max(step, resolution // step * step)
    sizes = {(square, square)}
    for width in range(shortest, longest + 1, step):
        height = min(longest, resolution * resolution // width // step * step)
        if height >= shortest:
            sizes |= {(width, height), (height, width)}
    return tuple(sorted(sizes))


def _side_limits(resolution: int, step: int) -> Size:
    return max(step, resolution // 4 // step * step), max(step, 2 * resolution // step * step)


def place(width: int, height: int, resolution: int, step: int, upscale: bool) -> Placement:
    """Choose the bucket of a picture and cut its centre out.

    The bucket is the one with the nearest aspect ratio (on a log scale, so that portrait and landscape
    are treated alike), and the picture is scaled to cover it. Where that would enlarge the picture and
    `upscale` is off, the picture gets a bucket of its own: its sides rounded down to multiples of
    `step`, at least one step. Only a side shorter than one step is enlarged then.

    Args:
        width: of the upright picture, pixels, at least 1.
        height: likewise.
        resolution: side of the square whose area the buckets have, pixels.
        step: bucket sides are multiples of this, pixels.
        upscale: enlarge pictures that are smaller than their bucket.
    """
    bucket = _nearest(width, height, resolution, step)
    if not upscale and (bucket[0] > width or bucket[1] > height):
        bucket = _own_bucket(width, height, resolution, step)
    scale = max(bucket[0] / width, bucket[1] / height)
    scaled_width = max(bucket[0], round(width * scale))
    scaled_height = max(bucket[1], round(height * scale))
    return Placement(
        bucket_width=bucket[0],
        bucket_height=bucket[1],
        scaled_width=scaled_width,
        scaled_height=scaled_height,
        crop_top=(scaled_height - bucket[1]) // 2,
        crop_left=(scaled_width - bucket[0]) // 2,
    )


def _nearest(width: int, height: int, resolution: int, step: int) -> Size:
    aspect = math.log(width / height)
    # Buckets of one aspect ratio exist at some resolutions: the largest of them wins.
    return min(
        _bucket_sizes(resolution, step),
        key=lambda size: (round(abs(math.log(size[0] / size[1]) - aspect), 9), -size[0] * size[1]),
    )


def _own_bucket(width: int, height: int, resolution: int, step: int) -> Size:
    enlarge = max(1.0, step / min(width, height))
    longest = _side_limits(resolution, step)[1]
    # 1e-6: step / side * side may come out a hair below step.
    sides = [min(longest, max(step, int(side * enlarge + 1e-6) // step * step)) for side in (width, height)]
    if sides[0] * sides[1] > resolution * resolution:
        long, short = (0, 1) if sides[0] >= sides[1] else (1, 0)
        sides[long] = max(step, resolution * resolution // sides[short] // step * step)
    return sides[0], sides[1]


def random_crops(placement: Placement, digest: str) -> list[Placement]:
    """Four different crops, or as many as there is room for, drawn from a picture's digest alone."""
    spare_height = placement.scaled_height - placement.bucket_height
    spare_width = placement.scaled_width - placement.bucket_width
    crops: dict[Placement, None] = {}
    for number in range(8 * NUM_RANDOM_CROPS):  # with little room, many draws coincide
        drawn = hashlib.sha256(f"crop/{digest}/{number}".encode()).digest()
        top = int.from_bytes(drawn[:8], "big") % (spare_height + 1)
        left = int.from_bytes(drawn[8:16], "big") % (spare_width + 1)
        crops[replace(placement, crop_top=top, crop_left=left)] = None
        if len(crops) == NUM_RANDOM_CROPS:
            break
    return list(crops)
