"""What was asked of a run on its way, as far as it matters when the run is taken up again: asked.json."""

import json

from ..files.atomic_file import write_atomically
from .run_folder import RunFiles


class AskedFor:
    """The checkpoints that stay because they were asked for, and where the run was to end.

    A checkpoint that the user has removed is asked for no more.

    Attributes:
        checkpoints: their steps.
        end: the step at which the run was asked to end; 0 = it was not.
    """

    def __init__(self, files: RunFiles) -> None:
        self._path = files.asked
        checkpoints, self.end = _read(files)
        self.checkpoints = {step for step in checkpoints if files.kept_lora(step).exists()}

    def keep(self, step: int) -> None:
        """The checkpoint of a step stays.

        Raises:
            OSError: it could not be written down, and is known as long as this run goes on.
        """
        self.checkpoints.add(step)
        self._write()

    def forget(self, step: int) -> None:
        """There is no checkpoint of this step after all; a file that says so does no harm."""
        self.checkpoints.discard(step)

    def end_at(self, step: int) -> None:
        """The run ends after this step; 0: it does not.

        Raises:
            OSError: it could not be written down, and is known as long as this run goes on.
        """
        self.end = step
        self._write()

    def _write(self) -> None:
        text = json.dumps({"checkpoints": sorted(self.checkpoints), "end": self.end})
        write_atomically(self._path, lambda place: place.write_text(text, "utf-8"))


def _read(files: RunFiles) -> tuple[list[int], int]:
    """Nothing where there is no file, or none that can be read."""
    try:
        asked = json.loads(files.asked.read_text("utf-8"))
        return [int(step) for step in asked["checkpoints"]], int(asked["end"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return [], 0
