"""AugmentDataset: several variants of each picture, shown side by side before they are trained on."""

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..trainer.settings.augment_config import AugmentConfig
from .comfy_bridge.pixels import to_image
from .widgets import CATEGORY, DATASET, widgets

if TYPE_CHECKING:
    from ..trainer.data.dataset import TrainingSet


class AugmentDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_AugmentDataset",
            display_name="Augment Dataset",
            category=CATEGORY,
            description="Trains on several variants of each picture: cropped a little differently, mirrored, "
            "turned, in other colours. For small sets. They are encoded once, so steps stay fast.",
            inputs=[
                DATASET.Input("dataset", tooltip="The pictures, from Load Dataset or any node after it."),
                *widgets(AugmentConfig),
            ],
            outputs=[
                DATASET.Output(
                    "augmented_dataset",
                    display_name="dataset",
                    tooltip="The dataset with its variants; plug into Train SDXL LoRA.",
                ),
                io.Image.Output(
                    "sheet",
                    display_name="sheet",
                    tooltip="Some pictures, one in each row, with their variants and what was changed.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What the variants cost in time and memory, and the dataset in words.",
                ),
            ],
        )

    @classmethod
    def execute(cls, dataset: "TrainingSet", **settings: Any) -> io.NodeOutput:
        from ..trainer.data.augmentation_report import augmentation_sheet, describe_augmentation
        from ..trainer.data.augmented_dataset import with_augmentation
        from ..trainer.data.dataset_report import describe

        augmented = with_augmentation(dataset, AugmentConfig(**settings))
        sheet = to_image(augmentation_sheet(augmented))
        report = f"{describe_augmentation(augmented)}\n\n{describe(augmented)}"
        return io.NodeOutput(augmented, sheet, report)
