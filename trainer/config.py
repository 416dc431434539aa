"""Every setting of a dataset and of a run, as frozen dataclasses that check themselves.

Each field's meaning, unit and working range stands under it; settings nodes show the same fields.
A value of 0 that means "choose for me" says so. All problems of one object come in one message.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .errors import InputError

Targets = Literal["attention", "attention+ff", "attention+ff+conv"]
LRSchedule = Literal["constant", "constant_with_warmup", "cosine"]
Crop = Literal["center", "random"]
SizeConditioning = Literal["inference", "true"]
Resume = Literal["auto", "new"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
Checkpointing = Literal["auto", "on", "off"]

MAX_SEED = 2**64 - 1


def _refuse(title: str, problems: Iterable[str]) -> None:
    """Raise one InputError that lists all problems, if there are any."""
    found = [p for p in problems if p]
    if found:
        raise InputError(f"{title}: " + "; ".join(found))


def _between(name: str, value: float, low: float, high: float) -> str:
    """A sentence when `value` is no finite number in [low, high], else an empty one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return f"{name} is {value!r}, but must be a number from {low:g} to {high:g}"
    if not low <= value <= high:
        return f"{name} is {value:g}, but must be from {low:g} to {high:g}"
    return ""


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    return "" if value in choices else f"{name} is '{value}', but must be one of {', '.join(choices)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    resolution: int = 1024
    """Side of the square whose area every bucket has, pixels. SDXL: 1024; 768 is faster."""
    repeats: int = 1
    """How often each picture is seen in an epoch, on top of the repeats of `N_name` folders."""
    trigger: str = ""
    """Word put in front of every caption that does not hold it; kohya: instance token."""
    prompt: str = ""
    """Caption of pictures that have none of their own; kohya: class tokens, diffusers: instance_prompt."""
    caption_column: str = "text"
    """Column of metadata.jsonl or metadata.csv that holds the caption, or a list of captions."""
    crop: Crop = "center"
    """Where the bucket is cut out of the scaled picture: its centre, or four random places."""
    flip: bool = False
    """Train on the mirrored picture too; kohya: flip_aug. Not for faces, text or anything one-sided."""
    upscale: bool = False
    """Enlarge pictures that are smaller than their bucket; off: they get a smaller bucket of their own."""
    bucket_step: int = 64
    """Bucket sides are multiples of this, pixels; 64, or 32 for more shapes."""
    background: str = "#ffffff"
    """Colour behind transparent pixels, as #rrggbb or a colour name."""
    max_train_samples: int = 0
    """Use only this many pictures, drawn by the dataset's own fixed seed; 0 = all."""

    def __post_init__(self) -> None:
        _refuse(
            "dataset settings",
            [
                _between("resolution", self.resolution, 64, 4096),
                _between("repeats", self.repeats, 1, 10_000),
                _one_of("crop", self.crop, get_args(Crop)),
                ""
                if self.bucket_step in (32, 64, 128)
                else f"bucket_step is {self.bucket_step}, but SDXL needs 32, 64 or 128",
                _between("max_train_samples", self.max_train_samples, 0, 10_000_000),
                ""
                if self.caption_column.strip()
                else "caption_column is empty, but must name the caption column ('text')",
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRAConfig:
    rank: int = 16
    """Size of the update matrices; kohya: network_dim. 8-32 for most, 4 small, 64 large."""
    alpha: float = 0.0
    """The update is scaled by alpha / rank; kohya: network_alpha. 0 = same as rank."""
    targets: Targets = "attention+ff"
    """Which layers get an update: 560, 722 or 788 of SDXL's; kohya's default is attention+ff."""

    def __post_init__(self) -> None:
        _refuse(
            "LoRA settings",
            [
                _between("rank", self.rank, 1, 1024),
                _between("alpha", self.alpha, 0, 4096),
                _one_of("targets", self.targets, get_args(Targets)),
            ],
        )

    @property
    def effective_alpha(self) -> float:
        return self.alpha or float(self.rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    learning_rate: float = 1e-4
    """Peak learning rate of AdamW; 5e-5 to 5e-4; kohya: unet_lr."""
    lr_schedule: LRSchedule = "constant_with_warmup"
    """How the rate moves over the run; kohya: lr_scheduler. Cosine warms up too, then falls to 0."""
    warmup_steps: int = 0
    """Steps over which the rate rises from 0, optimizer steps; 0 = 5 % of the run."""
    weight_decay: float = 0.01
    """Pull of the weights towards 0 at each step, times the rate; 0 to 0.1."""
    beta1: float = 0.9
    """Memory of AdamW's mean gradient; 0.9."""
    beta2: float = 0.999
    """Memory of AdamW's squared gradient; 0.99 to 0.999."""
    eps: float = 1e-8
    """Keeps AdamW from dividing by zero; 1e-8."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened to it; 0 = never; kohya: max_grad_norm."""

    def __post_init__(self) -> None:
        _refuse(
            "optimizer settings",
            [
                _between("learning_rate", self.learning_rate, 1e-9, 1.0),
                _one_of("lr_schedule", self.lr_schedule, get_args(LRSchedule)),
                _between("warmup_steps", self.warmup_steps, 0, 10_000_000),
                _between("weight_decay", self.weight_decay, 0, 1),
                _between("beta1", self.beta1, 0, 0.9999),
                _between("beta2", self.beta2, 0, 0.999999),
                _between("eps", self.eps, 1e-20, 1e-2),
                _between("max_grad_norm", self.max_grad_norm, 0, 1e6),
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig:
    min_snr_gamma: float = 5.0
    """Caps the weight of nearly clean timesteps (arXiv 2303.09556); 5 as published, 0 = off."""
    caption_dropout: float = 0.05
    """Share of samples trained with an empty caption; 0 to 0.2; keeps guidance working."""
    size_conditioning: SizeConditioning = "inference"
    """time_ids of training: what ComfyUI asks for when sampling (default), or the true size and crop."""

    def __post_init__(self) -> None:
        _refuse(
            "objective settings",
            [
                _between("min_snr_gamma", self.min_snr_gamma, 0, 1000),
                _between("caption_dropout", self.caption_dropout, 0, 1),
                _one_of("size_conditioning", self.size_conditioning, get_args(SizeConditioning)),
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewConfig:
    prompts: str = ""
    """One prompt a line, sampled with the finished LoRA; empty = one caption of the dataset."""
    negative: str = ""
    """Negative prompt of all of them."""
    steps: int = 20
    """Sampling steps; 15 to 40."""
    guidance: float = 6.0
    """Classifier-free guidance; KSampler: cfg. 4 to 9."""
    seed: int = 1
    """Noise seed of the first prompt; the next ones count up."""

    def __post_init__(self) -> None:
        _refuse(
            "preview settings",
            [
                _between("steps", self.steps, 1, 1000),
                _between("guidance", self.guidance, 0, 100),
                _between("seed", self.seed, 0, MAX_SEED),
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    save_every: int = 250
    """Optimizer steps between checkpoints: at most this much is lost in a crash; 0 = only at the end."""
    keep_last: int = 4
    """How many `<name>-stepNNNNNN.safetensors` stay beside the final file; 0 = all."""
    gradient_accumulation: int = 1
    """Batches summed into one optimizer step: a larger batch without its memory."""
    precision: Precision = "auto"
    """Arithmetic of the frozen model: auto = the type ComfyUI holds it in. LoRA weights are always fp32."""
    gradient_checkpointing: Checkpointing = "auto"
    """Trade time for memory: auto = only when the activations do not fit into what is free."""

    def __post_init__(self) -> None:
        _refuse(
            "run settings",
            [
                _between("save_every", self.save_every, 0, 10_000_000),
                _between("keep_last", self.keep_last, 0, 10_000),
                _between("gradient_accumulation", self.gradient_accumulation, 1, 1024),
                _one_of("precision", self.precision, get_args(Precision)),
                _one_of("gradient_checkpointing", self.gradient_checkpointing, get_args(Checkpointing)),
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A whole run, resolved: no field says "choose for me" but those whose docstring does."""

    name: str
    """Name of the LoRA file, without folder and ending."""
    steps: int
    """Optimizer updates of the whole run."""
    batch_size: int = 1
    """Pictures in one forward pass; kohya: train_batch_size."""
    seed: int = 42
    """Seed of every random draw of the run; the same seed gives the same file on the CPU."""
    resume: Resume = "auto"
    """auto: go on with the unfinished run of the same name and settings; new: always a new run."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        _refuse(
            "training settings",
            [
                _between("steps", self.steps, 1, 10_000_000),
                _between("batch_size", self.batch_size, 1, 1024),
                _between("seed", self.seed, 0, MAX_SEED),
                _one_of("resume", self.resume, get_args(Resume)),
            ],
        )

    def to_json(self) -> dict[str, Any]:
        """Nested plain values, as written into config.json and the LoRA's metadata."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """The inverse of `to_json`.

        Raises:
            InputError: a name that is no setting, so that a typo never passes silently.
        """
        sections = {
            "lora": LoRAConfig,
            "optimizer": OptimizerConfig,
            "objective": ObjectiveConfig,
            "preview": PreviewConfig,
            "run": RunConfig,
        }
        plain = {k: v for k, v in values.items() if k not in sections}
        nested = {k: _build(kind, values[k], k) for k, kind in sections.items() if k in values}
        return _build(cls, {**plain, **nested}, "training")


def _build(kind: type, values: Mapping[str, Any], section: str) -> Any:
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(
            f"{section} settings: {', '.join(unknown)} unknown; there are {', '.join(sorted(known))}"
        )
    return kind(**values)
