"""Settings of the optimizer and of the learning rate's way through a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from .config_checks import between, one_of, refuse

LRSchedule = Literal[
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"
]
OptimizerName = Literal[
    "adamw", "adamw8bit", "prodigy", "prodigy_plus_schedule_free", "adafactor", "lion", "sgd"
]

RECOMMENDED_RATES: Mapping[str, float] = {
    "adamw": 1e-4,
    "adamw8bit": 1e-4,
    "prodigy": 1.0,
    "prodigy_plus_schedule_free": 1.0,
    "adafactor": 1e-4,
    "lion": 2e-5,
    "sgd": 0.1,
}
RECOMMENDED_BETA2: Mapping[str, float] = {
    "prodigy": 0.99,
    "prodigy_plus_schedule_free": 0.99,
    "lion": 0.99,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    learning_rate: float = 0.0
    """Peak learning rate, 5e-5 to 5e-4 for AdamW; 0 = usual for the optimizer; kohya: unet_lr."""
    lr_schedule: LRSchedule = "constant_with_warmup"
    """How the rate moves over the run; kohya: lr_scheduler. All but constant warm up first."""
    warmup_steps: int = 0
    """Optimizer steps over which the rate rises from 0, 50 to 200 for most; 0 = warmup_share of the run, for
    constant none; kohya: lr_warmup_steps."""
    weight_decay: float = 0.01
    """Pull of the weights towards 0 at each step, times the learning rate, 0 to 0.1; SGD adds it to the
    gradient instead; kohya: weight_decay in optimizer_args."""
    beta1: float = 0.9
    """Memory of the mean gradient; SGD: momentum; 0.9. Adafactor has none."""
    beta2: float = 0.0
    """Memory of the squared gradient; 0 = usual: 0.999 for AdamW, 0.99 for Prodigy and Lion."""
    eps: float = 1e-8
    """Keeps AdamW and Prodigy from dividing by zero; 1e-8."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened to it, 0.1 to 1; 0 = never; kohya: max_grad_norm."""
    optimizer: OptimizerName = "adamw"
    """Rule of the update; kohya: optimizer_type. Prodigy finds the rate itself: leave it at 0, that is 1."""
    lora_plus_ratio: float = 1.0
    """LoRA+: the rate of the up matrices times this, 4 to 16 (arXiv 2402.12354); 1 = off. Not for prodigy."""
    scale_lr: bool = False
    """Multiply the rate by batch size and accumulation; diffusers: scale_lr."""
    ema_decay: float = 0.0
    """Save a running mean of the weights with this decay, 0.99 to 0.999; 0 = the weights as they are."""

    def __post_init__(self) -> None:
        refuse(
            "optimizer settings",
            [
                "" if self.learning_rate == 0 else between("learning_rate", self.learning_rate, 1e-9, 10.0),
                one_of("lr_schedule", self.lr_schedule, get_args(LRSchedule)),
                between("warmup_steps", self.warmup_steps, 0, 10_000_000),
                between("weight_decay", self.weight_decay, 0, 1),
                between("beta1", self.beta1, 0, 0.9999),
                between("beta2", self.beta2, 0, 0.999999),
                between("eps", self.eps, 1e-20, 1e-2),
                between("max_grad_norm", self.max_grad_norm, 0, 1e6),
                one_of("optimizer", self.optimizer, get_args(OptimizerName)),
                between("lora_plus_ratio", self.lora_plus_ratio, 0.01, 1000),
                between("ema_decay", self.ema_decay, 0, 0.99999),
            ],
        )

    @property
    def effective_learning_rate(self) -> float:
        return self.learning_rate or RECOMMENDED_RATES[self.optimizer]

    @property
    def effective_beta2(self) -> float:
        return self.beta2 or RECOMMENDED_BETA2.get(self.optimizer, 0.999)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    warmup_share: float = 0.05
    """Part of the run over which the rate rises, where warmup_steps is 0; 0 to 0.2."""
    num_cycles: int = 1
    """Restarts of cosine_with_restarts, 1 to 5; kohya: lr_scheduler_num_cycles, diffusers: lr_num_cycles."""
    power: float = 1.0
    """Bend of the polynomial schedule, 1 to 3: 1 = linear, 2 = falls fast first; kohya: lr_scheduler_power,
    diffusers: lr_power."""

    def __post_init__(self) -> None:
        refuse(
            "schedule settings",
            [
                between("warmup_share", self.warmup_share, 0, 1),
                between("num_cycles", self.num_cycles, 1, 1000),
                between("power", self.power, 0.01, 100),
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProdigyConfig:
    """Recommended values for diffusion LoRAs; the library's own differ (konstmish/prodigy, README)."""

    d_coef: float = 1.0
    """Factor on the rate that Prodigy finds, 0.5 to 2; below 1 trains more softly."""
    d0: float = 1e-6
    """First guess of the rate, 1e-6; larger finds it sooner."""
    beta3: float = 0.0
    """Memory of the rate's estimate; 0 = square root of beta2; diffusers: prodigy_beta3."""
    decouple: bool = True
    """Weight decay apart from the gradient, as in AdamW; diffusers: prodigy_decouple. Plain prodigy only."""
    use_bias_correction: bool = True
    """Adam's bias correction: small first steps; diffusers: prodigy_use_bias_correction."""
    safeguard_warmup: bool = True
    """Keep the warm-up out of the estimate; diffusers: prodigy_safeguard_warmup. Plain prodigy only."""

    def __post_init__(self) -> None:
        refuse(
            "Prodigy settings",
            [
                between("d_coef", self.d_coef, 0.01, 100),
                between("d0", self.d0, 1e-12, 1e-1),
                between("beta3", self.beta3, 0, 0.999999),
            ],
        )
