"""CaptionerSettings: how a captioning model chooses its words."""

from typing import Any

from comfy_api.latest import io

from ..trainer.settings.captioner_config import GenerationConfig
from .widgets import CATEGORY, widgets

CAPTIONER_SETTINGS: Any = io.Custom("SDXL_CAPTIONER_SETTINGS")
RARE = ("min_tokens", "top_k", "repetition_penalty", "character_threshold", "precision")


class CaptionerSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_CaptionerSettings",
            display_name="Captioner Settings",
            category=CATEGORY,
            description="How a captioner chooses its words: length, sampling, beams, thresholds of tags.",
            inputs=widgets(GenerationConfig, advanced=RARE),
            outputs=[
                CAPTIONER_SETTINGS.Output(
                    "captioner_settings",
                    display_name="captioner_settings",
                    tooltip="Plug into captioner_settings of Caption Images.",
                )
            ],
        )

    @classmethod
    def execute(cls, **fields: Any) -> io.NodeOutput:
        return io.NodeOutput(GenerationConfig(**fields))
