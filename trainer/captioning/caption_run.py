"""Captions for a dataset: which pictures need one, what is known from before, what the model is asked."""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..data.captions import clean_caption
from ..data.folder import Note
from ..data.picture import Picture
from ..data.training_set import TrainingSet, derived_fingerprint, some
from ..data.variant_pixels import open_picture
from ..errors import InputError
from ..settings.caption_config import CaptionConfig
from ..settings.captioner_config import GenerationConfig
from .caption_files import open_caption_files
from .caption_journal import CaptionJournal
from .caption_text import caption_from, joined_captions, own_captions
from .captioner import Captioner, check_style
from .captioner_source import CaptionerSource
from .checkpoint_folder import DamagedCopyError

SOURCE = "captioner"
MAX_EXAMPLES = 5
_STALE_NOTES = ("pictures have no caption and train on", "trigger word '")
"""Parts of notes that spoke of the captions before."""

OnCaption = Callable[[int, int, str], None]
"""Hears (done, total, caption) after each picture; what it raises ends the work, and what is done is kept."""


@dataclass(frozen=True, kw_only=True)
class CaptionedSet:
    """The dataset with its new captions, and how it came to them; counts are pictures."""

    dataset: TrainingSet
    made: int
    remembered: int
    kept: int
    silent: tuple[str, ...]
    saved: str


def require_captionable(dataset: TrainingSet, config: CaptionConfig) -> None:
    """Refuse what cannot be captioned or saved, before a model is looked for; nothing is written.

    Raises:
        InputError: a set whose captions are variants already, or that was joined from several; see
            `open_caption_files`.
    """
    _require_one_source(dataset)
    open_caption_files(dataset, pictures_to_caption(dataset, config), config.save)


def _require_one_source(dataset: TrainingSet) -> None:
    if dataset.caption_variants is not None or any(picture.plain_captions for picture in dataset.pictures):
        raise InputError("the captions were varied already: put Caption Images before Caption Variants")
    if len(dataset.roots) > 1 or dataset.fixed_trigger_words not in (None, "", _trigger(dataset)):
        raise InputError(
            "the dataset was joined from several, whose trigger words and caption files are their own: put "
            "Caption Images before Join Datasets"
        )


def pictures_to_caption(dataset: TrainingSet, config: CaptionConfig) -> tuple[Picture, ...]:
    """The pictures that get a new caption: all of them, or those without one of their own."""
    if config.if_exists != "skip":
        return dataset.pictures
    trigger = _trigger(dataset)
    return tuple(picture for picture in dataset.pictures if not own_captions(picture, trigger))


def pictures_to_ask(
    dataset: TrainingSet, config: CaptionConfig, journal: CaptionJournal
) -> tuple[Picture, ...]:
    """The pictures that only a captioner can help; it need not be loaded where there are none."""
    return tuple(p for p in pictures_to_caption(dataset, config) if journal.get(p) is None)


def caption_dataset(
    dataset: TrainingSet,
    captioner: Captioner | None,
    config: CaptionConfig,
    generation: GenerationConfig,
    journal: CaptionJournal,
    on_caption: OnCaption | None = None,
) -> CaptionedSet:
    """Caption a dataset, one picture after the other; class images keep their captions.

    Each answer is on the disk before the next question, so that whatever ends the work loses none. A picture
    with several captions keeps all of them, has all overwritten by the new one, or has it added to each.

    Args:
        dataset: from one folder, or pictures without files; captions not yet varied.
        captioner: on the device it shall work on; may be None where `pictures_to_ask` finds none.
        config: what is asked, and what becomes of the answer.
        generation: how the captioner chooses its words.
        journal: of this captioner, `config` and `generation`.
        on_caption: hears of each caption; see `OnCaption`.

    Raises:
        InputError: see `require_captionable`; a style that the captioner does not have; a picture that has
            changed; captions that cannot be written.
    """
    _require_one_source(dataset)
    if captioner is not None:
        check_style(captioner, config.style, config.asked)
    chosen = pictures_to_caption(dataset, config)
    files = open_caption_files(dataset, chosen, config.save)
    work = _Work(_trigger(dataset), config, generation, journal)
    try:
        for number, picture in enumerate(chosen, 1):
            captions = work.captions_of(picture, captioner)
            if captions:
                files.save(picture, captions)
            if on_caption is not None:
                on_caption(number, len(chosen), captions[0] if captions else "")
    finally:
        files.finish()
    return CaptionedSet(
        dataset=_with_captions(dataset, chosen, work),
        made=work.made,
        remembered=len(chosen) - work.made,
        kept=len(dataset.pictures) - len(chosen),
        silent=tuple(work.silent),
        saved="" if config.save == "no" else config.save,
    )


def caption_with(
    dataset: TrainingSet,
    source: CaptionerSource,
    config: CaptionConfig,
    generation: GenerationConfig,
    folder: Path,
    on_caption: OnCaption | None = None,
) -> CaptionedSet:
    """Caption a dataset; the captioner is looked for and loaded only where a picture needs it.

    What can be refused is refused before a model is fetched, and the rest before its weights are read.

    Args:
        dataset: see `caption_dataset`.
        source: where the captioner comes from.
        config: what is asked, and what becomes of the answer.
        generation: how the captioner chooses its words.
        folder: of the journals.
        on_caption: hears of each caption; see `OnCaption`.

    Raises:
        InputError: see `caption_dataset` and `CaptionerSource`.
    """
    require_captionable(dataset, config)
    if not pictures_to_caption(dataset, config):
        journal = CaptionJournal(folder, "", config, generation)
        return caption_dataset(dataset, None, config, generation, journal, on_caption)
    found = source.find(config.style, config.asked)
    with contextlib.ExitStack() as stack:
        journal = CaptionJournal(folder, found.identity(), config, generation)
        captioner = None
        if pictures_to_ask(dataset, config, journal):
            try:
                captioner = stack.enter_context(source.open(found, generation.precision))
            except DamagedCopyError as damage:
                found = source.mend(found, damage)
                captioner = stack.enter_context(source.open(found, generation.precision))
                journal = CaptionJournal(folder, found.identity(), config, generation)
        return caption_dataset(dataset, captioner, config, generation, journal, on_caption)


class _Work:
    """The captions made so far, picture by picture."""

    def __init__(
        self, trigger: str, config: CaptionConfig, generation: GenerationConfig, journal: CaptionJournal
    ) -> None:
        self._trigger = trigger
        self._config = config
        self._generation = generation
        self._journal = journal
        self.made = 0
        self.silent: list[str] = []
        self.captions: dict[str, tuple[str, ...]] = {}

    def captions_of(self, picture: Picture, captioner: Captioner | None) -> tuple[str, ...]:
        """The captions of a picture; empty where the captioner said nothing that is left."""
        raw = self._journal.get(picture)
        if raw is None:
            assert captioner is not None
            asked = self._config.style, self._config.asked, self._generation
            raw = captioner.caption(open_picture(picture), *asked)
            self._journal.add(picture, raw)
            self.made += 1
        new = caption_from(raw, self._config)
        if not new:
            self.silent.append(picture.name)
            return ()
        existing = own_captions(picture, self._trigger)
        captions = joined_captions(existing, new, self._config, self._trigger)
        self.captions[picture.name] = captions
        return captions


def _trigger(dataset: TrainingSet) -> str:
    return clean_caption(dataset.config.trigger)[0]


def _with_captions(dataset: TrainingSet, chosen: Sequence[Picture], work: _Work) -> TrainingSet:
    pictures = tuple(
        replace(picture, captions=work.captions[picture.name], caption_source=SOURCE)
        if picture.name in work.captions
        else picture
        for picture in dataset.pictures
    )
    notes = [note for note in dataset.notes if not any(part in note.message for part in _STALE_NOTES)]
    if work.silent:
        text = f"the captioner said nothing about {len(work.silent)} pictures: {some(work.silent)}"
        notes.append(Note("warning", "", text))
    captioned = replace(dataset, pictures=pictures, notes=tuple(notes))
    return replace(captioned, fingerprint=_fingerprint(captioned))


def _fingerprint(dataset: TrainingSet) -> str:
    """Of the pictures and captions as they are, whatever way they came there.

    Captions that were saved are read by the next run as the pictures' own. It must find the same set then,
    or a finished LoRA would be trained again.
    """
    pictures = [
        [p.digest, p.captions, p.repeats, p.background, p.loss_weight, p.has_mask, _mask(p)]
        for p in dataset.pictures
    ]
    variants = [[asdict(variant) for variant in ways] for ways in dataset.variants]
    kept = dataset.class_set.fingerprint if dataset.class_set else ""
    return derived_fingerprint("captioned", asdict(dataset.config), pictures, variants, kept)


def _mask(picture: Picture) -> str:
    mask = picture.given_mask
    if mask is None:
        return picture.mask_digest
    return f"{mask.shape} {hashlib.sha256(mask.tobytes()).hexdigest()}"


def describe_captions(captioned: CaptionedSet, name: str) -> str:
    """What was captioned and how, with a few examples; plain text for people.

    Args:
        captioned: the outcome.
        name: of the captioner.
    """
    new = captioned.made + captioned.remembered - len(captioned.silent)
    lines = [
        f"{new:,} of {len(captioned.dataset.pictures):,} pictures captioned by {name}: "
        f"{captioned.made:,} now, {captioned.remembered:,} from earlier runs. "
        f"{captioned.kept:,} skipped, because they have captions."
    ]
    examples = [p for p in captioned.dataset.pictures if p.caption_source == SOURCE][:MAX_EXAMPLES]
    lines += [f"  {picture.name}: {picture.captions[0]}" for picture in examples]
    if captioned.silent:
        left = f"{some(captioned.silent)} keep what they had"
        lines.append(f"Nothing was said about {len(captioned.silent)} pictures: {left}.")
    if not new:
        return "\n".join(lines)
    if captioned.saved == "txt":
        lines.append("The captions stand in text files beside the pictures.")
    elif captioned.saved:
        lines.append(f"The captions stand in {captioned.saved} in the dataset's folder.")
    else:
        lines.append("No caption file was written: set save to 'txt' or 'metadata.jsonl' for that.")
    return "\n".join(lines)
