"""A folder of pictures, checked and placed, becomes a training set."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from PIL import ImageColor

from ..config import DatasetConfig
from ..errors import InputError
from .buckets import Placement, place, random_crops
from .captions import clean_caption, with_trigger
from .dataset_notes import dataset_notes
from .folder import FoundPicture, Note, Scan, scan_folder
from .picture_checks import CheckedPicture, Progress, check_pictures, digests_of
from .training_set import Picture, TrainingSet, Variant, derived_fingerprint

__all__ = [
    "Picture",
    "TrainingSet",
    "Variant",
    "folder_fingerprint",
    "folder_state",
    "load_dataset",
    "place_pictures",
    "require_usable",
]

MAX_LISTED_PROBLEMS = 20


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
    dataset = place_pictures(usable, config, root.resolve().name)
    return replace(
        dataset,
        notes=(*skipped, *scan.notes, *dataset.notes),
        fingerprint=_scan_fingerprint(scan, config),
        roots=(root.resolve(),),
    )


def place_pictures(usable: Sequence[CheckedPicture], config: DatasetConfig, root_name: str) -> TrainingSet:
    """The set of these pictures: drawn by `max_train_samples`, put into buckets, with notes on what is odd.

    Its fingerprint is that of these pictures; `roots` are empty.

    Args:
        usable: at least one picture, sorted by name.
        config: the dataset settings.
        root_name: what people call the set.

    Raises:
        InputError: a setting without meaning.
    """
    require_usable(config)
    chosen = _choose(usable, config.max_train_samples)
    notes = []
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
        fingerprint=_fingerprint([item.found for item in usable], [item.digest for item in usable], config),
        root_name=root_name,
    )


def require_usable(config: DatasetConfig) -> None:
    """Refuse settings that only reading pictures can judge.

    Raises:
        InputError: the background is no colour.
    """
    if problems := _setting_problems(config):
        raise InputError("; ".join(problems))


def folder_fingerprint(root: Path, config: DatasetConfig) -> str:
    """What `load_dataset` would give as fingerprint, without decoding a picture.

    It changes when the bytes of a picture, a caption, a count of repeats or a setting changes, and when
    pictures come, go or change their order; names and times of files do not matter.

    Raises:
        InputError: `root` is no folder.
    """
    return _scan_fingerprint(scan_folder(root, config), config)


def folder_state(root: Path, config: DatasetConfig) -> str:
    """`folder_fingerprint`, and what changes when a mask file beside a picture comes, goes or changes.

    Raises:
        InputError: `root` is no folder.
    """
    scan = scan_folder(root, config)
    masks = {at: found.mask_path for at, found in enumerate(scan.pictures) if found.mask_path is not None}
    digests = digests_of(list(masks.values()))
    return derived_fingerprint("with masks", _scan_fingerprint(scan, config), list(masks), digests)


def _scan_fingerprint(scan: Scan, config: DatasetConfig) -> str:
    return _fingerprint(scan.pictures, digests_of([found.path for found in scan.pictures]), config)


def _fingerprint(pictures: Sequence[FoundPicture], digests: Sequence[str], config: DatasetConfig) -> str:
    hasher = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for found, digest in zip(pictures, digests, strict=True):
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


def _choose(usable: Sequence[CheckedPicture], most: int) -> Sequence[CheckedPicture]:
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
        background=config.background,
        mask_path=item.found.mask_path,
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
