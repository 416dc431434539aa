"""Class images without a host: a folder of them, filled up by the model itself, joined to a dataset."""

from dataclasses import dataclass, replace
from pathlib import Path

from ..config import PreviewConfig
from ..data.class_images import (
    class_dataset_config,
    class_image_seed,
    class_image_size,
    missing_class_images,
    next_class_image,
    require_apart,
    save_class_image,
)
from ..data.dataset import TrainingSet, load_dataset
from ..data.dataset_sets import with_class_images
from ..errors import CancelledError, InputError
from ..events import Listener
from ..sdxl.sdxl_model import HeadlessSDXL

DRAWN_AT_ONCE = 8
"""The model is read from disk anew for each lot; what is drawn before Ctrl-C is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFolder:
    """Where class images lie, what they are called, and how many there should be."""

    path: Path
    class_prompt: str = ""
    num_class_images: int = 0


def add_class_images(
    dataset: TrainingSet, folder: ClassFolder, model: HeadlessSDXL | None, listener: Listener
) -> TrainingSet:
    """The dataset with the class images of a folder; those that are missing are drawn into it first.

    Without a model none can be, and `num_class_images` must be 0.

    Raises:
        InputError: no class images and no prompt to draw them with, or a folder that cannot be used.
        CancelledError: the listener asked to stop; the pictures drawn so far are kept.
    """
    require_apart(dataset, folder.path)
    if missing := missing_class_images(folder.path, folder.num_class_images):
        if not folder.class_prompt.strip():
            raise InputError(
                f"class folder '{folder.path.name}' holds {folder.num_class_images - missing} of "
                f"{folder.num_class_images} class images and class_prompt is empty: put pictures there, or "
                "give a class_prompt to draw the missing ones with, such as 'a photo of a dog'"
            )
        assert model is not None, "class images are missing, and there is no model to draw them"
        _draw(dataset, folder, missing, model, listener)
    if not folder.path.is_dir():
        raise InputError(f"class folder '{folder.path.name}' is not there: check the path")
    config = class_dataset_config(dataset, folder.class_prompt)
    return with_class_images(dataset, load_dataset(folder.path, config))


def _draw(
    dataset: TrainingSet, folder: ClassFolder, missing: int, model: HeadlessSDXL, listener: Listener
) -> None:
    preview, size = PreviewConfig(), class_image_size(dataset)
    first = next_class_image(folder.path)
    for start in range(0, missing, DRAWN_AT_ONCE):
        listener.phase("drawing class images", start, missing)
        if listener.should_stop():
            raise CancelledError(0, None)
        index = first + start
        lot = min(DRAWN_AT_ONCE, missing - start)
        # sample counts the seed up from picture to picture, as class_image_seed does
        config = replace(preview, seed=class_image_seed(preview.seed, index))
        for offset, image in enumerate(model.sample([folder.class_prompt] * lot, config, *size)):
            save_class_image(folder.path, index + offset, image)
    listener.phase("drawing class images", missing, missing)
