"""A folder with a captioning model, looked at before any weight is read: what it is, or why it is refused."""

import hashlib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError
from ..files.safetensors_header import read_header
from ..sdxl.model_detection import read_json
from ..sdxl.weight_files import WeightFiles

TAG_TABLE = "selected_tags.csv"
INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
ADAPTER = "adapter_config.json"
"""Of a LoRA, which transformers would put upon the model where peft is installed, and else not."""
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")
_GGUF = "holds GGUF weights, which only llama.cpp and its kin read: use its safetensors version"
MAX_WORDS = 160
MAX_TEXT_BYTES = 64 * 2**20
_TEXT_ENDINGS = (".json", ".txt", ".jinja", ".csv", ".model")
UNPACKED_HERE = ("", "bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit", "gptq", "awq", "hqq", "quanto")
UNPACKED_HERE += ("compressed-tensors", "torchao")
"""Forms of quantized weights that installed packages compute with; for others, such as fp8 and mxfp4,
transformers fetches kernels from the hub and runs them."""


class DamagedCopyError(InputError):
    """A model of which files are missing or damaged, so that fetching it again would help."""

    def __init__(self, problem: str, advice: str = "download it again") -> None:
        super().__init__(f"{problem}; {advice}")
        self.problem = problem


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """`name` is for messages, `config` the table of config.json, `weights` its safetensors files."""

    folder: Path
    name: str
    config: Mapping[str, Any]
    weights: tuple[Path, ...]

    @property
    def is_tagger(self) -> bool:
        return (self.folder / TAG_TABLE).is_file()

    @property
    def kind(self) -> str:
        """The architecture by its name in transformers, such as "blip"; else "tagger"."""
        return "tagger" if self.is_tagger else str(self.config.get("model_type", ""))

    @property
    def has_chat_template(self) -> bool:
        """Whether a file has one, wherever transformers would find it; true where that cannot be told."""
        names = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
        if any((self.folder / name).exists() for name in names):
            return True
        tables = (self.folder / name for name in ("tokenizer_config.json", "processor_config.json"))
        try:
            return any(read_json(table).get("chat_template") for table in tables if table.is_file())
        except InputError:
            return True

    def first_words(self, problem: BaseException) -> str:
        """The first line of what a library says about these files, without the place where they lie."""
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        line = lines[0].replace(str(self.folder), self.name).replace(str(self.folder.resolve()), self.name)
        return line if len(line) <= MAX_WORDS else f"{line[:MAX_WORDS]}..."

    def identity(self) -> str:
        """Changes with the weights (names, types, shapes, samples) and with all small files."""
        digest = hashlib.sha256(WeightFiles(self.weights).fingerprint().encode())
        for path in sorted(self.folder.iterdir()):
            if path.suffix in _TEXT_ENDINGS and path.is_file() and path.stat().st_size <= MAX_TEXT_BYTES:
                digest.update(f"{path.name}\n".encode())
                digest.update(path.read_bytes())
        kind = self.config.get("model_type") or self.config.get("architecture", "model")
        return f"{kind}-{digest.hexdigest()[:24]}"


def open_folder(folder: Path, name: str) -> CheckpointFolder:
    """Read config.json, and find the weights and what the pictures and words go through.

    Raises:
        InputError: nothing that could write captions.
        DamagedCopyError: incomplete or damaged files.
    """
    if not folder.is_dir():
        raise InputError(f"{name}: there is no such folder; choose another captioning model")
    if not (folder / "config.json").is_file():
        _refuse_without_config(folder, name)
    if (folder / ADAPTER).is_file():
        raise InputError(
            f"{name} holds a LoRA beside the model ({ADAPTER}): take its files out of the folder, or merge "
            "it into the model"
        )
    try:
        config = read_json(folder / "config.json")
    except InputError as problem:
        raise DamagedCopyError(f"{name}: {problem}") from problem
    if not (folder / TAG_TABLE).is_file():
        refuse_kind(config, name)
        _require_processor(folder, name)
    weights = weight_files(folder, name)
    for path in weights:
        try:
            read_header(path)
        except InputError as problem:
            raise DamagedCopyError(f"{name}: {str(problem).partition('; ')[0]}") from problem
    return CheckpointFolder(folder, name, config, weights)


def refuse_kind(config: Mapping[str, Any], name: str) -> None:
    """Raise an InputError unless the config is of a model that writes captions with transformers alone."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    kind = str(config.get("model_type", ""))
    for packed in _packed_forms(config):
        if packed not in UNPACKED_HERE:
            raise InputError(
                f"{name} has its weights packed as '{packed}', for which transformers may fetch program code "
                "from the hub, which is never run here: choose the model in bf16 or fp16, or another"
            )
    if is_florence_of_code(config):
        raise InputError(
            f"{name} is a Florence-2 that runs only with program code from its repository, which is never "
            "run here; choose florence-2-base or florence-2-large, the same weights for transformers itself"
        )
    if kind in _names(auto, "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"):
        return
    if "auto_map" in config:
        raise InputError(
            f"{name} runs only with program code from its repository, which is never run here; choose one of "
            "transformers' own models, such as florence-2-base or qwen3-vl-2b"
        )
    if not kind:
        raise InputError(f"{name}/config.json names no model_type: it is no captioning model; choose one")
    if kind in _names(auto, "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"):
        reason = "writes text but sees no pictures"
    elif kind in _names(auto, "MODEL_MAPPING_NAMES"):
        reason = "writes no text about pictures"
    else:
        version = importlib.import_module("transformers").__version__
        raise InputError(
            f"{name} is of the kind '{kind}', which transformers {version} does not know: update it if the "
            "model is new, or choose another"
        )
    raise InputError(
        f"{name} is of the kind '{kind}', which {reason}: choose a captioning model such as blip-large, "
        "florence-2-base or qwen3-vl-2b"
    )


def is_florence_of_code(config: Mapping[str, Any]) -> bool:
    """Whether it is microsoft's Florence-2, whose weights have other names than those of transformers."""
    return config.get("model_type") == "florence2" and "auto_map" in config


def _packed_forms(value: Any) -> Iterator[str]:
    """How weights are quantized, by any table of the config, at any depth."""
    if not isinstance(value, Mapping):
        return
    for name, inner in value.items():
        if name == "quantization_config" and isinstance(inner, Mapping):
            yield str(inner.get("quant_method") or "").lower()
        yield from _packed_forms(inner)


def _names(auto: Any, mapping: str) -> Mapping[str, Any]:
    return getattr(auto, mapping, {})


def weight_files(folder: Path, name: str) -> tuple[Path, ...]:
    """The safetensors files: all parts of a model in several, or the one.

    Raises:
        InputError: only weights of other formats.
        DamagedCopyError: none, or not all parts.
    """
    if (folder / INDEX).is_file():
        parts = read_json(folder / INDEX).get("weight_map", {})
        names = sorted({Path(str(part)).name for part in parts.values()}) if isinstance(parts, dict) else []
        missing = [part for part in names if not (folder / part).is_file()]
        if missing or not names:
            raise DamagedCopyError(
                f"{name} is incomplete: {len(missing)} of its {len(names)} files of weights are missing "
                f"({', '.join(missing[:2])})"
            )
        return tuple(folder / part for part in names)
    if (folder / WHOLE).is_file():
        return (folder / WHOLE,)
    endings = {path.suffix.lower() for path in folder.iterdir()}
    if ".gguf" in endings:
        raise InputError(f"{name} {_GGUF}")
    if endings & set(PICKLED):
        raise InputError(
            f"{name} holds only pickled weights ({', '.join(sorted(endings & set(PICKLED)))}), which may run "
            "code when they are read: use a safetensors version of the model"
        )
    raise DamagedCopyError(f"{name} holds no weights: {WHOLE} is missing")


def _refuse_without_config(folder: Path, name: str) -> NoReturn:
    names = {path.name for path in folder.iterdir()}
    if any(name.endswith(".gguf") for name in names):
        raise InputError(f"{name} {_GGUF}")
    if ADAPTER in names:
        raise InputError(
            f"{name} is a LoRA for a captioning model, not a model: merge it, or choose the whole model"
        )
    if "model_index.json" in names:
        raise InputError(
            f"{name} is a model that draws pictures, not one that describes them: choose a captioning model"
        )
    raise DamagedCopyError(
        f"{name} holds no config.json: it is no model of transformers, or an incomplete one"
    )


def _require_processor(folder: Path, name: str) -> None:
    have = {path.name for path in folder.iterdir()}
    if not have & {"preprocessor_config.json", "processor_config.json"}:
        raise DamagedCopyError(f"{name} lacks preprocessor_config.json, by which pictures are read")
    words = {"tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tokenizer.model"}
    if not have & words:
        raise DamagedCopyError(f"{name} lacks its tokenizer (tokenizer.json and its kin)")
