"""What a run is asked to do, and what comes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..config import TrainConfig
from ..data.dataset import TrainingSet
from ..files.lora_file import LoRAFile
from .validation import HeldOutLosses


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to train.

    `loras_folder` gets the LoRA files, `embeddings_folder` new words (None = `loras_folder`), and
    `run_folder / name` everything else. What was encoded is kept for later runs in `cache_folder` (None = not
    at all), which is no folder of the user's own. `extra_metadata` goes into the header of the LoRA as it is
    ("workflow", "prompt"). Training starts from `initial_lora`, if any.
    """

    config: TrainConfig
    dataset: TrainingSet
    loras_folder: Path
    run_folder: Path
    extra_metadata: Mapping[str, str] = field(default_factory=dict)
    initial_lora: LoRAFile | None = None
    embeddings_folder: Path | None = None
    cache_folder: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished run.

    `steps` are those the file was trained for: fewer than asked for where the run ended early.
    `trained_steps` counts this call's own: 0 when a finished run was reloaded. `held_out` is what was
    measured on held-out pictures; `best_step` is 0 where there are none. In `samples_folder` lie the
    previews; `report_page` and `report_picture` tell of this end of the run, None where they could not be
    written. `is_reloaded`: this call found the run finished and wrote no LoRA. `embeddings` are the files of
    new words, the one with all of them first; `embedding` is what a prompt writes after `embedding:`,
    several by commas.
    """

    lora_path: Path
    name: str
    steps: int
    trained_steps: int
    resumed_from: int
    final_loss: float
    trigger_words: str
    report: str
    samples_folder: Path
    held_out: HeldOutLosses = field(default_factory=HeldOutLosses)
    embeddings: tuple[Path, ...] = ()
    embedding: str = ""
    report_page: Path | None = None
    report_picture: Path | None = None
    is_reloaded: bool = False

    @property
    def best_step(self) -> int:
        return self.held_out.best_step
