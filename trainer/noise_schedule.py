"""How noise is mixed into latents: the discrete schedule that an SDXL model was trained with.

`B` batch. `latents` are scaled (x 0.13025), `noise` is standard normal of their shape, `timesteps` are
(B,) int64 from 0 (least noise) to 999. `snr` is ᾱ/(1-ᾱ); `sigmas` are variance-exploding levels
sqrt((1-ᾱ)/ᾱ), as in ComfyUI's `model_sampling`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .errors import InputError

PredictionType = Literal["epsilon", "v_prediction"]

NUM_TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012
# ComfyUI keeps this much signal in the last timestep of a zero-terminal-SNR model, so that sigma is finite
TERMINAL_ALPHA_CUMPROD = 4.8973451890853435e-08
# far below SDXL's own 0.0047, far above what any zero-terminal-SNR schedule leaves
SMALLEST_EPSILON_SNR = 1e-6


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """ᾱ of every timestep and what the model predicts.

    Args:
        alphas_cumprod: (1000,) float32, falling, in [0, 1); lives where latents live.
        prediction_type: "epsilon" or "v_prediction".

    Raises:
        InputError: an epsilon model whose last timestep holds no signal: its noise says nothing about
            the picture and min-SNR would divide by zero.
    """

    alphas_cumprod: Tensor
    prediction_type: PredictionType

    def __post_init__(self) -> None:
        last_snr = float(self.alphas_cumprod[-1] / (1 - self.alphas_cumprod[-1]))
        if self.prediction_type == "epsilon" and last_snr < SMALLEST_EPSILON_SNR:
            raise InputError(
                f"an epsilon model whose schedule ends without signal (SNR {last_snr:.0e}) "
                "cannot be trained: set the model's sampling to v_prediction or turn zsnr off"
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
                f"{tuple(table.shape)}): remove LCM, EDM or other sampling patches in front of the trainer"
            )
        return cls((1 / (1 + table.square())).float(), prediction_type)

    @property
    def num_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def to(self, device: torch.device | str) -> "NoiseSchedule":
        return NoiseSchedule(self.alphas_cumprod.to(device), self.prediction_type)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ·latents + √(1-ᾱ)·noise (arXiv 2006.11239 eq. 4), in the shape and type of `latents`."""
        signal, spread = self._mixture(timesteps, latents.ndim)
        return (signal * latents + spread * noise).to(latents.dtype)

    def velocity(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ·noise - √(1-ᾱ)·latents (arXiv 2202.00512 appendix D)."""
        signal, spread = self._mixture(timesteps, latents.ndim)
        return (signal * noise - spread * latents).to(latents.dtype)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model should predict: the noise or the velocity."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "v_prediction":
            return self.velocity(latents, noise, timesteps)
        raise ValueError(f"prediction type is '{self.prediction_type}', not epsilon or v_prediction")

    def snr(self, timesteps: Tensor) -> Tensor:
        """(B,) signal-to-noise ratio of power, ᾱ/(1-ᾱ) = 1/sigma²."""
        alphas_cumprod = self.alphas_cumprod[timesteps]
        return alphas_cumprod / (1 - alphas_cumprod)

    def _mixture(self, timesteps: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1-ᾱ) as (B, 1, ...) with `ndim` dimensions."""
        alphas_cumprod = self.alphas_cumprod[timesteps].reshape(-1, *[1] * (ndim - 1))
        return alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()


def _rescale_to_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    roots = alphas_cumprod.sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    rescaled = ((roots - last) * first / (first - last)).square()
    rescaled[-1] = TERMINAL_ALPHA_CUMPROD
    return rescaled
