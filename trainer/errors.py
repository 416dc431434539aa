"""The two ways a run ends that are no fault of the code: bad input, and the user's wish; how any is told."""

from pathlib import Path


class InputError(ValueError):
    """Something the user can mend: says what is wrong, what was got, what was expected, what to do."""


class CancelledError(Exception):
    """The listener asked to stop; everything up to `step` is on disk.

    Attributes:
        step: number of optimizer steps that are done and saved.
        lora_path: the LoRA as of that step, or None when no step was done yet.
    """

    def __init__(self, step: int, lora_path: Path | None) -> None:
        kept = f"kept in {lora_path.name}" if lora_path else "nothing was trained yet"
        super().__init__(f"stopped at step {step}, {kept}")
        self.step = step
        self.lora_path = lora_path


def reason_of(error: BaseException) -> str:
    """What went wrong, for a sentence: of an OSError without the folders that its text tells."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error) or type(error).__name__
