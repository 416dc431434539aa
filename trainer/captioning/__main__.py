"""Caption a folder of pictures from the command line: `python -m trainer.captioning --data FOLDER`."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from ..config import DatasetConfig
from ..data.dataset import load_dataset
from ..device_choice import chosen_device
from ..errors import CancelledError, InputError
from ..settings.caption_config import CaptionConfig
from ..settings.captioner_config import GenerationConfig
from ..settings.run_config import Precision
from ..terminal import INTERRUPTED, TerminalListener, stop_on_interrupt, told_progress
from .caption_journal import FOLDER
from .caption_run import CaptionedSet, caption_with, describe_captions
from .captioner import Captioner, load_captioner
from .captioner_source import CaptionerSource
from .checkpoint_folder import CheckpointFolder
from .command_line import build_parser

MB = 10**6


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 finished, 1 something to mend, 130 stopped with all captions kept."""
    options = build_parser().parse_args(arguments)
    listener = TerminalListener()
    try:
        with stop_on_interrupt(listener):
            done = caption_folder(options, listener)
    except InputError as error:
        return listener.end(f"error: {error}", 1)
    except (CancelledError, KeyboardInterrupt):
        text = "stopped; every caption made so far is kept: run the same command again to go on"
        return listener.end(text, INTERRUPTED)
    left_out = [f"Left out: {note}" for note in done.dataset.notes if note.kind == "skipped"]
    return listener.end("\n".join([describe_captions(done, options.captioner), *left_out]), 0)


def caption_folder(options: argparse.Namespace, listener: TerminalListener) -> CaptionedSet:
    """Read the folder, find the captioner, and load it only where a picture needs it.

    Raises:
        InputError: see `load_dataset`, `caption_with` and `load_captioner`.
        CancelledError: Ctrl-C; every caption made so far is kept.
    """
    config, generation = _caption_config(options), _generation_config(options)
    dataset_config = DatasetConfig(trigger=options.trigger, caption_column=options.caption_column)
    dataset = load_dataset(options.data, dataset_config, told_progress(listener, "reading pictures"))
    folder, heard = options.output / "sdxl_trainer" / FOLDER, told_progress(listener, "captioning")
    source = _source(options, listener)
    return caption_with(
        dataset, source, config, generation, folder, lambda done, total, _: heard(done, total)
    )


def _source(options: argparse.Namespace, listener: TerminalListener) -> CaptionerSource:
    """The captioner's folder: given as a path, in one of --models, in the hub's cache, or fetched."""
    name = options.captioner

    @contextlib.contextmanager
    def load(found: CheckpointFolder, precision: Precision) -> Iterator[Captioner]:
        device = chosen_device(options.device)
        captioner = load_captioner(found.folder, name, precision, device)
        captioner.module.to(device)
        yield captioner

    heard = told_progress(listener, f"downloading {name} (MB)")
    return CaptionerSource(
        name=name,
        folders=(*options.models, options.output / "captioners"),
        places=("a folder given with --models",),
        open=load,
        on_download=(lambda done, total: heard(done // MB, total // MB)) if options.download else None,
        given=Path(name) if (Path(name) / "config.json").is_file() else None,
    )


def _caption_config(options: argparse.Namespace) -> CaptionConfig:
    given = {} if options.strip is None else {"strip_phrases": "\n".join(options.strip)}
    return CaptionConfig(
        style=options.style,
        question=options.question,
        if_exists=options.if_exists,
        prefix=options.prefix,
        suffix=options.suffix,
        save=options.save,
        **given,
    )


def _generation_config(options: argparse.Namespace) -> GenerationConfig:
    names = {field.name for field in fields(GenerationConfig)} & set(vars(options))
    return GenerationConfig(**{name: getattr(options, name) for name in names})


if __name__ == "__main__":
    sys.exit(main())
