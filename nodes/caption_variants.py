"""CaptionVariants: shuffled tags, tag dropout and choices, as captions that are encoded once."""

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..trainer.settings.caption_variants_config import CaptionVariantsConfig
from .widgets import CATEGORY, DATASET, widgets

if TYPE_CHECKING:
    from ..trainer.data.dataset import TrainingSet

RARE = ("keep_separator", "never_drop", "separator", "secondary_separator", "seed")


class CaptionVariants(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_CaptionVariants",
            display_name="Caption Variants",
            category=CATEGORY,
            description="Gives each picture several versions of its captions: tags in another order, some "
            "left out, one of several choices. Made before training, so text is still encoded only once.",
            inputs=[
                DATASET.Input("dataset", tooltip="The pictures, from Load Dataset."),
                *widgets(CaptionVariantsConfig, advanced=RARE),
            ],
            outputs=[
                DATASET.Output(
                    "varied_dataset",
                    display_name="dataset",
                    tooltip="The dataset with variants of its captions; plug into Train SDXL LoRA.",
                ),
                io.String.Output(
                    "captions",
                    display_name="captions",
                    tooltip="The captions of the first pictures, as training reads them.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="How many captions there are to encode, the memory they take, and what to check.",
                ),
            ],
        )

    @classmethod
    def execute(cls, dataset: "TrainingSet", **fields: Any) -> io.NodeOutput:
        from ..trainer.data.caption_variants import (
            caption_variants_report,
            shown_variants,
            with_caption_variants,
        )

        varied = with_caption_variants(dataset, CaptionVariantsConfig(**fields))
        report = caption_variants_report(varied, varied.notes[len(dataset.notes) :])
        return io.NodeOutput(varied, shown_variants(varied), report)
