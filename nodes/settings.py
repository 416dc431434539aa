"""One node for each group of settings; its widgets are the fields of the dataclass it gives out."""

from typing import Any, ClassVar

from comfy_api.latest import io

from ..trainer.config import (
    LoggingConfig,
    LoRAConfig,
    NoiseConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PivotalConfig,
    PreviewConfig,
    PriorConfig,
    ProdigyConfig,
    RunConfig,
    ScheduleConfig,
    TextEncoderConfig,
    ValidationConfig,
)
from .comfy_bridge.preview import sampler_choices, scheduler_choices
from .widgets import CATEGORY, settings_output, widgets


class _Settings(io.ComfyNode):
    KIND: ClassVar[type]

    @classmethod
    def execute(cls, **fields: Any) -> io.NodeOutput:
        return io.NodeOutput(cls.KIND(**fields))


class LoRASettings(_Settings):
    KIND = LoRAConfig

    @classmethod
    def define_schema(cls) -> io.Schema:
        rare = ("rank_stabilized", "dropout", "rank_dropout", "module_dropout", "block_ranks", "lokr_factor")
        return io.Schema(
            node_id="SDXLTrainer_LoRASettings",
            display_name="LoRA Settings",
            category=CATEGORY,
            description="Kind and size of the LoRA and the layers it acts on, in place of the preset's.",
            inputs=widgets(LoRAConfig, advanced=rare),
            outputs=[settings_output("lora")],
        )


class OptimizerSettings(_Settings):
    KIND = OptimizerConfig

    @classmethod
    def define_schema(cls) -> io.Schema:
        rare = ("beta1", "beta2", "eps", "lora_plus_ratio", "scale_lr", "ema_decay")
        return io.Schema(
            node_id="SDXLTrainer_OptimizerSettings",
            display_name="Optimizer Settings",
            category=CATEGORY,
            description="The optimizer, its learning rate and how the rate moves, in place of the preset's.",
            inputs=widgets(OptimizerConfig, advanced=rare),
            outputs=[settings_output("optimizer")],
        )


class ScheduleSettings(_Settings):
    KIND = ScheduleConfig

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_ScheduleSettings",
            display_name="Schedule Settings",
            category=CATEGORY,
            description="Fine points of the learning rate's way through a run: warm-up, restarts, bend.",
            inputs=widgets(ScheduleConfig),
            outputs=[settings_output("schedule")],
        )


class ProdigySettings(_Settings):
    KIND = ProdigyConfig

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_ProdigySettings",
            display_name="Prodigy Settings",
            category=CATEGORY,
            description="How Prodigy finds the learning rate; only for the two Prodigy optimizers.",
            inputs=widgets(ProdigyConfig, advanced=("d0", "beta3")),
            outputs=[settings_output("prodigy")],
        )


class ObjectiveSettings(_Settings):
    KIND = ObjectiveConfig

    @classmethod
    def define_schema(cls) -> io.Schema:
        rare = (
            "prediction_type",
            "zero_terminal_snr",
            "edm_training",
            "huber_c",
            "huber_schedule",
            "debiased_estimation",
            "mask_normalization",
        )
        return io.Schema(
            node_id="SDXLTrainer_ObjectiveSettings",
            display_name="Objective Settings",
            category=CATEGORY,
            description="What the loss rewards: its kind, weights of timesteps, masks, caption dropout.",
            inputs=widgets(ObjectiveConfig, advanced=rare),
            outputs=[settings_output("objective")],
        )


class NoiseSettings(_Settings):
    KIND = NoiseConfig

    @classmethod
    def define_schema(cls) -> io.Schema:
        rare = ("pyramid_discount", "timestep_min", "timestep_max", "logit_mean", "logit_std")
        return io.Schema(
            node_id="SDXLTrainer_NoiseSettings",
            display_name="Noise Settings",
            category=CATEGORY,
            description="The noise that is trained on, and which timesteps come often.",
            inputs=widgets(NoiseConfig, advanced=rare),
            outputs=[settings_output("noise")],
        )


class PriorSettings(_Settings):
    KIND = PriorConfig

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_PriorSettings",
            display_name="Prior Settings",
            category=CATEGORY,
            description="Prior preservation: what the model knows of the class is kept while it learns "
            "the subject.",
            inputs=widgets(PriorConfig),
            outputs=[settings_output("prior")],
        )


class PreviewSettings(_Settings):
    KIND = PreviewConfig

    @classmethod
    def define_schema(cls) -> io.Schema:
        choices = {"sampler": sampler_choices(), "scheduler": scheduler_choices()}
        return io.Schema(
            node_id="SDXLTrainer_PreviewSettings",
            display_name="Preview Settings",
            category=CATEGORY,
            description="Which pictures are drawn, while the LoRA is trained and when it is finished.",
            inputs=widgets(PreviewConfig, advanced=("width", "height"), choices=choices),
            outputs=[settings_output("preview")],
        )


class ValidationSettings(_Settings):
    KIND = ValidationConfig

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_ValidationSettings",
            display_name="Validation Settings",
            category=CATEGORY,
            description="Loss on pictures that are held out: shows when a LoRA starts to learn by heart, "
            "and can end the run there.",
            inputs=widgets(ValidationConfig),
            outputs=[settings_output("validation")],
        )


class RunSettings(_Settings):
    KIND = RunConfig

    @classmethod
    def define_schema(cls) -> io.Schema:
        rare = ("resume_from_step", "save_precision", "save_diffusers", "cache_encoded")
        return io.Schema(
            node_id="SDXLTrainer_RunSettings",
            display_name="Run Settings",
            category=CATEGORY,
            description="Checkpoints, gradient accumulation, precision, memory and the file.",
            inputs=widgets(RunConfig, advanced=rare),
            outputs=[settings_output("run")],
        )


class LoggingSettings(_Settings):
    KIND = LoggingConfig

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_LoggingSettings",
            display_name="Logging Settings",
            category=CATEGORY,
            description="Where curves and the finished LoRA also go: TensorBoard, Weights & Biases, the "
            "Hugging Face hub. Tokens come from each service's own login, never from a widget.",
            inputs=widgets(LoggingConfig),
            outputs=[settings_output("logging")],
        )


class TextEncoderSettings(_Settings):
    KIND = TextEncoderConfig

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_TextEncoderSettings",
            display_name="Text Encoder Settings",
            category=CATEGORY,
            description="A LoRA on one or both text encoders, beside that on the UNet: how fast, how long.",
            inputs=widgets(TextEncoderConfig, advanced=("weight_decay", "text_encoder_rank")),
            outputs=[settings_output("text_encoder")],
        )


class PivotalSettings(_Settings):
    KIND = PivotalConfig

    @classmethod
    def define_schema(cls) -> io.Schema:
        rare = ("optimizer", "weight_decay", "norm_pull", "train_first")
        return io.Schema(
            node_id="SDXLTrainer_PivotalSettings",
            display_name="Pivotal Settings",
            category=CATEGORY,
            description="The new tokens of Pivotal Tuning: several words, how they start, how they are "
            "trained, and whether the LoRA file holds them too.",
            inputs=widgets(PivotalConfig, advanced=rare),
            outputs=[settings_output("pivotal")],
        )
