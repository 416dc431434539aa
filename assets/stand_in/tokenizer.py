"""Write CLIP's vocabulary as `vocab.json` and `merges.txt` from its published merge list.

The merge list is `bpe_simple_vocab_16e6.txt.gz` of openai/CLIP (MIT), which the PyPI package
open_clip_torch carries. The construction is that of `clip/simple_tokenizer.py` there.
"""

import gzip
import json
from pathlib import Path

NUM_MERGES = 49152 - 256 - 2
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """A printable character for each of the 256 byte values, in CLIP's order."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def write_tokenizer(merge_list: Path, folder: Path, pad_token: str) -> None:
    """Write a tokenizer folder that transformers' CLIPTokenizer reads; `pad_token` differs by encoder."""
    lines = gzip.decompress(merge_list.read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : NUM_MERGES + 1]
    symbols = byte_symbols()
    words = [*symbols, *(s + "</w>" for s in symbols), *("".join(m.split()) for m in merges), START, END]

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(
        json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":")), "utf-8"
    )
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": pad_token,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), "utf-8")
