"""All that a report tells of a run, gathered once for the page and for the picture."""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..config import TrainConfig
from ..data.dataset import TrainingSet
from ..runs.loss_history import LoggedRun, read_history
from ..runs.run_folder import RunFiles
from ..runs.run_report import RunOutcome
from ..runs.without_folders import without_folders
from ..settings.part_rates import part_window
from .chart import Chart
from .dataset_pictures import ShownPictures, read_pictures
from .loss_chart import Proposal, loss_chart, propose
from .preview_grid import PreviewGrid, read_previews
from .settings_table import SettingsSection, settings_table

_MOST_FAILURES = 3
_KINDS = {"lora": "LoRA", "dora": "DoRA", "loha": "LoHa", "lokr": "LoKr"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What whoever writes the report has to say: its text, what was checked at the end, what happened."""

    report: str
    checks: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """The contents of a report, in its order; nothing in it tells where on the machine a file lies.

    `headline` are pairs of a word and its value. `chart_text` is the sentence that proposes a checkpoint.
    `failures` are sentences about what could not be shown.
    """

    name: str
    title: str
    trigger_words: str
    headline: Sequence[tuple[str, str]]
    previews: PreviewGrid
    proposal: Proposal
    chart: Chart | None
    chart_text: str
    pictures: ShownPictures
    told: Told
    settings: Sequence[SettingsSection]
    failures: Sequence[str] = field(default=())


def gather(
    files: RunFiles, outcome: RunOutcome, config: TrainConfig, dataset: TrainingSet, told: Told
) -> ReportFacts:
    """Read what a run has left in its folder; what is missing there is left out."""
    logged = read_history(files.metrics, outcome.steps or math.inf)
    proposal = propose(outcome.held_out, outcome.steps, outcome.has_best_file)
    previews = read_previews(files.samples, config.preview, dataset, proposal.step)
    pictures = read_pictures(dataset)
    checkpoints = [step for step, _ in files.kept_loras()]
    hidden = _hiding(files, dataset)
    return ReportFacts(
        name=config.name,
        title=f"{_kind(config)} for {outcome.model_title}",
        trigger_words=dataset.trigger_words,
        headline=_headline(files, outcome, config, dataset, logged),
        previews=previews,
        proposal=proposal,
        chart=loss_chart(logged, checkpoints, outcome.steps, proposal),
        chart_text=_chart_text(outcome),
        pictures=pictures,
        told=Told(
            report=hidden(told.report),
            checks=[hidden(text) for text in told.checks],
            notes=[hidden(text) for text in told.notes],
        ),
        settings=settings_table(config, dataset),
        failures=[*_few(map(hidden, previews.failures)), *_few(map(hidden, pictures.failures))],
    )


def _headline(
    files: RunFiles, outcome: RunOutcome, config: TrainConfig, dataset: TrainingSet, logged: LoggedRun
) -> list[tuple[str, str]]:
    of_all = f" of {config.steps:,}" if outcome.steps < config.steps else ""
    a_step = outcome.seconds_per_step
    if not math.isfinite(a_step) and logged.step_seconds:
        a_step = statistics.fmean(logged.step_seconds)
    pairs = [
        ("base model", outcome.model_title),
        *_shape(config),
        ("pictures", f"{len(dataset.pictures):,}"),
        ("steps", f"{outcome.steps:,}{of_all}"),
        ("one step", f"{a_step:.2f} s" if math.isfinite(a_step) else ""),
        ("training time", duration(logged.seconds) if logged.seconds else ""),
        ("file", _with_size(files.lora)),
        ("embedding", ", ".join(outcome.embedding_names)),
        ("checkpoints", f"{len(outcome.kept_names)} kept" if outcome.kept_names else ""),
        ("arithmetic", outcome.precision),
        ("versions", ", ".join(_versions()) if outcome.trained_steps else ""),
    ]
    return [(word, value) for word, value in pairs if value]


def _kind(config: TrainConfig) -> str:
    has_lora = part_window(config, "unet")[1] > 0
    return _KINDS[config.lora.adapter] if has_lora else "New words, without a LoRA,"


def _shape(config: TrainConfig) -> list[tuple[str, str]]:
    """What was trained, as far as a glance needs it."""
    lora, words = config.lora, config.pivotal.token if config.pivotal.is_on else ""
    pairs = [("new words", words)]
    if part_window(config, "unet")[1]:
        pairs += [("rank, alpha", f"{lora.rank}, {lora.effective_alpha:g}"), ("layers", lora.targets)]
    return pairs


def _with_size(path: Path) -> str:
    try:
        size = path.stat().st_size
    except OSError:
        return path.name
    return f"{path.name}, {size / 2**20:,.1f} MiB"


def duration(seconds: float) -> str:
    """A time in the two units that matter, "2 min 5 s"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _versions() -> list[str]:
    """Of the packages that did the arithmetic, and of this one."""
    found = []
    for package in ("torch", "diffusers"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    try:
        own = re.search(r'^version = "([^"]+)"$', project.read_text("utf-8"), re.MULTILINE)
    except OSError:
        own = None
    return [*found, f"SDXL Trainer {own[1]}"] if own else found


def _chart_text(outcome: RunOutcome) -> str:
    sentence = outcome.held_out.describe(outcome.has_best_file)
    if not sentence:
        return (
            "No pictures were held out, so that nothing tells which checkpoint is best but the previews: the "
            "loss on the pictures that are trained on keeps falling while they are learned by heart. Set "
            "validation_share to hold some out."
        )
    return f"{sentence[0].upper()}{sentence[1:]}."


def _few(sentences: Iterable[str]) -> list[str]:
    given = list(sentences)
    more = len(given) - _MOST_FAILURES
    return given if more <= 0 else [*given[:_MOST_FAILURES], f"and {more} more files could not be read"]


def _hiding(files: RunFiles, dataset: TrainingSet) -> Callable[[str], str]:
    """Takes the folders of this machine out of a text, which a report that is passed on must not tell."""
    own = (files.folder, files.folder.parent, files.loras_folder, files.words_folder)
    folders = {place.absolute() for place in (*own, *dataset.roots, Path.cwd())}
    return partial(without_folders, folders=folders)
