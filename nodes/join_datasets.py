"""JoinDatasets: two datasets with settings of their own as one, each with its weight in the loss."""

from typing import TYPE_CHECKING

from comfy_api.latest import io

from .widgets import CATEGORY, DATASET

if TYPE_CHECKING:
    from ..trainer.data.dataset import TrainingSet

# those of trainer/data/dataset_sets.py, which imports torch; a test holds them equal
LEAST, MOST = 0.01, 100.0


class JoinDatasets(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_JoinDatasets",
            display_name="Join Datasets",
            category=CATEGORY,
            description="Trains on two datasets at once, each with its own size, trigger word, crop and "
            "repeats, and with a weight in the loss. Several of these nodes join more.",
            inputs=[
                DATASET.Input("dataset_1", tooltip="Pictures from Load Dataset, or datasets joined before."),
                DATASET.Input("dataset_2", tooltip="Pictures from another Load Dataset."),
                *(_weight(number) for number in (1, 2)),
            ],
            outputs=[
                DATASET.Output(
                    "dataset", display_name="dataset", tooltip="Both datasets as one, for Train SDXL LoRA."
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Sizes, captions, weights and the arithmetic of steps of both together.",
                ),
                io.Int.Output("count", display_name="count", tooltip="Number of pictures of both together."),
            ],
        )

    @classmethod
    def execute(
        cls, dataset_1: "TrainingSet", dataset_2: "TrainingSet", loss_weight_1: float, loss_weight_2: float
    ) -> io.NodeOutput:
        from ..trainer.data.dataset_report import describe
        from ..trainer.data.dataset_sets import join_datasets

        joined = join_datasets([(dataset_1, loss_weight_1), (dataset_2, loss_weight_2)])
        return io.NodeOutput(joined, describe(joined), len(joined.pictures))


def _weight(number: int) -> io.Input:
    return io.Float.Input(
        f"loss_weight_{number}",
        default=1.0,
        min=LEAST,
        max=MOST,
        step=0.05,
        tooltip=f"How much the loss of the pictures of dataset_{number} counts, 0.3 to 1; how often they are "
        "seen is set by their repeats.",
    )
