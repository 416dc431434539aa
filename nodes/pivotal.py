"""PivotalTuning: new tokens for the subject's own word first, the LoRA around them after."""

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..trainer.errors import InputError
from .train_inputs import pivotal_inputs, pivotal_outputs
from .training_node import TrainingNode
from .widgets import CATEGORY

if TYPE_CHECKING:
    from ..trainer.config import PivotalConfig
    from ..trainer.runs.run import Result


class PivotalTuning(TrainingNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_PivotalTuning",
            display_name="Pivotal Tuning",
            category=CATEGORY,
            description="Teaches the text encoders a word for your subject, then trains a LoRA around it. "
            "The CLIP that comes out knows the word. Cancel saves first; queueing again goes on.",
            inputs=pivotal_inputs(),
            outputs=pivotal_outputs(),
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        *wires: Any,
        token: str = "",
        pivotal_settings: "PivotalConfig | None" = None,
        **fields: Any,
    ) -> io.NodeOutput:
        if not token.strip() and not (pivotal_settings and pivotal_settings.is_on):
            raise InputError(
                "token is empty, but Pivotal Tuning needs a word for its new tokens: write the word that "
                "your captions use for the subject, such as TOK, or use Train SDXL LoRA"
            )
        return super().execute(*wires, token=token, pivotal_settings=pivotal_settings, **fields)

    @classmethod
    def _further_outputs(cls, result: "Result") -> tuple[Any, ...]:
        return (result.embedding,)
