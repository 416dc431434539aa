"""At which steps a run saves, measures and draws: pure functions of the settings."""

from dataclasses import dataclass

from ..config import TrainConfig


@dataclass(frozen=True, slots=True)
class Milestones:
    """Each field counts optimizer steps between two events; 0 = never on the way."""

    last: int
    """The run's last step."""
    save_every: int
    validate_every: int
    preview_every: int
    has_validation: bool = False

    @classmethod
    def of(cls, config: TrainConfig, steps_per_epoch: int) -> "Milestones":
        """The milestones of a run.

        Args:
            config: settings; epochs between checkpoints go before steps, and validation goes with the
                checkpoints where it has no rhythm of its own.
            steps_per_epoch: optimizer steps in an epoch of the pictures that are trained on.
        """
        epochs = config.run.save_every_epochs
        save_every = epochs * steps_per_epoch if epochs else config.run.save_every
        has_validation = config.validation.validation_share > 0
        return cls(
            last=config.steps,
            save_every=save_every,
            validate_every=(config.validation.validate_every or save_every) if has_validation else 0,
            preview_every=config.preview.preview_every,
            has_validation=has_validation,
        )

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is due; the last step has the final file instead."""
        return step < self.last and _is_due(step, self.save_every)

    def validates_at(self, step: int) -> bool:
        """Whether the held-out loss is due: before the first step, at each multiple, after the last."""
        return self.has_validation and (step in (0, self.last) or _is_due(step, self.validate_every))

    def previews_at(self, step: int) -> bool:
        """Whether pictures are due: at step 0, at each multiple, and at the last step."""
        return bool(self.preview_every) and (step in (0, self.last) or _is_due(step, self.preview_every))

    @property
    def num_checkpoints(self) -> int:
        """Checkpoints before the last step."""
        return (self.last - 1) // self.save_every if self.save_every else 0


def _is_due(step: int, every: int) -> bool:
    return bool(every) and step > 0 and step % every == 0
