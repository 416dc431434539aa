"""What augmentation made of a dataset: its looks side by side, and what they cost."""

import math

from PIL import Image

from .augmentation import Augmentation
from .contact_sheet import SheetStyle, contact_sheet
from .masks import LATENT_DOWNSCALE
from .picture import Variant
from .training_set import TrainingSet
from .variant_pixels import cut_picture, open_picture

MAX_PICTURES, MAX_LOOKS = 6, 8
_LATENT_CHANNELS, _BYTES_PER_VALUE = 4, 4
_TILE = 192


def augmentation_sheet(
    dataset: TrainingSet, max_pictures: int = MAX_PICTURES, max_looks: int = MAX_LOOKS
) -> Image.Image:
    """Some pictures, evenly chosen, one in each row, with their looks in the columns and what was changed.

    Raises:
        InputError: a file is gone or has changed, or kornia is missing.
    """
    total = len(dataset.pictures)
    shown = (
        [number * total // max_pictures for number in range(max_pictures)]
        if total > max_pictures
        else range(total)
    )
    columns = min(max_looks, max(len(dataset.variants[index]) for index in shown))
    images: list[Image.Image] = []
    texts: list[str] = []
    for index in shown:
        whole = open_picture(dataset.pictures[index])
        ways = dataset.variants[index]
        for number in range(columns):
            way = ways[number % len(ways)]
            images.append(_small(cut_picture(whole, way)))
            texts.append(look_in_words(way, ways[0]))
    style = SheetStyle(
        tile=_TILE,
        row_titles=[" ".join(dataset.pictures[index].name.split()) for index in shown],
        row_notes=["{} x {}".format(*dataset.variants[index][0].bucket) for index in shown],
        column_titles=[f"variant {number}" for number in range(1, columns + 1)],
    )
    return contact_sheet(images, texts, columns, style)


def look_in_words(way: Variant, first: Variant) -> str:
    """What was changed, against the scale of the picture's first look."""
    if way.augmentation is None:
        return "mirrored" if way.flipped else "as it is"
    changes = ["mirrored"] if way.flipped else []
    growth = way.scaled[0] / first.scaled[0]
    if way.scaled != first.scaled:
        changes.append(f"x{growth:.2f}")
    if way.augmentation.rotation:
        seen = -way.augmentation.rotation if way.flipped else way.augmentation.rotation
        changes.append(f"turned {seen:+.1f}°")
    changes += _colours_in_words(way.augmentation)
    return ", ".join(changes) or "as it is"


def _colours_in_words(augmentation: Augmentation) -> list[str]:
    words = [
        f"{name} {getattr(augmentation, name):.2f}"
        for name in ("brightness", "contrast", "saturation")
        if getattr(augmentation, name) != 1
    ]
    return [*words, f"hue {360 * augmentation.hue:+.0f}°"] if augmentation.hue else words


def describe_augmentation(dataset: TrainingSet) -> str:
    """What the looks cost before training and on the device, and that the steps stay as they were."""
    assert dataset.augment is not None
    looks, pictures = sum(map(len, dataset.variants)), len(dataset.pictures)
    kept = sum(_latent_bytes(way) for ways in dataset.variants for way in ways)
    each = _latent_bytes(max((ways[0] for ways in dataset.variants), key=_latent_bytes))
    first = "the first is the picture as it is" if dataset.augment.keep_original else "none is kept as it is"
    return "\n".join(
        [
            f"Augmented: {pictures:,} pictures x {dataset.augment.variants_per_picture} variants; {first}.",
            f"  Cost: {looks:,} passes of the VAE before training instead of {pictures:,}, and "
            f"{kept / 2**20:,.1f} MiB of latents on the device (up to {each / 2**10:,.0f} KiB each).",
            f"  Steps: {dataset.steps_per_epoch(1):,} an epoch at batch 1, as without; each draws one "
            "variant of each of its pictures.",
        ]
    )


def _latent_bytes(way: Variant) -> int:
    """256 KiB for 1024 x 1024 pixels."""
    return _LATENT_CHANNELS * _BYTES_PER_VALUE * math.prod(way.bucket) // LATENT_DOWNSCALE**2


def _small(image: Image.Image) -> Image.Image:
    """A sheet holds many pictures; none is needed larger than it is shown."""
    image.thumbnail((_TILE, _TILE), Image.Resampling.LANCZOS)
    return image
