"""Pictures on the way: what the LoRA draws after so many steps, from the same noise each time."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import PreviewConfig
from ..data.captions import literal_prompt
from ..data.dataset import TrainingSet
from ..errors import InputError, reason_of
from ..events import Listener
from ..files.atomic_file import write_atomically
from ..memory_plan import empty_cache
from ..sdxl.model import TrainableModel
from ..sdxl.text_encoder import SDXLTextEncoder
from ..text.trained_text import TrainedText
from ..training import Training
from .drawings import drawing_path, list_drawings, read_recipe, recipe_of, write_recipe

logger = logging.getLogger(__name__)

PREVIEW_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OSError)
"""What a host's sampler, decoder or another pack's patch may raise; none of it may cost a run."""


class Previewer:
    """Draws and writes the previews of one run.

    Args:
        model: draws; its text encoders are used at once, before the denoiser opens.
        config: prompts, sampler, size.
        dataset: gives the prompt and the size where the settings have none.
        folder: where the pictures go, `step-000500-00.png` and so on.
        listener: hears of them.
        text: the text encoders, where they learn: they read the prompts anew each time.
    """

    def __init__(
        self,
        model: TrainableModel,
        config: PreviewConfig,
        dataset: TrainingSet,
        folder: Path,
        listener: Listener,
        text: TrainedText | None = None,
    ) -> None:
        self._model = model
        self._config = config
        self._folder = folder
        self._listener = listener
        self._size = preview_size(config, dataset)
        self._prompts = preview_prompts(config, dataset)
        self._text = text
        self._encoded: Any = None
        if text is not None:
            text.draws_prompts(self._encode)
        elif self.draws_unasked:
            self._encoded = model.encode_prompts(self._prompts, config.negative)
        else:
            self._encoded = self._encode()
        self._drew_before = False
        self.failures: list[str] = []
        """Sentences about pictures that could not be drawn."""

    @property
    def draws_unasked(self) -> bool:
        """Whether the settings want pictures; else they are drawn for a wish alone, and may cost little.

        What they cost without a wish: each call reads the prompts, for which the text encoders are loaded
        even where all captions lie in the cache. A host reads prompts with weights, which no cache knows.
        """
        return self._config.preview_every > 0

    def start(self, step: int) -> None:
        """Remove the pictures of later steps, which a run that is taken up at `step` draws again.

        Pictures of other prompts, sizes or samplers, as of an earlier run, go into a folder of their own.
        """
        recipe = recipe_of(self._prompts, self._size, self._config)
        if self._drawings() and read_recipe(self._folder.parent) != recipe:
            with contextlib.nullcontext() if self.draws_unasked else contextlib.suppress(OSError):
                self._put_aside()
        for drawn_at, path in self._drawings():
            if drawn_at > step:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _drawings(self) -> list[tuple[int, Path]]:
        """(step, picture) of all that are there."""
        return [(step, p) for step, row in list_drawings(self._folder).items() for p in row.values()]

    def _put_aside(self) -> None:
        number = 1 + sum(path.is_dir() for path in self._folder.iterdir())
        place = self._folder / f"earlier-{number}"
        place.mkdir()
        for _, path in self._drawings():
            path.rename(place / path.name)

    def has_drawn(self, step: int) -> bool:
        """Whether the pictures of a step are there already."""
        return all(path.exists() for path in self._paths(step))

    def draw(self, training: Training) -> Sequence[Path]:
        """Draw all prompts with the weights that would be saved; a failure is noted and ends nothing.

        Returns:
            The files; none when they could not be drawn.

        Raises:
            InputError: settings that this model cannot draw with, as long as nothing is lost by it: in the
                first drawing of a run that has no step yet.
        """
        step = training.step
        paths = self._paths(step)
        try:
            with training.evaluation():
                encoded = self._encoded if self._text is None else self._text.prompts()
                if isinstance(encoded, Exception):
                    raise encoded
                pictures = self._model.draw(training.denoiser, encoded, self._config, self._size)
            self._folder.mkdir(parents=True, exist_ok=True)
            write_recipe(self._folder.parent, recipe_of(self._prompts, self._size, self._config))
            for path, picture in zip(paths, pictures, strict=False):
                write_atomically(path, lambda place, image=picture: image.save(place, format="PNG"))
        except PREVIEW_ERRORS as error:
            if isinstance(error, InputError) and step == 0 and not self._drew_before:
                raise
            self._note(step, error)
            pictures = []
        if not pictures:  # it failed, or a host whose user has just pressed Cancel gave none
            empty_cache(training.device)
            return []
        self._drew_before = True
        written = paths[: len(pictures)]
        self._listener.preview(step, written)
        return written

    def _encode(self, *encoder: SDXLTextEncoder) -> Any:
        """The prompts as the text encoders read them now, or why they cannot: told when they are drawn."""
        try:
            return self._model.encode_prompts(self._prompts, self._config.negative, *encoder)
        except PREVIEW_ERRORS as error:
            return error.with_traceback(None)  # which would keep the text encoders' values for the whole run

    def _note(self, step: int, error: Exception) -> None:
        logger.warning("the preview of step %d failed", step, exc_info=error)
        kind, reason = type(error).__name__, reason_of(error)
        why = kind if kind == reason else f"{kind}: {reason}"
        failure = f"the preview of step {step} could not be drawn ({why}); the training is not touched by it"
        self._listener.note(failure)
        if not self.failures:
            self.failures.append(failure)

    def _paths(self, step: int) -> list[Path]:
        return [drawing_path(self._folder, step, index) for index in range(len(self._prompts))]


def preview_prompts(config: PreviewConfig, dataset: TrainingSet) -> list[str]:
    """The prompts of the settings, one a line, else the first caption of the dataset."""
    prompts = [line.strip() for line in config.prompts.splitlines() if line.strip()]
    return prompts or [literal_prompt(dataset.pictures[0].shown_captions[0])]


def preview_size(config: PreviewConfig, dataset: TrainingSet) -> tuple[int, int]:
    """(width, height) of the settings, else the most frequent of the dataset, pixels."""
    return (config.width, config.height) if config.width else dataset.most_frequent_size
