"""TrainSDXLLoRA: the wired model, a dataset and settings become a LoRA file, applied and sampled."""

from comfy_api.latest import io

from .train_inputs import train_inputs, train_outputs
from .training_node import TrainingNode
from .widgets import CATEGORY


class TrainSDXLLoRA(TrainingNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_TrainSDXLLoRA",
            display_name="Train SDXL LoRA",
            category=CATEGORY,
            description="Trains a LoRA on the wired SDXL model and gives out that model with the LoRA "
            "applied. Cancel saves first; queueing again goes on where it stopped, and loads a finished run.",
            inputs=train_inputs(),
            outputs=train_outputs(),
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )
