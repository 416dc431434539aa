"""Small copies of pictures, kept as JPEG: what a page embeds, and little memory for however many."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

_QUALITY = 82
_SHRINKING = 0.9
_LEAST_SIDE = 48


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A JPEG of `width` x `height` pixels."""

    jpeg: bytes
    width: int
    height: int

    @classmethod
    def of(cls, image: Image.Image, side: int, most_bytes: int) -> "Thumbnail":
        """The picture within a square, smaller still where its bytes ask for it; never enlarged.

        Args:
            image: of any mode and size.
            side: of the square, pixels.
            most_bytes: of the JPEG, kept unless a side of 48 pixels is more.
        """
        small = image.convert("RGB")
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        data = _jpeg(small)
        while len(data) > most_bytes and max(small.size) > _LEAST_SIDE:
            share = min(_SHRINKING, (most_bytes / len(data)) ** 0.5)
            side = max(_LEAST_SIDE, int(max(small.size) * share))
            small.thumbnail((side, side), Image.Resampling.LANCZOS)
            data = _jpeg(small)
        return cls(data, *small.size)

    @property
    def data_uri(self) -> str:
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode()}"

    def image(self) -> Image.Image:
        """The picture again, mode RGB."""
        return Image.open(io.BytesIO(self.jpeg), formats=["JPEG"]).convert("RGB")


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def evenly_chosen(total: int, most: int) -> list[int]:
    """At most `most` indices below `total`, evenly spread, with the first and the last."""
    if total <= most or most < 2:
        return list(range(min(total, most)))
    return [round(place * (total - 1) / (most - 1)) for place in range(most)]
