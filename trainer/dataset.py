"""A folder of pictures, checked and placed: what a run trains on, and the fingerprint that names it."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor
from torch import Tensor

from .buckets import Placement, Size, place, random_crops
from .captions import clean_caption, with_trigger
from .config import DatasetConfig
from .dataset_notes import dataset_notes
from .errors import InputError
from .folder import Note, Scan, scan_folder
from .picture_checks import CheckedPicture, Progress, check_pictures, digests_of
from .pictures import UnreadablePictureError, decode_picture, read_bytes

MAX_LISTED_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Picture:
    """One usable picture. Sizes are of the upright picture, in pixels.

    `captions` already hold the trigger word and are never empty: ("",) stands for no caption at all.
    `repeats` counts how often an epoch shows it, folder and settings multiplied. `digest` is the SHA-256
    of the file.
    """

    path: Path
    name: str
    width: int
    height: int
    captions: tuple[str, ...]
    caption_source: str
    repeats: int
    digest: str


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to see a picture: scaled to `scaled`, cut to `bucket` at the crop, then mirrored or not.

    Sizes are (width, height); the crop counts in the scaled, not yet mirrored picture. All in pixels.
    """

    picture: int
    bucket: Size
    crop_top: int
    crop_left: int
    scaled: Size
    flipped: bool


@dataclass(frozen=True)
class TrainingSet:
    """The pictures of a run, sorted by name; `variants[i]` are the ways to see `pictures[i]`.

    All variants of a picture lie in the same bucket.
    """

    pictures: tuple[Picture, ...]
    config: DatasetConfig
    notes: tuple[Note, ...]
    variants: tuple[tuple[Variant, ...], ...]
    fingerprint: str
    root_name: str

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
        if self.config.trigger.strip():
            return clean_caption(self.config.trigger)[0]
        captions = {caption for picture in self.pictures for caption in picture.captions}
        return captions.pop() if len(captions) == 1 else ""

    def samples_in(self, bucket: Size) -> int:
        """Samples an epoch draws from a bucket."""
        return sum(self.pictures[index].repeats for index in self.buckets[bucket])

    def batches_per_epoch(self, batch_size: int) -> int:
        """A batch never mixes buckets, so each bucket may end with a smaller one."""
        return sum(math.ceil(self.samples_in(bucket) / batch_size) for bucket in self.buckets)

    def steps_per_epoch(self, batch_size: int, accumulation: int = 1) -> int:
        """Optimizer steps in an epoch, `accumulation` batches each."""
        return math.ceil(self.batches_per_epoch(batch_size) / accumulation)

    def crop_picture(self, variant: Variant) -> Image.Image:
        """The variant as an RGB picture of its bucket's size.

        Raises:
            InputError: the file is gone, or is not the one that was loaded.
        """
        picture = self.pictures[variant.picture]
        try:
            data = read_bytes(picture.path)
            if hashlib.sha256(data).hexdigest() != picture.digest:
                raise UnreadablePictureError("changed after the dataset was loaded: load the dataset again")
            image = decode_picture(data, self.config.background)
        except UnreadablePictureError as error:
            raise InputError(f"{picture.name} {error}") from error
        if image.size != variant.scaled:
            image = image.resize(variant.scaled, Image.Resampling.LANCZOS)
        left, top = variant.crop_left, variant.crop_top
        image = image.crop((left, top, left + variant.bucket[0], top + variant.bucket[1]))
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if variant.flipped else image

    def load_pixels(self, variant: Variant) -> Tensor:
        """The variant as pixels (3, H, W), float32 in [-1, 1].

        Raises:
            InputError: the file is gone, or is not the one that was loaded.
        """
        values = torch.from_numpy(np.array(self.crop_picture(variant), dtype=np.float32))
        return (values / 127.5 - 1).permute(2, 0, 1).contiguous()

    def true_time_ids(self, variant: Variant) -> tuple[int, int, int, int, int, int]:
        """(orig_h, orig_w, crop_top, crop_left, target_h, target_w) of what the variant shows, pixels.

        The crop is the one really made, counted in the mirrored picture where it is mirrored (SDXL
        paper, arXiv 2307.01952, 2.2). kohya's trainer stores a letterbox offset here, which is another.
        """
        picture = self.pictures[variant.picture]
        width, height = variant.bucket
        left = variant.scaled[0] - width - variant.crop_left if variant.flipped else variant.crop_left
        return picture.height, picture.width, variant.crop_top, left, height, width


def load_dataset(root: Path, config: DatasetConfig, on_progress: Progress | None = None) -> TrainingSet:
    """Read a folder: find, decode and place every picture, and give each its captions.

    A picture that cannot be used is left out and named in the notes. No file is written.

    Args:
        root: the folder.
        config: the dataset settings.
        on_progress: called with (done, total) as pictures are decoded; what it raises, ends the reading.

    Raises:
        InputError: one message with all problems that stop a run.
    """
    scan = scan_folder(root, config)
    usable, skipped = check_pictures(scan.pictures, on_progress)
    _refuse_problems(root, [*_setting_problems(config), *scan.problems, *_none_left(scan, usable, skipped)])
    chosen = _choose(usable, config.max_train_samples)
    notes = [*skipped, *scan.notes]
    if len(chosen) < len(usable):
        notes.append(Note("info", "", f"{len(usable) - len(chosen)} pictures left out by max_train_samples"))
    placements = [
        place(item.facts.width, item.facts.height, config.resolution, config.bucket_step, config.upscale)
        for item in chosen
    ]
    return TrainingSet(
        pictures=tuple(_picture(item, config) for item in chosen),
        config=config,
        notes=(*notes, *dataset_notes(chosen, placements, config)),
        variants=tuple(
            _variants(index, placement, chosen[index].digest, config)
            for index, placement in enumerate(placements)
        ),
        fingerprint=_fingerprint(scan, config),
        root_name=root.resolve().name,
    )


def folder_fingerprint(root: Path, config: DatasetConfig) -> str:
    """What `load_dataset` would give as fingerprint, without decoding a picture.

    It changes when the bytes of a picture, a caption, a count of repeats or a setting changes, and when
    pictures come, go or change their order; names and times of files do not matter.

    Raises:
        InputError: `root` is no folder.
    """
    return _fingerprint(scan_folder(root, config), config)


def _fingerprint(scan: Scan, config: DatasetConfig) -> str:
    hasher = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for found, digest in zip(scan.pictures, digests_of(scan.pictures), strict=True):
        hasher.update(json.dumps([digest, found.captions, found.repeats]).encode())
    return hasher.hexdigest()


def _setting_problems(config: DatasetConfig) -> list[str]:
    try:
        ImageColor.getrgb(config.background)
    except ValueError:
        return [f"background is '{config.background}', but must be #rrggbb or a colour name such as 'white'"]
    return []


def _none_left(scan: Scan, usable: Sequence[CheckedPicture], skipped: Sequence[Note]) -> list[str]:
    """The problem of having no usable picture, or no problem."""
    if usable:
        return []
    if scan.pictures:
        return [f"none of its {len(scan.pictures)} pictures can be used", *map(str, skipped)]
    only = f", only {scan.num_caption_files} caption files" if scan.num_caption_files else ""
    return [
        f"there are no pictures in it{only}: put JPEG, PNG or WebP files there",
        *(str(note) for note in scan.notes if note.kind == "skipped"),
    ]


def _refuse_problems(root: Path, problems: Sequence[str]) -> None:
    if not problems:
        return
    lines = [f"- {problem}" for problem in problems[:MAX_LISTED_PROBLEMS]]
    if len(problems) > MAX_LISTED_PROBLEMS:
        lines.append(f"- and {len(problems) - MAX_LISTED_PROBLEMS} more")
    raise InputError("\n".join([f"the dataset '{root}' cannot be used:", *lines]))


def _choose(usable: list[CheckedPicture], most: int) -> list[CheckedPicture]:
    """At most `most` pictures (0 = all) by lot: the lot of a picture hangs on its bytes alone."""
    if not 0 < most < len(usable):
        return usable
    lots = {item.digest: hashlib.sha256(f"lot/{item.digest}".encode()).digest() for item in usable}
    drawn = sorted(usable, key=lambda item: (lots[item.digest], item.found.name))[:most]
    return sorted(drawn, key=lambda item: item.found.name)


def _picture(item: CheckedPicture, config: DatasetConfig) -> Picture:
    trigger = clean_caption(config.trigger)[0]
    return Picture(
        path=item.found.path,
        name=item.found.name,
        width=item.facts.width,
        height=item.facts.height,
        captions=tuple(with_trigger(caption, trigger) for caption in item.found.captions or ("",)),
        caption_source=item.found.caption_source,
        repeats=item.found.repeats * config.repeats,
        digest=item.digest,
    )


def _variants(index: int, placement: Placement, digest: str, config: DatasetConfig) -> tuple[Variant, ...]:
    crops = random_crops(placement, digest) if config.crop == "random" else [placement]
    return tuple(
        Variant(
            picture=index,
            bucket=crop.bucket,
            crop_top=crop.crop_top,
            crop_left=crop.crop_left,
            scaled=crop.scaled,
            flipped=flipped,
        )
        for crop in crops
        for flipped in ((False, True) if config.flip else (False,))
    )
