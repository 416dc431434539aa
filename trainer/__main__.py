"""Train a LoRA from the command line: `python -m trainer --data FOLDER`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .chosen_pictures import load_pictures
from .chosen_settings import Chosen, choose_settings
from .command_line import build_parser
from .config import PreviewConfig
from .data.contact_sheet import SheetStyle, contact_sheet
from .data.dataset import TrainingSet
from .data.dataset_report import describe
from .device_choice import chosen_device
from .doctor.dataset_doctor import REPORT_NAME, SHEET_NAME, examination_report, write_examination
from .errors import CancelledError, InputError
from .files.lora_file import read_lora
from .runs.headless_class_images import ClassFolder, add_class_images
from .runs.run import Job, Result, train
from .sdxl.sdxl_model import HeadlessSDXL
from .settings.presets import explain, prepared, resolve
from .terminal import INTERRUPTED, TerminalListener, stop_on_interrupt, told_progress

CHECK_FOLDER = "dataset_check"
_DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 finished, 1 something to mend, 130 stopped and saved."""
    options = build_parser().parse_args(arguments)
    listener = TerminalListener()
    try:
        with stop_on_interrupt(listener):
            if options.check:
                return listener.end(check_pictures(options, listener), 0)
            result = run_job(options, listener)
    except InputError as error:
        return listener.end(f"error: {error}", 1)
    except (CancelledError, KeyboardInterrupt) as stopped:
        return listener.end(f"{stopped or 'stopped'}; run the same command again to go on", INTERRUPTED)
    page = [result.report_page] if result.report_page else []
    written = ", ".join(map(str, (result.lora_path, *result.embeddings, *page)))
    return listener.end(f"{result.report}\nwrote {written}", 0)


def run_job(options: argparse.Namespace, listener: TerminalListener) -> Result:
    """Load, train, and draw the sheet.

    Raises:
        InputError: see `train`, `load_dataset` and `HeadlessSDXL.load`.
        CancelledError: Ctrl-C; everything is saved.
    """
    chosen = choose_settings(options)
    model = HeadlessSDXL.load(options.checkpoint, chosen_device(options.device), _DTYPES[chosen.precision])
    initial_lora = read_lora(options.start_from) if options.start_from else None
    dataset = _with_class_images(options, chosen, model, listener)
    dataset = prepared(chosen.preset, dataset)
    choice = (chosen.preset, chosen.widgets, chosen.settings, dataset)
    config = resolve(*choice)
    sys.stdout.write("\n".join([describe(dataset, config.batch_size), *explain(*choice), ""]))
    job = Job(
        config=config,
        dataset=dataset,
        loras_folder=options.output / "loras",
        run_folder=options.output / "sdxl_trainer",
        initial_lora=initial_lora,
        embeddings_folder=options.output / "embeddings",
        cache_folder=options.output / "sdxl_trainer" / ".cache",
    )
    result = train(job, model, listener)
    if options.sheet:
        prompts = options.prompts or [dataset.pictures[0].shown_captions[0]]
        write_sheet(options.sheet, model, result.lora_path, prompts, dataset.config.resolution)
    return result


def check_pictures(options: argparse.Namespace, listener: TerminalListener) -> str:
    """The report of the dataset doctor, which is written with its sheet into the output folder.

    Raises:
        InputError: see `load_pictures` and `write_examination`; or the folder cannot be written.
    """
    chosen = choose_settings(options)
    dataset = load_pictures(options, chosen.pictures, listener)
    if options.class_data:
        folder = ClassFolder(path=options.class_data, class_prompt=options.class_prompt)
        dataset = add_class_images(dataset, folder, None, listener)
    place = options.output / CHECK_FOLDER
    on_progress = told_progress(listener, "looking at pictures")
    try:
        examination = write_examination(dataset, place, options.batch_size or 1, options.check, on_progress)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{place} cannot be written: {reason}: choose another --output") from error
    return f"{examination_report(dataset, examination)}\nwrote {place / REPORT_NAME}, {place / SHEET_NAME}"


def _with_class_images(
    options: argparse.Namespace, chosen: Chosen, model: HeadlessSDXL, listener: TerminalListener
) -> TrainingSet:
    """The pictures with their class images."""
    dataset = load_pictures(options, chosen.pictures, listener)
    if not options.class_data:
        return dataset
    folder = ClassFolder(
        path=options.class_data,
        class_prompt=options.class_prompt,
        num_class_images=options.num_class_images,
    )
    return add_class_images(dataset, folder, model, listener)


def write_sheet(
    path: Path, model: HeadlessSDXL, lora_path: Path, prompts: Sequence[str], resolution: int
) -> None:
    """Rows = prompts, columns = before and after training, from the same noise."""
    config = PreviewConfig()
    before = model.sample(prompts, config, resolution, resolution)
    after = model.sample(prompts, config, resolution, resolution, lora_path)
    pairs = [image for pair in zip(before, after, strict=True) for image in pair]
    style = SheetStyle(column_titles=("before", "after"), row_titles=tuple(prompts))
    sheet = contact_sheet(pairs, [], 2, style)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


if __name__ == "__main__":
    sys.exit(main())
