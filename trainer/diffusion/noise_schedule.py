"""How noise is mixed into latents: the discrete schedule that an SDXL model was trained with.

`B` batch. `latents` are scaled as the model wants them (x 0.13025), `noise` is standard normal of their
shape, `timesteps` are (B,) int64 from 0 (least noise) to 999. `snr` is ᾱ/(1-ᾱ); `sigmas` are
variance-exploding levels sqrt((1-ᾱ)/ᾱ), as in ComfyUI's `model_sampling`.

An EDM checkpoint (Playground 2.5) is the same in other words. With latents divided by sigma_data and
ᾱ = 1 / (1 + (σ/sigma_data)²), Karras' c_in·(y + σn) is the usual mixture, the network's target
(y - c_skip·x) / c_out is minus the velocity, and λ(σ)·c_out² = 1: the plain squared error is Karras'
weighted one (arXiv 2206.00364 table 1, eq. 8). Only the timestep that the network is told differs.
"""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError
from ..settings.objective_config import ObjectiveConfig

PredictionType = Literal["epsilon", "v_prediction", "edm"]

NUM_TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012
# ComfyUI keeps this much signal in the last timestep of a zero-terminal-SNR model, so that sigma is finite
TERMINAL_ALPHA_CUMPROD = 4.8973451890853435e-08
# far below SDXL's own 0.0047, far above what any zero-terminal-SNR schedule leaves
SMALLEST_EPSILON_SNR = 1e-6
# ln σ of training is normal with this mean and width: arXiv 2206.00364 table 1
EDM_LOG_MEAN, EDM_LOG_STD = -1.2, 1.2


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """ᾱ of every timestep and what the model predicts.

    Args:
        alphas_cumprod: (1000,) float32, falling, in [0, 1); lives where latents live.
        prediction_type: "epsilon" (the noise), "v_prediction" (the velocity) or "edm" (minus the velocity).
        sigma_data: what latents are divided by before they are mixed; 1 but for EDM.
        c_noise: (1000,) float32, what the model is told as timestep; None = the timestep itself.

    Raises:
        InputError: an epsilon model whose last timestep holds no signal: its noise says nothing about
            the picture and min-SNR would divide by zero.
    """

    alphas_cumprod: Tensor
    prediction_type: PredictionType
    sigma_data: float = 1.0
    c_noise: Tensor | None = None

    def __post_init__(self) -> None:
        if self.prediction_type == "epsilon" and self.ends_without_signal:
            raise InputError(
                "prediction_type epsilon cannot be trained with zero_terminal_snr: the last timestep is "
                "noise alone, which says nothing about the picture; set prediction_type to v_prediction or "
                "zero_terminal_snr (ModelSamplingDiscrete: zsnr) to off"
            )

    @classmethod
    def sdxl(
        cls, prediction_type: PredictionType = "epsilon", zero_terminal_snr: bool = False
    ) -> "NoiseSchedule":
        """SDXL's own: scaled-linear betas, 0.00085 to 0.012; rescaled by arXiv 2305.08891 alg. 1 if asked."""
        roots = torch.linspace(BETA_START**0.5, BETA_END**0.5, NUM_TIMESTEPS, dtype=torch.float64)
        alphas_cumprod = torch.cumprod(1 - roots.square(), dim=0)
        if zero_terminal_snr:
            alphas_cumprod = _rescale_to_zero_terminal_snr(alphas_cumprod)
        return cls(alphas_cumprod.float(), prediction_type)

    @classmethod
    def from_sigmas(cls, sigmas: Tensor, prediction_type: PredictionType) -> "NoiseSchedule":
        """From ComfyUI's `model_sampling.sigmas`: (1000,) ascending; the last may be infinite.

        Raises:
            InputError: a table of another length or order, as the LCM patch of ModelSamplingDiscrete makes.
        """
        table = sigmas.detach().double()
        if table.shape != (NUM_TIMESTEPS,) or not bool((table.diff() > 0).all()) or not bool(table[0] > 0):
            raise InputError(
                f"the model's noise schedule is no table of {NUM_TIMESTEPS} rising sigmas (got shape "
                f"{tuple(table.shape)}): remove LCM or other sampling patches in front of the trainer"
            )
        return cls((1 / (1 + table.square())).float(), prediction_type)

    @classmethod
    def edm(cls, sigma_min: float, sigma_max: float, sigma_data: float) -> "NoiseSchedule":
        """Of an EDM checkpoint: 1000 levels, as likely as each other in Karras' log-normal distribution.

        They are the quantiles (t + 1/2) / 1000 of ln σ ~ N(-1.2, 1.2²), held within the model's range, and
        the model is told c_noise = ln(σ)/4 (arXiv 2206.00364 table 1; ComfyUI: ModelSamplingContinuousEDM).
        Diffusers' do_edm_style_training draws from the sampler's grid instead, which spends half of its
        draws above σ = 2.5 and has no weights.

        Raises:
            InputError: no rising range of positive numbers.
        """
        if not (0 < sigma_min < sigma_max < math.inf and 0 < sigma_data < math.inf):
            raise InputError(
                f"the model's EDM sampling goes from sigma {sigma_min:g} to {sigma_max:g} with sigma_data "
                f"{sigma_data:g}, but it must rise, above 0: mend ModelSamplingContinuousEDM"
            )
        quantile = NormalDist(EDM_LOG_MEAN, EDM_LOG_STD).inv_cdf
        logs = torch.tensor(
            [quantile((t + 0.5) / NUM_TIMESTEPS) for t in range(NUM_TIMESTEPS)], dtype=torch.float64
        ).clamp(math.log(sigma_min), math.log(sigma_max))
        alphas_cumprod = 1 / (1 + (logs.exp() / sigma_data).square())
        return cls(alphas_cumprod.float(), "edm", sigma_data, (logs / 4).float())

    @property
    def num_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def ends_without_signal(self) -> bool:
        """Whether the last timestep is noise alone: a zero-terminal-SNR schedule."""
        return self.prediction_type != "edm" and float(self.alphas_cumprod[-1]) < SMALLEST_EPSILON_SNR

    def to(self, device: torch.device | str) -> "NoiseSchedule":
        c_noise = None if self.c_noise is None else self.c_noise.to(device)
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device), c_noise=c_noise)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ·latents + √(1-ᾱ)·noise (arXiv 2006.11239 eq. 4), in the shape and type of `latents`."""
        signal, spread = self._mixture(timesteps, latents.ndim)
        return (signal * (latents / self.sigma_data) + spread * noise).to(latents.dtype)

    def velocity(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ·noise - √(1-ᾱ)·latents (arXiv 2202.00512 appendix D)."""
        signal, spread = self._mixture(timesteps, latents.ndim)
        return (signal * noise - spread * (latents / self.sigma_data)).to(latents.dtype)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model should predict."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "v_prediction":
            return self.velocity(latents, noise, timesteps)
        if self.prediction_type == "edm":
            return -self.velocity(latents, noise, timesteps)
        raise ValueError(f"prediction type is '{self.prediction_type}', not epsilon, v_prediction or edm")

    def model_timesteps(self, timesteps: Tensor) -> Tensor:
        """(B,) what the model is told: the timesteps, or an EDM model's c_noise, float32."""
        return timesteps if self.c_noise is None else self.c_noise[timesteps]

    def snr(self, timesteps: Tensor) -> Tensor:
        """(B,) signal-to-noise ratio of power, ᾱ/(1-ᾱ) = 1/sigma²."""
        alphas_cumprod = self.alphas_cumprod[timesteps]
        return alphas_cumprod / (1 - alphas_cumprod)

    def _mixture(self, timesteps: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1-ᾱ) as (B, 1, ...) with `ndim` dimensions."""
        alphas_cumprod = self.alphas_cumprod[timesteps].reshape(-1, *[1] * (ndim - 1))
        return alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()


def schedule_for(schedule: NoiseSchedule, config: ObjectiveConfig) -> NoiseSchedule:
    """The schedule to train with: the model's, but for what `prediction_type` and `zero_terminal_snr` say.

    "on" rescales the model's own table; "off" puts SDXL's in the place of one that ends without signal.

    Raises:
        InputError: zero_terminal_snr with an epsilon model; either setting with an EDM checkpoint.
    """
    prediction_type, zero_terminal = config.prediction_type, config.zero_terminal_snr
    if schedule.prediction_type == "edm":
        if prediction_type != "auto" or zero_terminal == "on":
            raise InputError(
                f"the model is an EDM checkpoint, but prediction_type is {prediction_type} and "
                f"zero_terminal_snr is {zero_terminal}: set both to auto"
            )
        return schedule
    kind = schedule.prediction_type if prediction_type == "auto" else prediction_type
    alphas_cumprod = schedule.alphas_cumprod
    if zero_terminal == "on" and not schedule.ends_without_signal:
        alphas_cumprod = _rescale_to_zero_terminal_snr(alphas_cumprod.cpu().double()).to(alphas_cumprod)
    if zero_terminal == "off" and schedule.ends_without_signal:
        alphas_cumprod = NoiseSchedule.sdxl().alphas_cumprod.to(alphas_cumprod)
    return NoiseSchedule(alphas_cumprod, kind)


def _rescale_to_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    roots = alphas_cumprod.sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    rescaled = ((roots - last) * first / (first - last)).square()
    rescaled[-1] = TERMINAL_ALPHA_CUMPROD
    return rescaled
