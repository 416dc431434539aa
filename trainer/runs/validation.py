"""The loss on pictures that are not trained on: what tells learning from learning by heart.

Noise and timesteps are the same at each measurement and in every run, so that two figures differ by the
weights alone. (sd-scripts, docs/validation.md, measures at timesteps 200, 400, 600 and 800 with a seed of
its own; here one more lies at each end, where composition and fine detail are decided.)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ..config import ObjectiveConfig
from ..data.batches import Draw
from ..data.dataset import TrainingSet
from ..diffusion.noise_draw import fixed_draw
from ..diffusion.objective import denoising_losses
from ..encoding.encoded_dataset import EncodedDataset
from ..training import Training

TIMESTEPS = (100, 200, 400, 600, 800, 900)
SEED = 0
PLAIN_LOSS = ObjectiveConfig(min_snr_gamma=0.0, caption_dropout=0.0)
"""The mean squared error, whatever the run trains with: so that runs compare."""


def held_out_draws(dataset: TrainingSet) -> list[Draw]:
    """One sample for each picture: its first variant with its first caption."""
    return [
        Draw(variants[0], 0, 0, picture.captions[0])
        for picture, variants in zip(dataset.pictures, dataset.variants, strict=True)
    ]


@torch.no_grad()
def held_out_loss(training: Training, encoded: EncodedDataset, draws: Sequence[Draw]) -> float:
    """Mean squared error over pictures and `TIMESTEPS`, with the weights that would be saved.

    Args:
        training: is as it was afterwards.
        encoded: the held-out pictures, on the training device.
        draws: from `held_out_draws`.
    """
    denoiser = training.denoiser
    total = torch.zeros((), device=training.device)
    with training.evaluation():
        for index, draw in enumerate(draws):
            # neither masks nor weights of the dataset: they are settings of the training loss
            batch = replace(encoded.batch([draw]), masks=None, loss_weights=None)
            for number, timestep in enumerate(TIMESTEPS):
                noise = fixed_draw(batch.latents.shape, SEED, index * len(TIMESTEPS) + number, timestep)
                total += denoising_losses(
                    denoiser.predict, batch, noise.to(training.device), denoiser.schedule, PLAIN_LOSS
                ).sum()
    return (total / (len(draws) * len(TIMESTEPS))).item()


@dataclass(slots=True)
class HeldOutLosses:
    """What the held-out loss has done so far; a checkpoint keeps it.

    The model itself, at step 0, is what the others are compared with, and never the best.
    """

    last_step: int = -1
    """Step of the last measurement; -1 = there was none."""
    last_loss: float | None = None
    base_loss: float | None = None
    """Of the model without any training."""
    best_step: int = 0
    """0 = no step was measured yet."""
    best_loss: float | None = None
    since_best: int = 0
    """Measurements since the best one."""

    def add(self, step: int, loss: float) -> bool:
        """Take a measurement in; True when it is lower than all before it."""
        figure = loss if math.isfinite(loss) else None
        self.last_step, self.last_loss = step, figure
        if step == 0:
            self.base_loss = figure
            return False
        if figure is not None and (self.best_loss is None or figure < self.best_loss):
            self.best_step, self.best_loss, self.since_best = step, figure, 0
            return True
        self.since_best += 1
        return False

    def has_lost_patience(self, patience: int) -> bool:
        """Whether so many measurements brought nothing better; 0 = never."""
        return 0 < patience <= self.since_best

    def figures(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> "HeldOutLosses":
        """The inverse of `figures`."""
        return cls(**figures)

    def describe(self, has_best_file: bool) -> str:
        """A sentence for the report that proposes a checkpoint; empty when nothing was measured.

        Args:
            has_best_file: whether the checkpoint of the best step is there.
        """
        if self.best_loss is None:
            return ""
        best = f"the held-out loss was lowest at step {self.best_step} ({self.best_loss:.4f}"
        base = "" if self.base_loss is None else f", {self.base_loss:.4f} before training"
        if self.base_loss is not None and self.best_loss >= self.base_loss:
            return (
                f"{best}{base}), never below that: the LoRA does not carry over to pictures it has not seen; "
                "try more or more varied pictures, a lower rank or a lower learning rate"
            )
        if self.best_step == self.last_step:
            return f"{best}{base}), the last measurement: more steps may still help"
        last = "" if self.last_loss is None else f" to {self.last_loss:.4f} at step {self.last_step}"
        if not has_best_file:
            advice = "its checkpoint was not kept; set keep_best, or train that many steps"
        else:
            advice = f"try checkpoint_step {self.best_step} in Apply LoRA"
        return f"{best}{base}) and has risen since{last}: {advice}"
