"""Settings of what a run writes and shows on its way: checkpoints, previews, validation, logs."""

from dataclasses import dataclass
from typing import Literal, get_args

from .config_checks import MAX_SEED, between, one_of, refuse

Precision = Literal["auto", "bf16", "fp16", "fp32"]
Checkpointing = Literal["auto", "on", "off"]
SavePrecision = Literal["fp16", "bf16", "fp32"]
Tracker = Literal["none", "tensorboard", "wandb", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewConfig:
    prompts: str = ""
    """One prompt a line, sampled with the LoRA; empty = one caption of the dataset; kohya: sample_prompts."""
    negative: str = ""
    """Negative prompt of all of them."""
    steps: int = 20
    """Sampling steps; 15 to 40."""
    guidance: float = 6.0
    """Classifier-free guidance; KSampler: cfg. 4 to 9."""
    seed: int = 1
    """Noise seed of the first prompt; the next ones count up."""
    preview_every: int = 0
    """Draw all prompts every so many optimizer steps, 100 to 500, and before the first; 0 = only at the end;
    kohya: sample_every_n_steps."""
    sampler: str = "euler"
    """KSampler: sampler_name."""
    scheduler: str = "normal"
    """KSampler: scheduler."""
    width: int = 0
    """Width of the pictures, 768 to 1344 pixels, a multiple of 8; 0 = the dataset's most frequent size."""
    height: int = 0
    """Height of the pictures, 768 to 1344 pixels, a multiple of 8; 0 = the dataset's most frequent size."""

    def __post_init__(self) -> None:
        refuse(
            "preview settings",
            [
                between("steps", self.steps, 1, 1000),
                between("guidance", self.guidance, 0, 100),
                between("seed", self.seed, 0, MAX_SEED),
                between("preview_every", self.preview_every, 0, 10_000_000),
                "" if self.sampler.strip() else "sampler is empty, but must be one of KSampler's",
                "" if self.scheduler.strip() else "scheduler is empty, but must be one of KSampler's",
                _size_problem("width", self.width),
                _size_problem("height", self.height),
                "width and height must both be set, or both be 0"
                if bool(self.width) != bool(self.height)
                else "",
            ],
        )


def _size_problem(name: str, value: int) -> str:
    if value == 0:
        return ""
    return between(name, value, 64, 4096) or (
        "" if value % 8 == 0 else f"{name} is {value}, no multiple of 8"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationConfig:
    validation_share: float = 0.0
    """Part of the pictures held out to measure the loss on, 0.1 to 0.2; kohya: validation_split."""
    validate_every: int = 0
    """Optimizer steps between two measurements, 50 to 250; 0 = at each checkpoint; kohya:
    validate_every_n_steps."""
    early_stop_patience: int = 0
    """End the run after so many measurements without a better one, 5 to 10; 0 = never."""
    keep_best: bool = True
    """Keep the checkpoint with the lowest validation loss, whatever keep_last says."""

    def __post_init__(self) -> None:
        refuse(
            "validation settings",
            [
                between("validation_share", self.validation_share, 0, 0.5),
                between("validate_every", self.validate_every, 0, 10_000_000),
                between("early_stop_patience", self.early_stop_patience, 0, 10_000),
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    save_every: int = 250
    """Optimizer steps between checkpoints, 100 to 500: at most this much is lost in a crash; 0 = only at the
    end; kohya: save_every_n_steps."""
    keep_last: int = 4
    """How many `<name>-stepNNNNNN.safetensors` stay beside the final file and the best, 2 to 10; 0 = all;
    diffusers: checkpoints_total_limit."""
    gradient_accumulation: int = 1
    """Batches summed into one optimizer step, 1 to 8: a larger batch without its memory; kohya:
    gradient_accumulation_steps."""
    precision: Precision = "auto"
    """Arithmetic of the frozen model: auto = the type ComfyUI holds it in; LoRA weights are always fp32;
    kohya: mixed_precision."""
    gradient_checkpointing: Checkpointing = "auto"
    """Trade time for memory: auto = only when the activations do not fit into what is free; kohya:
    gradient_checkpointing."""
    save_every_epochs: int = 0
    """Epochs between checkpoints, instead of save_every; 0 = use save_every; kohya: save_every_n_epochs."""
    resume_from_step: int = 0
    """Go on from this state, of the newest two or the best; 0 = newest; diffusers: resume_from_checkpoint."""
    save_precision: SavePrecision = "fp16"
    """Type of the numbers in the LoRA file; kohya: save_precision."""
    save_diffusers: bool = False
    """Also write `<name>_diffusers.safetensors`, in the format of diffusers' own scripts."""
    cache_encoded: bool = True
    """Keep latents and text on disk for later runs of the same pictures, at most 20 GiB; kohya:
    cache_latents_to_disk, cache_text_encoder_outputs_to_disk."""

    def __post_init__(self) -> None:
        refuse(
            "run settings",
            [
                between("save_every", self.save_every, 0, 10_000_000),
                between("keep_last", self.keep_last, 0, 10_000),
                between("gradient_accumulation", self.gradient_accumulation, 1, 1024),
                one_of("precision", self.precision, get_args(Precision)),
                one_of("gradient_checkpointing", self.gradient_checkpointing, get_args(Checkpointing)),
                between("save_every_epochs", self.save_every_epochs, 0, 10_000_000),
                between("resume_from_step", self.resume_from_step, 0, 10_000_000),
                one_of("save_precision", self.save_precision, get_args(SavePrecision)),
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig:
    tracker: Tracker = "none"
    """Where the curves also go, beside metrics.jsonl; diffusers: report_to. Needs its package."""
    project: str = "sdxl_trainer"
    """Project in Weights & Biases."""
    hub_model_id: str = ""
    """Repository on the Hugging Face hub that gets the LoRA and a model card, "user/name"; empty = none."""
    hub_private: bool = True
    """Make that repository private, if it is new."""

    def __post_init__(self) -> None:
        refuse(
            "logging settings",
            [
                one_of("tracker", self.tracker, get_args(Tracker)),
                "" if self.project.strip() else "project is empty, but must be a name",
                ""
                if not self.hub_model_id or self.hub_model_id.count("/") == 1
                else f"hub_model_id is '{self.hub_model_id}', but must be 'user/name'",
            ],
        )
