"""Class images that a model draws into a folder: how many are missing, which come next, written once.

The file names are those of diffusers' DreamBooth scripts, `{index}-{sha1}`, with PNG for JPEG.
"""

import hashlib
import os
import re
from pathlib import Path

from PIL import Image

from ..config import MAX_SEED, DatasetConfig
from ..errors import InputError
from ..files.atomic_file import write_atomically
from .buckets import Size, bucket_sizes
from .folder import scan_folder
from .picture_checks import check_pictures
from .training_set import TrainingSet

_DRAWN = re.compile(r"(\d{5,})-[0-9a-f]{12}\.png")


def missing_class_images(folder: Path, num_class_images: int) -> int:
    """How many pictures `folder` lacks of `num_class_images`; every usable one in it or below counts.

    Raises:
        InputError: `folder` is a file.
    """
    if not folder.exists():
        return num_class_images
    usable, _ = check_pictures(scan_folder(folder, DatasetConfig()).pictures)
    return max(0, num_class_images - len(usable))


def next_class_image(folder: Path) -> int:
    """The index after the last one drawn into `folder`, so that one taken out does not come again."""
    names = [place.name for place in folder.iterdir()] if folder.is_dir() else []
    indices = [int(found[1]) for name in names if (found := _DRAWN.fullmatch(name))]
    return max(indices, default=-1) + 1


def class_image_seed(seed: int, index: int) -> int:
    """The noise seed of a class image: KSampler's, counted up from `seed`."""
    return (seed + index) % (MAX_SEED + 1)


def save_class_image(folder: Path, index: int, image: Image.Image) -> Path:
    """Write a class image as `{index:05d}-{sha1[:12]}.png`, whole or not at all, and never over another.

    Args:
        folder: is made if it is not there.
        index: of the picture among those drawn.
        image: mode RGB.

    Returns:
        The file, which may have been there before: the name tells the pixels.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    pixels = hashlib.sha1(image.tobytes(), usedforsecurity=False).hexdigest()
    path = folder / f"{index:05d}-{pixels[:12]}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, lambda place: image.save(place, "PNG"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            f"class image {path.name} cannot be written into folder '{folder.name}': {reason}: free some "
            "space or choose another folder"
        ) from error
    return path


def class_image_size(dataset: TrainingSet) -> Size:
    """(width, height) to draw class images at: the dataset's most frequent bucket of full area, pixels."""
    full = set(bucket_sizes(dataset.config.resolution, dataset.config.bucket_step))
    frequent = dataset.most_frequent_size
    square = dataset.config.resolution // dataset.config.bucket_step * dataset.config.bucket_step
    return frequent if frequent in full else (max(square, dataset.config.bucket_step),) * 2


def class_dataset_config(dataset: TrainingSet, class_prompt: str) -> DatasetConfig:
    """How a folder of class images is read: at the dataset's sizes, without its trigger word and repeats."""
    own = dataset.config
    return DatasetConfig(
        resolution=own.resolution,
        prompt=class_prompt,
        crop=own.crop,
        flip=own.flip,
        upscale=own.upscale,
        bucket_step=own.bucket_step,
        background=own.background,
    )


def require_apart(dataset: TrainingSet, folder: Path) -> None:
    """Refuse a folder that is, lies in or holds the folder of the dataset itself.

    Pictures drawn there would be learned as the subject the next time the dataset is read.

    Raises:
        InputError: it is such a folder.
    """
    place = Path(os.path.realpath(folder))
    for root in dataset.roots:
        if place == root or place.is_relative_to(root) or root.is_relative_to(place):
            raise InputError(
                f"the class folder '{folder.name}' and the dataset's folder '{root.name}' lie in one "
                "another: choose a folder for class images beside it, such as 'class_images'"
            )
