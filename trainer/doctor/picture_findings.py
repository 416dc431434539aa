"""Findings about pictures: near-duplicates, blur, too few pixels, much cut away, sizes that fill no batch."""

from collections.abc import Sequence

from ..data.buckets import Size
from ..data.picture import Picture
from ..data.training_set import TrainingSet
from .examination import Finding, Severity
from .picture_likeness import near_duplicates
from .picture_measures import Measures, covering_size
from .sharpness import blurred

SMALL, ALMOST = 0.5, 0.9
"""Share of the pixels that the resolution has room for: below the first a picture is too small, below the
second it trains at a smaller size of its own, or was enlarged a little."""
MUCH_CUT = 0.2
"""Share of a scaled picture outside its crop. Up to 8:1 it is at most 0.18, at 512 pixels and more."""
MANY = 0.5
"""Share of the pictures from which on a look is more likely meant than a mistake."""
SMALL_BATCH_SHARE = 0.25
"""Share of the samples in sizes that fill no batch from which on it matters."""


def picture_findings(dataset: TrainingSet, measures: Sequence[Measures]) -> list[Finding]:
    """What the pixels and sizes tell; `measures[i]` are those of `dataset.pictures[i]`."""
    findings = [
        *_blank(measures),
        *_near_duplicates(dataset, measures),
        *_blurred(measures),
        *_small(dataset),
        *_cut_away(dataset),
    ]
    return [finding for finding in findings if finding.pictures]


def _blank(measures: Sequence[Measures]) -> list[Finding]:
    plain = tuple(index for index, measure in enumerate(measures) if measure.likeness.is_plain)
    return [
        Finding(
            "blank",
            "should",
            f"{counted(plain, 'shows', 'show')} next to nothing but one colour",
            "There is nothing to learn in them: take them out, or save them anew if they should show more.",
            plain,
        )
    ]


def _near_duplicates(dataset: TrainingSet, measures: Sequence[Measures]) -> list[Finding]:
    """Byte-identical files are among the dataset's own notes, so each is looked at once.

    Of those alike the one with the most pixels is the picture, the others are its duplicates.
    """
    first: dict[str, int] = {}
    for index, picture in enumerate(dataset.pictures):
        first.setdefault(picture.digest, index)
    different = sorted(
        first.values(), key=lambda i: (-dataset.pictures[i].width * dataset.pictures[i].height, i)
    )
    copies = near_duplicates([measures[index].likeness for index in different])
    copies.sort(key=lambda copy: different[copy.index])
    of = [dataset.pictures[different[copy.of]].name for copy in copies]
    finding = Finding(
        "near-duplicate",
        "should",
        f"{counted([copy.index for copy in copies], 'shows', 'show')} nearly the same as another picture",
        "Such a picture counts twice, and the rest is learned less: keep the best of each. To train on "
        "mirrored pictures, use flip of Load Dataset; for more of one picture, its repeats.",
        tuple(different[copy.index] for copy in copies),
        tuple(
            f"near-duplicate of {name}{', mirrored' if copy.mirrored else ''}"
            for copy, name in zip(copies, of, strict=True)
        ),
    )
    return [finding]


def _blurred(measures: Sequence[Measures]) -> list[Finding]:
    soft = tuple(blurred([measure.sharpness for measure in measures]))
    if len(soft) > MANY * len(measures) and len(measures) > 1:
        return [
            Finding(
                "blurred",
                "note",
                f"{len(soft)} of {len(measures)} pictures have no sharp edge anywhere",
                "That is fine where the style is soft. Otherwise the LoRA learns to draw blurred pictures: "
                "look for sharper ones, or lower the resolution.",
                soft,
            )
        ]
    return [
        Finding(
            "blurred",
            "should",
            f"{counted(soft, 'looks', 'look')} blurred, shaken or enlarged from something small",
            "The LoRA learns the blur along with the rest: take them out unless they are meant to be soft, "
            "or write 'blurry' into their captions.",
            soft,
        )
    ]


def _small(dataset: TrainingSet) -> list[Finding]:
    resolution, step = dataset.config.resolution, dataset.config.bucket_step
    shares = [
        1 if _is_shrunk(picture, ways[0].bucket, step) else picture.width * picture.height / resolution**2
        for picture, ways in zip(dataset.pictures, dataset.variants, strict=True)
    ]
    fate = "was enlarged" if dataset.config.upscale else "trains at a smaller size of its own"
    return [
        _too_small(
            dataset,
            "should",
            [index for index, share in enumerate(shares) if share < SMALL],
            "less than half",
            f"Each {fate} and brings little detail. Look for the originals, enlarge them with an upscaling "
            "model, or lower the resolution if most are small.",
        ),
        _too_small(
            dataset,
            "note",
            [index for index, share in enumerate(shares) if SMALL <= share < ALMOST],
            "somewhat less than",
            f"Each {fate}, and a little detail is missing. Larger ones would be better.",
        ),
    ]


def _is_shrunk(picture: Picture, bucket: Size, step: int) -> bool:
    """Whether it had pixels for a larger size: a part of a joined set may have a lower resolution."""
    return picture.width - bucket[0] >= step and picture.height - bucket[1] >= step


def _too_small(
    dataset: TrainingSet, severity: Severity, indices: Sequence[int], how_much: str, advice: str
) -> Finding:
    message = f"{counted(indices, 'has', 'have')} {how_much} the pixels that resolution"
    return Finding(
        "small",
        severity,
        f"{message} {dataset.config.resolution} has room for",
        advice,
        tuple(indices),
        tuple(f"only {p.width}x{p.height}" for p in (dataset.pictures[index] for index in indices)),
    )


def _cut_away(dataset: TrainingSet) -> list[Finding]:
    shares = []
    for picture, ways in zip(dataset.pictures, dataset.variants, strict=True):
        width, height = covering_size(picture, ways[0].bucket)
        shares.append(1 - ways[0].bucket[0] * ways[0].bucket[1] / (width * height))
    much = tuple(index for index, share in enumerate(shares) if share > MUCH_CUT)
    return [
        Finding(
            "cut away",
            "should",
            f"{counted(much, 'loses', 'lose')} more than a fifth to the crop",
            "Look at the sheet: what is cut off is never seen. Crop them yourself, so that the best part "
            "stays and no side is more than four times the other. Of small pictures, bucket_step 32 cuts "
            "off less.",
            much,
            tuple(f"{shares[index]:.0%} cut away" for index in much),
        )
    ]


def batch_findings(dataset: TrainingSet, batch_size: int) -> list[Finding]:
    """Sizes with fewer samples in an epoch than a batch has room for."""
    samples_in = dataset.samples_by_bucket
    lonely = [
        index
        for bucket, members in dataset.buckets.items()
        if samples_in[bucket] < batch_size
        for index in members
    ]
    if not lonely:
        return []
    samples = sum(dataset.pictures[index].repeats for index in lonely)
    severe = samples > SMALL_BATCH_SHARE * dataset.num_samples
    lonely.sort()
    return [
        Finding(
            "small batches",
            "should" if severe else "note",
            f"{counted(lonely, 'stands', 'stand')} in a size with fewer samples than the batch size of "
            f"{batch_size}",
            "A batch holds one size only, so theirs are smaller and each of these pictures counts more in "
            "its step. Crop them to the shape of the others, set a smaller batch size, or leave it if they "
            "are few.",
            tuple(lonely),
            tuple("{}x{}".format(*dataset.variants[index][0].bucket) for index in lonely),
        )
    ]


def counted(indices: Sequence[int], one: str, many: str) -> str:
    """How many pictures do something: `1 picture shows`, `3 pictures show`."""
    return f"1 picture {one}" if len(indices) == 1 else f"{len(indices)} pictures {many}"
