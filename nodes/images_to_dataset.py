"""ImagesToDataset: pictures and captions wired from the graph become a dataset to train on."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from comfy_api.latest import io

from ..trainer.config import DatasetConfig
from .comfy_bridge.progress import report_progress
from .dataset_outputs import dataset_outputs, dataset_values
from .widgets import CATEGORY, hidden_value, widget

# in the order in which they stand on the node; more may only be appended
FIELDS = ("trigger", "resolution", "repeats", "crop", "flip", "upscale", "background", "bucket_step")
ADVANCED = ("upscale", "background", "bucket_step")


class ImagesToDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_ImagesToDataset",
            display_name="Images to Dataset",
            category=CATEGORY,
            description="Pictures of the graph to train on, with captions and masks where wired: batches, or "
            "lists of pictures of different sizes. They are copied; no file is written.",
            hidden=[io.Hidden.unique_id],
            is_input_list=True,
            inputs=[*_sockets(), *(widget(DatasetConfig, name, name in ADVANCED) for name in FIELDS)],
            outputs=dataset_outputs(),
        )

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        captions: Sequence[Any] = (),
        mask: Sequence[torch.Tensor | None] = (),
        **fields: list[Any],
    ) -> io.NodeOutput:
        from ..trainer.data.given_pictures import given_dataset

        # a node that takes lists gets its widgets as lists of one, too
        config = DatasetConfig(**{name: values[0] for name, values in fields.items()})
        dataset = given_dataset(
            [picture for batch in images for picture in (batch if batch.ndim == 4 else [batch])],
            list(_texts(captions or ())),
            config,
            [one for one in mask or () if one is not None],
            report_progress("copying pictures", hidden_value(cls, "unique_id")),
        )
        return dataset_values(dataset)


def _sockets() -> list[io.Input]:
    return [
        io.Image.Input(
            "images", tooltip="Pictures of any sizes: a batch, or a list of pictures and batches."
        ),
        io.String.Input(
            "captions",
            optional=True,
            force_input=True,
            tooltip="A list with a text for each picture, or one text for all; the lines of one text are not "
            "dealt out to the pictures.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="White is learned: a mask for each picture, or one for all, of any sizes. Load Image's "
            "mask is white where it is transparent: invert it.",
        ),
    ]


def _texts(captions: Sequence[Any]) -> Iterator[Any]:
    """The captions one by one: some nodes give a list as one value, and one that is not wired is None."""
    for caption in captions:
        if isinstance(caption, list | tuple):
            yield from caption
        elif caption is not None:
            yield caption
