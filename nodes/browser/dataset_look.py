"""A look at a dataset before anything runs: how many pictures, the arithmetic, the sheet. Writes nothing."""

import asyncio
import base64
import io
import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ...trainer.config import DatasetConfig
from ...trainer.errors import InputError
from ..comfy_bridge.folders import dataset_choices, dataset_folder
from ..dataset import FIELDS
from ..shown_folder import shown_as
from .json_body import BadRequestError
from .widget_values import made_of_widgets

if TYPE_CHECKING:
    from PIL import Image

    from ...trainer.data.dataset import TrainingSet

MAX_TILES = 20
MAX_SHEET_BYTES = 150_000
SHEET_FORMS = ((1.0, 80), (0.85, 75), (0.7, 70), (0.55, 65), (0.4, 55), (0.25, 40))
"""(scale, JPEG quality), tried in this order until the sheet is small enough."""
MAX_KEPT = 4

_Out = TypeVar("_Out")


class SupersededError(Exception):
    """The one who asked has asked again."""


class NoSuchFolderError(InputError):
    """A folder that Load Dataset does not list: most often one that the user has yet to make."""


@dataclass(frozen=True, slots=True)
class DatasetChoice:
    """What a LoadDataset node is set to."""

    folder: str
    config: DatasetConfig

    @classmethod
    def of(cls, content: Any) -> "DatasetChoice":
        """`{"folder": "input/cats", "fields": {...}}` with widgets of LoadDataset.

        Raises:
            BadRequestError: another form, or values of other types.
            InputError: values that a run would refuse.
        """
        if not isinstance(content, dict) or not isinstance(content.get("folder"), str):
            raise BadRequestError("dataset: a folder by its name in Load Dataset, and fields are expected")
        config = made_of_widgets(DatasetConfig, content.get("fields", {}), "dataset settings", FIELDS)
        return cls(content["folder"], config)


@dataclass(slots=True)
class _Kept:
    state: str
    dataset: "TrainingSet"
    look: dict[str, Any] | None = None


class DatasetLooks:
    """Datasets of this server as browsers look at them: read one at a time in a thread, a few kept.

    One who asks again, by the same `asker`, takes back what he asked before, waiting or being read.
    """

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Lock()
        self._numbers = itertools.count()
        self._newest: dict[str, int] = {}
        self._kept: OrderedDict[DatasetChoice, _Kept] = OrderedDict()

    async def look(self, choice: DatasetChoice, asker: str = "") -> dict[str, Any]:
        """What the node shows: see `dataset_look`.

        Raises:
            NoSuchFolderError: the folder is none of those that Load Dataset lists.
            InputError: the folder cannot be used.
            SupersededError: see the class.
        """

        def work(is_wanted: Callable[[], bool]) -> dict[str, Any]:
            kept = self._current(choice, is_wanted)
            if kept.look is None:
                with shown_as(dataset_folder(choice.folder), choice.folder):
                    kept.look = dataset_look(kept.dataset)
            return kept.look

        return await self._in_turn(asker, work)

    async def dataset(self, choices: Sequence[DatasetChoice], asker: str = "") -> "TrainingSet":
        """The dataset itself, several joined into one of the same number of steps; raises like `look`."""

        def work(is_wanted: Callable[[], bool]) -> "TrainingSet":
            from ...trainer.data.dataset_sets import join_datasets

            read = [self._current(choice, is_wanted).dataset for choice in choices]
            # weights of the loss decide nothing about the steps
            return read[0] if len(read) == 1 else join_datasets([(dataset, 1.0) for dataset in read])

        return await self._in_turn(asker, work)

    async def _in_turn(self, asker: str, work: Callable[[Callable[[], bool]], _Out]) -> _Out:
        number = next(self._numbers)
        key = asker or f"nobody {number}"
        self._newest[key] = number

        def is_wanted() -> bool:
            return self._newest.get(key) == number

        try:
            async with self._one_at_a_time:
                _require(is_wanted)
                return await asyncio.to_thread(work, is_wanted)
        finally:
            if is_wanted():
                del self._newest[key]

    def _current(self, choice: DatasetChoice, is_wanted: Callable[[], bool]) -> _Kept:
        """The dataset as it lies in its folder now."""
        from ...trainer.data.dataset import folder_state, load_dataset

        if choice.folder not in dataset_choices():
            raise NoSuchFolderError(
                "this folder is none of those that Load Dataset lists: put pictures there, or choose "
                "another, and press R"
            )
        root = dataset_folder(choice.folder)
        with shown_as(root, choice.folder):
            state = folder_state(root, choice.config)
            kept = self._kept.get(choice)
            if kept is None or kept.state != state:
                dataset = load_dataset(root, choice.config, lambda done, total: _require(is_wanted))
                kept = self._kept[choice] = _Kept(state, dataset)
        self._kept.move_to_end(choice)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return kept


def _require(is_wanted: Callable[[], bool]) -> None:
    if not is_wanted():
        raise SupersededError


def dataset_look(dataset: "TrainingSet") -> dict[str, Any]:
    """What a LoadDataset node shows of its dataset: numbers, sentences, and the sheet as a data URI.

    Raises:
        InputError: a picture is gone or has changed since the dataset was read.
    """
    from ...trainer.data.contact_sheet import dataset_sheet
    from ...trainer.data.dataset_report import describe, describe_epoch

    samples = dataset.samples_by_bucket
    repeated = Counter(picture.repeats for picture in dataset.pictures)
    kinds = [note.kind for note in dataset.notes]
    return {
        "count": len(dataset.pictures),
        "samples": dataset.num_samples,
        "steps": dataset.batches_per_epoch(1),
        "repeats": [[number, times] for times, number in sorted(repeated.items())],
        "summary": describe_epoch(dataset),
        "report": describe(dataset),
        "left_out": kinds.count("skipped"),
        "warnings": kinds.count("warning"),
        "buckets": [[*bucket, samples[bucket]] for bucket in samples],
        "sheet": small_picture(dataset_sheet(dataset, MAX_TILES)),
    }


def small_picture(picture: "Image.Image") -> str:
    """A JPEG of at most `MAX_SHEET_BYTES` as a data URI, made smaller or coarser where it must be."""
    data = b""
    for scale, quality in SHEET_FORMS:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        buffer = io.BytesIO()
        picture.resize(size).convert("RGB").save(buffer, "JPEG", quality=quality)
        data = buffer.getvalue()
        if len(data) <= MAX_SHEET_BYTES:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
