"""The flags of `python -m trainer`."""

import argparse
from pathlib import Path
from typing import get_args

from .config import AdapterKind, LRSchedule, OptimizerName, Precision, Resume, Targets, TrainedEncoders
from .data.dataset_sets import MaskSource
from .doctor.examination import Subject
from .settings.presets import PRESETS

STAND_IN = Path(__file__).resolve().parents[1] / "assets" / "tiny_sdxl"
DESCRIPTION = "Train a LoRA from the command line: `python -m trainer --data FOLDER`."


def build_parser() -> argparse.ArgumentParser:
    """Flags that are not given are None, empty or 0: then --set, --config and the preset decide."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description=DESCRIPTION)
    _add_files(parser.add_argument_group("files"))
    _add_training(parser.add_argument_group("training (what is not given: from --config, else the preset)"))
    _add_text(parser.add_argument_group("text encoders and new words"))
    _add_pictures(parser.add_argument_group("pictures"))
    _add_prior(parser.add_argument_group("prior preservation"))
    return parser


def _add_files(files: "argparse._ArgumentGroup") -> None:
    files.add_argument(
        "--data", type=Path, nargs="+", default=[], metavar="FOLDER", help="of pictures; several are joined"
    )
    files.add_argument(
        "--hub", metavar="OWNER/NAME", help="dataset of the Hugging Face hub, fetched once into --output"
    )
    files.add_argument(
        "--check",
        choices=get_args(Subject),
        metavar="SUBJECT",
        help=f"train nothing, write what is wrong with the pictures: {', '.join(get_args(Subject))}",
    )
    files.add_argument("--checkpoint", type=Path, default=STAND_IN, help="SDXL: folder or .safetensors file")
    files.add_argument("--output", type=Path, default=Path("output"), help="folder for everything written")
    files.add_argument("--name", default="", help="of the LoRA; default: the data folder's name")
    files.add_argument("--resume", choices=get_args(Resume), default="auto", help="new: always a new run")
    files.add_argument("--start-from", type=Path, help="LoRA file whose weights the new one starts with")
    files.add_argument("--config", type=Path, help="settings from a LoRA file, a config.json or other JSON")
    files.add_argument("--sheet", type=Path, help="write a picture of prompts before and after training")
    files.add_argument("--prompts", nargs="*", default=[], help="of sheet and previews; default: a caption")


def _add_training(run: "argparse._ArgumentGroup") -> None:
    run.add_argument(
        "--preset", choices=list(PRESETS), default="object", metavar="PRESET", help=", ".join(PRESETS)
    )
    run.add_argument("--steps", type=int, default=0, help="optimizer steps")
    run.add_argument("--epochs", type=int, default=0, help="passes over the pictures, instead of steps")
    run.add_argument("--rank", type=int, default=0, help="size of the LoRA; kohya: network_dim")
    run.add_argument("--alpha", type=float, default=0.0, help="0 = rank; kohya: network_alpha")
    run.add_argument("--targets", choices=("preset", *get_args(Targets)), default="preset")
    run.add_argument("--adapter", choices=get_args(AdapterKind), help="form of the update")
    run.add_argument("--optimizer", choices=get_args(OptimizerName), help="rule of the update")
    run.add_argument(
        "--learning-rate", type=float, default=0.0, help="0 = the preset's, or usual for the optimizer"
    )
    run.add_argument(
        "--schedule", choices=get_args(LRSchedule), help="how the rate moves; kohya: lr_scheduler"
    )
    run.add_argument("--batch-size", type=int, default=0, help="pictures in one forward pass")
    run.add_argument("--accumulation", type=int, help="batches summed into one step")
    run.add_argument("--seed", type=int, help="of every random draw; default 42")
    run.add_argument("--save-every", type=int, help="steps between checkpoints; 0 = only at the end")
    run.add_argument("--preview-every", type=int, help="steps between preview pictures; 0 = none on the way")
    run.add_argument("--validation-share", type=float, help="part of the pictures held out to measure on")
    run.add_argument("--precision", choices=get_args(Precision), help="arithmetic of the frozen model")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="any other setting, such as noise.noise_offset=0.05; may be given often",
    )


def _add_text(text: "argparse._ArgumentGroup") -> None:
    text.add_argument(
        "--token", default="", help="word of captions and prompts to learn new tokens for, such as TOK"
    )
    text.add_argument("--new-tokens", type=int, default=0, help="tokens the word stands for; default 2")
    text.add_argument(
        "--ti-fraction", type=float, default=0.0, help="part of the run that trains the tokens; default 0.5"
    )
    text.add_argument(
        "--train-text-encoder", choices=get_args(TrainedEncoders), help="which text encoders get a LoRA, too"
    )


def _add_pictures(pictures: "argparse._ArgumentGroup") -> None:
    pictures.add_argument("--resolution", type=int, help="pixels; default: what the model was made for")
    pictures.add_argument("--trigger", help="word in front of every caption that lacks it")
    pictures.add_argument("--prompt", help="caption of pictures that have none")
    pictures.add_argument("--repeats", type=int, help="how often an epoch shows each picture")
    pictures.add_argument("--flip", action="store_true", default=None, help="train on mirrored pictures too")
    pictures.add_argument(
        "--masks", choices=get_args(MaskSource), help="learn what is opaque, or white in NAME-masklabel.png"
    )
    pictures.add_argument(
        "--loss-weights",
        type=float,
        nargs="+",
        metavar="WEIGHT",
        help="one for each folder of --data, then --hub",
    )
    pictures.add_argument(
        "--augment", type=int, metavar="N", help="looks of each picture: crops, colours, ..."
    )
    pictures.add_argument(
        "--caption-variants", type=int, metavar="N", help="variants of each caption, with shuffled tags"
    )


def _add_prior(prior: "argparse._ArgumentGroup") -> None:
    prior.add_argument("--class-data", type=Path, help="folder of class images")
    prior.add_argument(
        "--class-prompt",
        default="",
        help="such as 'a photo of a dog': caption of class images that have none, and the prompt to draw "
        "missing ones with; without --class-data, the base model itself keeps the class",
    )
    prior.add_argument(
        "--num-class-images", type=int, default=0, help="draw class images until so many are there"
    )
    prior.add_argument("--prior-loss-weight", type=float, help="of keeping the class; default 1")
