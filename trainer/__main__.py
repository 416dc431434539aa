"""Train a LoRA from the command line: `python -m trainer --data FOLDER`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch

from .config import DatasetConfig, Precision, PreviewConfig, Resume, RunConfig, Targets
from .contact_sheet import SheetStyle, contact_sheet
from .dataset import load_dataset
from .dataset_report import describe
from .errors import CancelledError, InputError
from .presets import PRESETS, Settings, Widgets, explain, resolve
from .run import Job, Result, train
from .sdxl_model import HeadlessSDXL
from .terminal import TerminalListener, stop_on_interrupt

STAND_IN = Path(__file__).resolve().parents[1] / "assets" / "tiny_sdxl"
SDXL_RESOLUTION = 1024
INTERRUPTED = 130
"""Exit status of a program that Ctrl-C ended."""
_DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    files = parser.add_argument_group("files")
    files.add_argument("--data", type=Path, required=True, help="folder of pictures and captions")
    files.add_argument("--checkpoint", type=Path, default=STAND_IN, help="SDXL: folder or .safetensors file")
    files.add_argument("--output", type=Path, default=Path("output"), help="folder for everything written")
    files.add_argument("--name", default="", help="of the LoRA; default: the data folder's name")
    files.add_argument("--resume", choices=get_args(Resume), default="auto", help="new: always a new run")
    files.add_argument("--sheet", type=Path, help="write a picture of prompts before and after training")
    files.add_argument("--prompts", nargs="*", default=[], help="of the sheet; default: a caption")

    run = parser.add_argument_group("training (0 = from the preset)")
    run.add_argument("--preset", choices=sorted(PRESETS), default="object")
    run.add_argument("--steps", type=int, default=0, help="optimizer steps")
    run.add_argument("--epochs", type=int, default=0, help="passes over the pictures, instead of steps")
    run.add_argument("--rank", type=int, default=0, help="size of the LoRA; kohya: network_dim")
    run.add_argument("--alpha", type=float, default=0.0, help="0 = rank; kohya: network_alpha")
    run.add_argument("--targets", choices=("preset", *get_args(Targets)), default="preset")
    run.add_argument("--learning-rate", type=float, default=0.0)
    run.add_argument("--batch-size", type=int, default=1)
    run.add_argument("--accumulation", type=int, default=1, help="batches summed into one step")
    run.add_argument("--seed", type=int, default=42)
    run.add_argument("--save-every", type=int, default=RunConfig().save_every, help="0 = only at the end")
    run.add_argument("--precision", choices=get_args(Precision), default="auto")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")

    pictures = parser.add_argument_group("pictures")
    pictures.add_argument("--resolution", type=int, default=0, help="pixels; 0 = what the model was made for")
    pictures.add_argument("--trigger", default="", help="word in front of every caption that lacks it")
    pictures.add_argument("--prompt", default="", help="caption of pictures that have none")
    pictures.add_argument("--repeats", type=int, default=1)
    pictures.add_argument("--flip", action="store_true", help="train on mirrored pictures too")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 finished, 1 something to mend, 130 stopped and saved."""
    options = build_parser().parse_args(arguments)
    listener = TerminalListener()
    try:
        with stop_on_interrupt(listener):
            result = run_job(options, listener)
    except InputError as error:
        return _say(f"error: {error}", 1, listener)
    except (CancelledError, KeyboardInterrupt) as stopped:
        return _say(f"{stopped or 'stopped'}; run the same command again to go on", INTERRUPTED, listener)
    return _say(f"{result.report}\nwrote {result.lora_path}", 0, listener)


def _say(text: str, status: int, listener: TerminalListener) -> int:
    listener.close()
    (sys.stderr if status else sys.stdout).write(text + "\n")
    return status


def run_job(options: argparse.Namespace, listener: TerminalListener) -> Result:
    """Load, train, and draw the sheet.

    Raises:
        InputError: see `train`, `load_dataset` and `HeadlessSDXL.load`.
        CancelledError: Ctrl-C; everything is saved.
    """
    model = HeadlessSDXL.load(options.checkpoint, _device(options.device), _DTYPES[options.precision])
    resolution = options.resolution or native_resolution(options.checkpoint)
    dataset = load_dataset(
        options.data,
        DatasetConfig(
            resolution=resolution,
            trigger=options.trigger,
            prompt=options.prompt,
            repeats=options.repeats,
            flip=options.flip,
            bucket_step=64 if resolution >= 512 else 32,
        ),
        lambda done, total: listener.phase("reading pictures", done, total),
    )
    widgets, settings = _widgets(options), _settings(options)
    lines = explain(options.preset, widgets, settings, dataset)
    sys.stdout.write(f"{describe(dataset, options.batch_size)}\n{', '.join(lines)}\n")
    config = resolve(options.preset, widgets, settings, dataset)
    output = options.output
    job = Job(
        config=config, dataset=dataset, loras_folder=output / "loras", run_folder=output / "sdxl_trainer"
    )
    result = train(job, model, listener)
    if options.sheet:
        prompts = options.prompts or [dataset.pictures[0].captions[0]]
        write_sheet(options.sheet, model, result.lora_path, prompts, dataset.config.resolution)
    return result


def native_resolution(checkpoint: Path) -> int:
    """Side of the pictures a model was made for, pixels; 1024 where its folder does not tell."""
    try:
        config = json.loads((checkpoint / "unet" / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return SDXL_RESOLUTION
    return 8 * config.get("sample_size", SDXL_RESOLUTION // 8)


def _device(name: str) -> str:
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _widgets(options: argparse.Namespace) -> Widgets:
    return Widgets(
        name=options.name or options.data.resolve().name,
        steps=options.steps,
        epochs=options.epochs,
        rank=options.rank,
        alpha=options.alpha,
        targets=options.targets,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        seed=options.seed,
        resume=options.resume,
    )


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        preview=PreviewConfig(prompts="\n".join(options.prompts)),
        run=RunConfig(
            save_every=options.save_every,
            gradient_accumulation=options.accumulation,
            precision=options.precision,
        ),
    )


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
