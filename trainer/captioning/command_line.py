"""The flags of `python -m trainer.captioning`."""

import argparse
from pathlib import Path
from typing import get_args

from ..settings.caption_config import CaptionConfig, IfExists, SaveCaptions
from ..settings.captioner_config import CaptionStyle, GenerationConfig
from ..settings.run_config import Precision
from .catalog import KNOWN

DESCRIPTION = "Caption a folder of pictures: `python -m trainer.captioning --data FOLDER --captioner NAME`."
TEXTS, WORDS = CaptionConfig(), GenerationConfig()


def build_parser() -> argparse.ArgumentParser:
    """Defaults are those of the settings themselves."""
    parser = argparse.ArgumentParser(prog="python -m trainer.captioning", description=DESCRIPTION)
    _add_files(parser.add_argument_group("files"))
    _add_texts(parser.add_argument_group("captions"))
    _add_words(parser.add_argument_group("how the captioner chooses its words"))
    return parser


def _add_files(files: "argparse._ArgumentGroup") -> None:
    files.add_argument("--data", type=Path, required=True, help="folder of pictures and captions")
    files.add_argument(
        "--captioner",
        default=next(iter(KNOWN)),
        metavar="NAME",
        help=f"{', '.join(KNOWN)}, a hub id as owner/name, or a folder's name in --models",
    )
    files.add_argument(
        "--models",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="where captioners lie; may be given often; downloads go into the first, else into --output",
    )
    files.add_argument("--download", action="store_true", help="fetch the captioner where it is missing")
    files.add_argument("--output", type=Path, default=Path("output"), help="folder of what is remembered")
    files.add_argument(
        "--save", choices=get_args(SaveCaptions), default=TEXTS.save, help="write captions to the pictures"
    )
    files.add_argument("--caption-column", default="text", help="of metadata.jsonl or metadata.csv")


def _add_texts(texts: "argparse._ArgumentGroup") -> None:
    texts.add_argument("--style", choices=get_args(CaptionStyle), default=TEXTS.style, help="what is asked")
    texts.add_argument("--question", default=TEXTS.question, help="for --style custom")
    texts.add_argument(
        "--if-exists", choices=get_args(IfExists), default=TEXTS.if_exists, help="pictures with a caption"
    )
    texts.add_argument("--prefix", default=TEXTS.prefix, help="such as 'a photo of TOK, '")
    texts.add_argument("--suffix", default=TEXTS.suffix, help="such as ', pencil drawing'")
    texts.add_argument("--trigger", default="", help="word in front of every caption that lacks it")
    texts.add_argument(
        "--strip", action="append", metavar="PHRASE", help="cut off at the start, in place of the usual ones"
    )


def _add_words(words: "argparse._ArgumentGroup") -> None:
    words.add_argument("--max-tokens", type=int, default=WORDS.max_tokens, help="longest caption")
    words.add_argument("--min-tokens", type=int, default=WORDS.min_tokens, help="shortest caption")
    words.add_argument("--temperature", type=float, default=WORDS.temperature, help="0 = the likeliest words")
    words.add_argument("--num-beams", type=int, default=WORDS.num_beams, help="captions tried side by side")
    words.add_argument("--tag-threshold", type=float, default=WORDS.tag_threshold, help="taggers only")
    words.add_argument("--seed", type=int, default=WORDS.seed, help="of words that are drawn")
    words.add_argument(
        "--precision", choices=get_args(Precision), default=WORDS.precision, help="of the model"
    )
    words.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
