"""DatasetDoctor: what is wrong with a dataset, on one sheet and in words, before the GPU is touched."""

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .comfy_bridge.pixels import to_image
from .comfy_bridge.progress import report_progress
from .widgets import CATEGORY, DATASET, hidden_value

if TYPE_CHECKING:
    from ..trainer.data.dataset import TrainingSet

SUBJECTS = ("face", "character", "object", "style")


class DatasetDoctor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_DatasetDoctor",
            display_name="Dataset Doctor",
            category=CATEGORY,
            description="Looks every picture and caption over before training: near-duplicates, blur, "
            "too few pixels, cut-off parts, captions and trigger, counts. Says what to do, and how long to "
            "train.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                DATASET.Input("dataset", tooltip="The pictures, from Load Dataset or any node after it."),
                io.Combo.Input(
                    "subject",
                    options=list(SUBJECTS),
                    default=SUBJECTS[0],
                    tooltip="What is to be learned; it decides how many pictures and steps are usual.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Batch size you will train with, 1 to 8; buckets (picture sizes) with fewer "
                    "samples than this are named.",
                ),
                io.Int.Input(
                    "max_pictures",
                    default=48,
                    min=1,
                    max=400,
                    tooltip="Most pictures on the sheet, 20 to 100; of more, those with problems come first.",
                ),
            ],
            outputs=[
                DATASET.Output(
                    "examined_dataset",
                    display_name="dataset",
                    tooltip="The dataset as it came in; plug into Train SDXL LoRA.",
                ),
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    tooltip="The pictures as they will be cropped, with captions; what has a problem is red.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What is wrong, what to do about it, and how long to train.",
                ),
                io.Int.Output(
                    "problems",
                    display_name="problems",
                    tooltip="Number of things that must or should be mended; 0 = all is well.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, dataset: "TrainingSet", subject: Any, batch_size: int, max_pictures: int, **_: Any
    ) -> io.NodeOutput:
        from ..trainer.data.contact_sheet import dataset_sheet
        from ..trainer.doctor.dataset_doctor import examination_report, examine

        progress = report_progress("looking at pictures", hidden_value(cls, "unique_id"))
        examination = examine(dataset, batch_size, subject, progress)
        drawn = dataset_sheet(dataset, max_pictures, examination.flags)
        sheet = to_image(drawn)
        report = examination_report(dataset, examination)
        return io.NodeOutput(dataset, sheet, report, examination.problems)
