"""All that is checked and settled of a run before it reads a picture."""

from dataclasses import dataclass, replace
from typing import get_args

from ..events import Listener
from ..files.run_name import check_run_name, file_within
from ..optimization.optimizers import require_optimizer
from ..sdxl.model import TrainableModel
from ..settings.part_rates import Part, part_optimizer, part_window
from ..text.caption_checks import require_words, with_token
from ..text.new_tokens import NewTokens
from .checkpoint import tensors_digest
from .combinations import check_combinations
from .disk_checks import must_be_writable
from .job import Job
from .milestones import Milestones
from .run_folder import RunFiles
from .run_identity import Identity, run_identity
from .run_setup import RunPictures


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A run that may begin.

    Attributes:
        job: with captions that hold the new words, where there are some.
        pictures: by what they are for.
        milestones: what is due when.
        identity: what makes it the same run as an earlier one.
        asked: files of the name that was asked for, which may be taken.
        notes: sentences about settings and captions; the listener has heard them.
    """

    job: Job
    pictures: RunPictures
    milestones: Milestones
    identity: Identity
    asked: RunFiles
    notes: tuple[str, ...]


def prepare(job: Job, model: TrainableModel, listener: Listener) -> Prepared:
    """Check a job against its model and dataset, and make the folders it writes into.

    Raises:
        InputError: something the user can mend; nothing was read or written yet.
    """
    config = job.config
    name = check_run_name(config.name)
    for part in get_args(Part):
        if part_window(config, part)[1]:
            require_optimizer(part_optimizer(config, part).optimizer, model.device)
    notes = check_combinations(config, job.dataset, model.schedule, job.initial_lora is not None)
    new_tokens = NewTokens.of(config.pivotal)
    if new_tokens is not None:
        dataset, caption_notes = with_token(job.dataset, new_tokens, config.pivotal.add_token)
        job, notes = replace(job, dataset=dataset), [*notes, *caption_notes]
    for note in notes:
        listener.note(note)
    pictures = RunPictures.of(job.dataset, config)
    if new_tokens is not None:
        require_words(pictures.trained, new_tokens)
    milestones = Milestones.of(config, pictures.steps_per_epoch(config))
    identity = _identity(job, model, milestones)
    return Prepared(job, pictures, milestones, identity, _files(job, name, new_tokens), tuple(notes))


def _identity(job: Job, model: TrainableModel, milestones: Milestones) -> Identity:
    return run_identity(
        job.config,
        (job.dataset.fingerprint, job.dataset.config),
        (model.fingerprint, model.title),
        milestones.validate_every,
        tensors_digest(job.initial_lora.tensors) if job.initial_lora else "",
    )


def _files(job: Job, name: str, new_tokens: NewTokens | None) -> RunFiles:
    words = () if new_tokens is None else new_tokens.names
    words_folder = (job.embeddings_folder or job.loras_folder) if words else None
    for folder in filter(None, (job.loras_folder, job.run_folder, words_folder)):
        with must_be_writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
    file_within(job.loras_folder, f"{name}.safetensors")
    return RunFiles(name, job.loras_folder, file_within(job.run_folder, name), words_folder, words)
