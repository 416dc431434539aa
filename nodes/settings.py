"""One node for each group of settings; its widgets are the fields of the dataclass it gives out."""

from typing import Any

from comfy_api.latest import io

from ..trainer.config import LoRAConfig, ObjectiveConfig, OptimizerConfig, PreviewConfig, RunConfig
from .widgets import (
    CATEGORY,
    LORA_SETTINGS,
    OBJECTIVE_SETTINGS,
    OPTIMIZER_SETTINGS,
    PREVIEW_SETTINGS,
    RUN_SETTINGS,
    settings_output,
    widgets,
)


class LoRASettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_LoRASettings",
            display_name="LoRA Settings",
            category=CATEGORY,
            description="Size of the LoRA and the layers it acts on, in place of the preset's.",
            inputs=widgets(LoRAConfig),
            outputs=[settings_output(LORA_SETTINGS, "lora_settings")],
        )

    @classmethod
    def execute(cls, **fields: Any) -> io.NodeOutput:
        return io.NodeOutput(LoRAConfig(**fields))


class OptimizerSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_OptimizerSettings",
            display_name="Optimizer Settings",
            category=CATEGORY,
            description="AdamW, its learning rate and how the rate moves, in place of the preset's.",
            inputs=widgets(OptimizerConfig, advanced=("beta1", "beta2", "eps")),
            outputs=[settings_output(OPTIMIZER_SETTINGS, "optimizer_settings")],
        )

    @classmethod
    def execute(cls, **fields: Any) -> io.NodeOutput:
        return io.NodeOutput(OptimizerConfig(**fields))


class ObjectiveSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_ObjectiveSettings",
            display_name="Objective Settings",
            category=CATEGORY,
            description="What the loss rewards: weights of timesteps, caption dropout, size conditioning.",
            inputs=widgets(ObjectiveConfig),
            outputs=[settings_output(OBJECTIVE_SETTINGS, "objective_settings")],
        )

    @classmethod
    def execute(cls, **fields: Any) -> io.NodeOutput:
        return io.NodeOutput(ObjectiveConfig(**fields))


class PreviewSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_PreviewSettings",
            display_name="Preview Settings",
            category=CATEGORY,
            description="Which pictures are drawn with the finished LoRA.",
            inputs=widgets(PreviewConfig),
            outputs=[settings_output(PREVIEW_SETTINGS, "preview_settings")],
        )

    @classmethod
    def execute(cls, **fields: Any) -> io.NodeOutput:
        return io.NodeOutput(PreviewConfig(**fields))


class RunSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_RunSettings",
            display_name="Run Settings",
            category=CATEGORY,
            description="Checkpoints, gradient accumulation, precision and memory.",
            inputs=widgets(RunConfig),
            outputs=[settings_output(RUN_SETTINGS, "run_settings")],
        )

    @classmethod
    def execute(cls, **fields: Any) -> io.NodeOutput:
        return io.NodeOutput(RunConfig(**fields))
