"""What the nodes give out that make a dataset: the dataset, its sheet, its report, the count of pictures."""

from typing import TYPE_CHECKING

from comfy_api.latest import io

from .comfy_bridge.pixels import to_image
from .widgets import DATASET

if TYPE_CHECKING:
    from ..trainer.data.dataset import TrainingSet

REPORT = "Sizes, captions, everything left out and why, and the arithmetic of steps."


def dataset_outputs(report: str = REPORT) -> list[io.Output]:
    """The four outputs; `report` is the tooltip of the third."""
    return [
        DATASET.Output(
            "dataset",
            display_name="dataset",
            tooltip="Plug into Train SDXL LoRA, Class Images, Dataset Masks or Join Datasets.",
        ),
        io.Image.Output(
            "sheet",
            display_name="sheet",
            tooltip="The pictures as they will be cropped, with captions: look before training.",
        ),
        io.String.Output("report", display_name="report", tooltip=report),
        io.Int.Output("count", display_name="count", tooltip="Number of pictures in use."),
    ]


def dataset_values(dataset: "TrainingSet", origin: str = "") -> io.NodeOutput:
    """The values of these outputs; `origin` stands before the report."""
    from ..trainer.data.contact_sheet import dataset_sheet
    from ..trainer.data.dataset_report import describe

    report = "\n\n".join(filter(None, [origin, describe(dataset)]))
    return io.NodeOutput(dataset, to_image(dataset_sheet(dataset)), report, len(dataset.pictures))
