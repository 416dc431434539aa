"""DatasetMasks: which part of each picture is learned, by its alpha channel, a mask file or a MASK."""

from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from comfy_api.latest import io

from ..trainer.errors import InputError
from .comfy_bridge.pixels import to_image
from .comfy_bridge.progress import report_progress
from .widgets import CATEGORY, DATASET, hidden_value

if TYPE_CHECKING:
    from ..trainer.data.dataset import TrainingSet

Source = Literal["alpha", "mask", "masklabel"]


class DatasetMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_DatasetMasks",
            display_name="Dataset Masks",
            category=CATEGORY,
            description="Lets the loss count only a part of each picture, such as the subject without its "
            "background: by its alpha channel, a -masklabel file beside it, or a MASK.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                DATASET.Input("dataset", tooltip="The pictures, from Load Dataset."),
                io.Combo.Input(
                    "source",
                    options=list(get_args(Source)),
                    default=get_args(Source)[0],
                    tooltip="alpha: opaque parts of PNG and WebP pictures are learned; mask: white parts of "
                    "the wired masks; masklabel: white parts of cat-masklabel.png beside cat.jpg, as in "
                    "OneTrainer. Kohya: masked_loss with alpha_mask or conditioning_data_dir.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White is learned: one mask for all pictures, or one for each in the order of "
                    "their names. Load Image's mask is white where it is transparent: invert it.",
                ),
            ],
            outputs=[
                DATASET.Output(
                    "masked_dataset",
                    display_name="dataset",
                    tooltip="The dataset with masks; plug into Train SDXL LoRA.",
                ),
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    tooltip="The pictures as they will be cropped; what is left out is pale and grey.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="Which pictures have a mask, and what to check."
                ),
                io.Int.Output("count", display_name="count", tooltip="Number of pictures with a mask."),
            ],
        )

    @classmethod
    def execute(
        cls, dataset: "TrainingSet", source: str, mask: torch.Tensor | None = None, **_: Any
    ) -> io.NodeOutput:
        from ..trainer.data.contact_sheet import dataset_sheet
        from ..trainer.data.dataset_report import describe
        from ..trainer.data.dataset_sets import with_masks

        progress = report_progress("reading masks", hidden_value(cls, "unique_id"))
        if source == "mask" and mask is None:
            raise InputError(
                "source is mask, but no mask is wired: wire a MASK, or set source to alpha or masklabel"
            )
        masked = with_masks(dataset, mask if source == "mask" else source, progress)
        sheet = to_image(dataset_sheet(masked))
        report = [describe(masked)]
        if source != "mask" and mask is not None:
            report.insert(0, f"The wired mask is not used, because source is {source}.")
        count = sum(picture.has_mask for picture in masked.pictures)
        return io.NodeOutput(masked, sheet, "\n\n".join(report), count)
