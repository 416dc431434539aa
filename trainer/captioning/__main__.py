"""Caption a folder of pictures from the command line: `python -m trainer.captioning --data FOLDER`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import torch

from ..config import DatasetConfig
from ..data.dataset import load_dataset
from ..errors import InputError
from ..settings.caption_config import CaptionConfig
from ..settings.captioner_config import GenerationConfig
from ..terminal import TerminalListener, stop_on_interrupt
from .caption_journal import FOLDER, CaptionJournal
from .caption_run import (
    CaptionedSet,
    caption_dataset,
    describe_captions,
    pictures_to_ask,
    pictures_to_caption,
    require_captionable,
)
from .captioner import load_captioner
from .checkpoint_folder import CheckpointFolder, open_folder
from .command_line import build_parser
from .model_files import download, locate, missing_model

INTERRUPTED = 130
"""Exit status of a program that Ctrl-C ended."""
MB = 10**6


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 finished, 1 something to mend, 130 stopped with all captions kept."""
    options = build_parser().parse_args(arguments)
    listener = TerminalListener()
    try:
        with stop_on_interrupt(listener):
            done = caption_folder(options, listener)
    except InputError as error:
        return _say(f"error: {error}", 1, listener)
    except KeyboardInterrupt:
        text = "stopped; every caption made so far is kept: run the same command again to go on"
        return _say(text, INTERRUPTED, listener)
    left_out = [f"Left out: {note}" for note in done.dataset.notes if note.kind == "skipped"]
    return _say("\n".join([describe_captions(done, options.captioner), *left_out]), 0, listener)


def _say(text: str, status: int, listener: TerminalListener) -> int:
    listener.close()
    (sys.stderr if status else sys.stdout).write(text + "\n")
    return status


def caption_folder(options: argparse.Namespace, listener: TerminalListener) -> CaptionedSet:
    """Read the folder, find the captioner, and load it only where a picture needs it.

    Raises:
        InputError: see `load_dataset`, `caption_dataset`, `load_captioner` and `download`.
        KeyboardInterrupt: Ctrl-C; every caption made so far is kept.
    """
    config, generation = _caption_config(options), _generation_config(options)
    dataset_config = DatasetConfig(trigger=options.trigger, caption_column=options.caption_column)
    dataset = load_dataset(options.data, dataset_config, _heard(listener, "reading pictures"))
    require_captionable(dataset, config)
    # where every picture has a caption, no captioner is missed
    found = _find(options, listener) if pictures_to_caption(dataset, config) else None
    folder = options.output / "sdxl_trainer" / FOLDER
    journal = CaptionJournal(folder, found.identity() if found else "", config, generation)
    captioner = None
    if found and pictures_to_ask(dataset, config, journal):
        device = _device(options.device)
        captioner = load_captioner(found.folder, options.captioner, generation.precision, device)
        captioner.module.to(device)
    heard = _heard(listener, "captioning")
    return caption_dataset(
        dataset, captioner, config, generation, journal, lambda done, total, _: heard(done, total)
    )


def _find(options: argparse.Namespace, listener: TerminalListener) -> CheckpointFolder:
    """The captioner's folder: given as a path, in one of --models, in the hub's cache, or fetched now."""
    name, folders = options.captioner, [*options.models, options.output / "captioners"]
    folder = Path(name) if (Path(name) / "config.json").is_file() else locate(name, folders)
    if folder is None and not options.download:
        raise missing_model(name, ["a folder given with --models"])
    if folder is None:
        heard = _heard(listener, f"downloading {name} (MB)")
        folder = download(name, folders[0], lambda done, total: heard(done // MB, total // MB))
    return open_folder(folder, name)


def _heard(listener: TerminalListener, phase: str) -> Callable[[int, int], None]:
    """A (done, total) callback that Ctrl-C ends."""

    def on_progress(done: int, total: int) -> None:
        listener.phase(phase, done, total)
        if listener.should_stop():
            raise KeyboardInterrupt

    return on_progress


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


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


if __name__ == "__main__":
    sys.exit(main())
