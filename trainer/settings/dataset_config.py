"""Settings of a dataset."""

from dataclasses import dataclass
from typing import Literal, get_args

from .config_checks import between, one_of, refuse

Crop = Literal["center", "random"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    resolution: int = 1024
    """Side of the square whose area every bucket has, 768 to 1024 pixels: SDXL was made for 1024, 768 is
    faster; kohya: resolution."""
    repeats: int = 1
    """How often each picture is seen in an epoch, 1 to 20; multiplied by the number in a folder's name such
    as 10_cat, where there is one; kohya: num_repeats."""
    trigger: str = ""
    """Word put in front of every caption that does not hold it; kohya: instance token."""
    prompt: str = ""
    """Caption of pictures that have none of their own; kohya: class tokens, diffusers: instance_prompt."""
    caption_column: str = "text"
    """Column of metadata.jsonl or metadata.csv that holds the caption, or a list of captions."""
    crop: Crop = "center"
    """center: cut the bucket out of the middle of the scaled picture; random: make up to four cuts of it at
    random places, of which each step draws one; kohya: random_crop."""
    flip: bool = False
    """Train on the mirrored picture too; kohya: flip_aug. Not for faces, text or anything one-sided."""
    upscale: bool = False
    """Enlarge pictures that are smaller than their bucket; off: they get a smaller bucket of their own;
    kohya calls that bucket_no_upscale."""
    bucket_step: int = 64
    """Bucket sides are multiples of this, pixels; 64, or 32 for more shapes; kohya: bucket_reso_steps."""
    background: str = "#ffffff"
    """Colour behind transparent pixels, as #rrggbb or a colour name."""
    max_train_samples: int = 0
    """Use only this many pictures, drawn by the dataset's own fixed seed; 0 = all."""

    def __post_init__(self) -> None:
        refuse(
            "dataset settings",
            [
                between("resolution", self.resolution, 64, 4096),
                between("repeats", self.repeats, 1, 10_000),
                one_of("crop", self.crop, get_args(Crop)),
                ""
                if self.bucket_step in (32, 64, 128)
                else f"bucket_step is {self.bucket_step}, but SDXL needs 32, 64 or 128",
                between("max_train_samples", self.max_train_samples, 0, 10_000_000),
                ""
                if self.caption_column.strip()
                else "caption_column is empty, but must name the caption column ('text')",
            ],
        )
