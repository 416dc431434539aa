"""Pictures whose files are no longer those that a dataset was loaded from."""

from pathlib import Path

from .picture_checks import digests_of
from .training_set import TrainingSet, some


def changed_pictures(dataset: TrainingSet) -> list[str]:
    """Names of pictures, class images included, whose files have changed or gone since they were loaded."""
    class_pictures = dataset.class_set.pictures if dataset.class_set else ()
    pictures = [p for p in (*dataset.pictures, *class_pictures) if p.path != Path()]
    digests = digests_of([picture.path for picture in pictures])
    return [p.name for p, digest in zip(pictures, digests, strict=True) if digest != p.digest]


def changed_note(dataset: TrainingSet) -> list[str]:
    """A sentence for the report of a run that has encoded its pictures before, or nothing."""
    names = changed_pictures(dataset)
    if not names:
        return []
    return [
        f"{len(names)} pictures changed or went while the run was under way, which learned them as they "
        f"were: {some(names)}"
    ]
