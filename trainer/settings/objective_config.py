"""Settings of the loss: what is predicted, how samples and timesteps are weighted, what must be kept."""

from dataclasses import dataclass
from typing import Literal, get_args

from .config_checks import between, one_of, refuse

SizeConditioning = Literal["inference", "true"]
PredictionChoice = Literal["auto", "epsilon", "v_prediction"]
AutoOnOff = Literal["auto", "on", "off"]
Loss = Literal["l2", "l1", "smooth_l1", "huber"]
HuberSchedule = Literal["snr", "exponential", "constant"]
MaskNormalization = Literal["none", "mean"]
TimestepSampling = Literal["uniform", "logit_normal", "content", "style"]
PriorPreservation = Literal["auto", "base_model", "off"]

LAST_TIMESTEP = 999


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig:
    min_snr_gamma: float = 5.0
    """Caps the weight of nearly clean timesteps (arXiv 2303.09556); 5 as published, less caps more, 0 = off;
    kohya: min_snr_gamma."""
    caption_dropout: float = 0.05
    """Share of samples trained with an empty caption, 0 to 0.2; keeps guidance working; kohya:
    caption_dropout_rate."""
    size_conditioning: SizeConditioning = "inference"
    """Picture sizes that the model is told while it trains (time_ids): inference = those that ComfyUI tells
    it when sampling; true = each picture's own size and crop, as in kohya's scripts."""
    prediction_type: PredictionChoice = "auto"
    """What the model predicts; auto = as the MODEL samples; kohya: v_parameterization."""
    zero_terminal_snr: AutoOnOff = "auto"
    """Noise schedule that ends without signal, for v-prediction only (arXiv 2305.08891); auto = as the wired
    model samples; kohya: zero_terminal_snr."""
    edm_training: bool = False
    """Weights as for EDM models: the error of the denoised picture, divided by sigma². Changes only
    v-prediction models, needs min_snr_gamma 0 and loss l2; diffusers: do_edm_style_training."""
    loss: Loss = "l2"
    """Distance of prediction and target: l2; huber, smooth_l1 and l1 forgive outliers; kohya: loss_type."""
    huber_c: float = 0.1
    """Error at which huber and smooth_l1 turn from squared to plain, 0.05 to 0.5; kohya: same name."""
    huber_schedule: HuberSchedule = "snr"
    """How the error at which huber and smooth_l1 turn changes with noise: snr and exponential fall from 1 to
    huber_c as noise grows, constant is always huber_c; kohya: huber_schedule."""
    debiased_estimation: bool = False
    """Weights by 1 / sqrt(SNR) (arXiv 2310.08442); needs min_snr_gamma 0; kohya: debiased_estimation_loss."""
    unmasked_weight: float = 0.0
    """Weight of what the masks leave out, 0 to 0.2; only for datasets with masks."""
    mask_normalization: MaskNormalization = "none"
    """mean: divide each loss by its mask's mean, so that small masks count as much as large ones."""

    def __post_init__(self) -> None:
        refuse(
            "objective settings",
            [
                between("min_snr_gamma", self.min_snr_gamma, 0, 1000),
                between("caption_dropout", self.caption_dropout, 0, 1),
                one_of("size_conditioning", self.size_conditioning, get_args(SizeConditioning)),
                one_of("prediction_type", self.prediction_type, get_args(PredictionChoice)),
                one_of("zero_terminal_snr", self.zero_terminal_snr, get_args(AutoOnOff)),
                one_of("loss", self.loss, get_args(Loss)),
                between("huber_c", self.huber_c, 1e-4, 10),
                one_of("huber_schedule", self.huber_schedule, get_args(HuberSchedule)),
                between("unmasked_weight", self.unmasked_weight, 0, 1),
                one_of("mask_normalization", self.mask_normalization, get_args(MaskNormalization)),
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseConfig:
    noise_offset: float = 0.0
    """Adds a noise that shifts whole channels: darker darks, 0.02 to 0.1; 0 = off; SDXL itself: 0.0357;
    kohya: noise_offset."""
    pyramid_iterations: int = 0
    """Adds noise of this many coarser sizes, 6 to 10; 0 = off; kohya: multires_noise_iterations."""
    pyramid_discount: float = 0.3
    """Share of each coarser size, 0.1 to 0.8; kohya: multires_noise_discount."""
    input_perturbation: float = 0.0
    """Extra noise in the input that the target lacks, 0.05 to 0.1; 0 = off (arXiv 2301.11706); kohya:
    ip_noise_gamma."""
    timestep_sampling: TimestepSampling = "uniform"
    """Which timesteps come often: all alike, the middle (logit_normal), noisy (content), clean (style)."""
    timestep_min: int = 0
    """Lowest timestep trained, 0 to 999; kohya: min_timestep."""
    timestep_max: int = LAST_TIMESTEP
    """Highest timestep trained, 0 to 999; kohya: max_timestep - 1."""
    logit_mean: float = 0.0
    """Centre of logit_normal: 0 = middle, above = noisier, -1 to 1 (arXiv 2403.03206)."""
    logit_std: float = 1.0
    """Width of logit_normal, 0.5 to 2."""

    def __post_init__(self) -> None:
        is_range = self.timestep_min <= self.timestep_max
        refuse(
            "noise settings",
            [
                between("noise_offset", self.noise_offset, 0, 1),
                between("pyramid_iterations", self.pyramid_iterations, 0, 16),
                between("pyramid_discount", self.pyramid_discount, 0, 1),
                between("input_perturbation", self.input_perturbation, 0, 1),
                one_of("timestep_sampling", self.timestep_sampling, get_args(TimestepSampling)),
                between("timestep_min", self.timestep_min, 0, LAST_TIMESTEP),
                between("timestep_max", self.timestep_max, 0, LAST_TIMESTEP),
                ""
                if is_range
                else f"timestep_min is {self.timestep_min}, but must not be above timestep_max, which is "
                f"{self.timestep_max}",
                between("logit_mean", self.logit_mean, -10, 10),
                between("logit_std", self.logit_std, 0.01, 10),
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorConfig:
    prior_preservation: PriorPreservation = "auto"
    """auto: with the dataset's class images, if it has any; base_model: without images; off: never."""
    prior_loss_weight: float = 1.0
    """Weight of keeping the class against learning the subject, 0.3 to 1; kohya: same name."""
    class_prompt: str = ""
    """What the subject is, such as "a photo of a dog": for base_model; diffusers: class_prompt."""

    def __post_init__(self) -> None:
        is_asked = self.prior_preservation == "base_model" and not self.class_prompt.strip()
        refuse(
            "prior settings",
            [
                one_of("prior_preservation", self.prior_preservation, get_args(PriorPreservation)),
                between("prior_loss_weight", self.prior_loss_weight, 0, 100),
                "class_prompt is empty, but prior_preservation base_model needs it: say what the subject "
                "is, such as 'a photo of a dog'"
                if is_asked
                else "",
            ],
        )
