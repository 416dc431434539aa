"""transformers' processor of a model, made for pictures alone where a package for videos is missing."""

import importlib
from typing import Any

from ..errors import InputError
from .checkpoint_folder import CheckpointFolder, DamagedCopyError

LOADING_ERRORS = (ImportError, OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)
"""What transformers raises over files that are damaged, incomplete or of another version."""

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def load_processor(found: CheckpointFolder) -> Any:
    """What turns (picture, words) into the model's tensors, from the folder's own files.

    Raises:
        InputError: a missing package, or files that do not fit together.
    """
    transformers = importlib.import_module("transformers")
    try:
        processor = transformers.AutoProcessor.from_pretrained(found.folder, **_LOCAL)
    except LOADING_ERRORS as problem:
        if not isinstance(problem, ImportError):
            raise _broken(found, problem) from problem
        processor = _for_pictures_alone(transformers, found, problem)
    if not hasattr(processor, "image_processor") or getattr(processor, "tokenizer", None) is None:
        raise InputError(
            f"{found.name} comes with {type(processor).__name__}, but a processor for pictures and words is "
            "needed: download it again, or choose another captioning model"
        )
    return processor


def _for_pictures_alone(transformers: Any, found: CheckpointFolder, missing: ImportError) -> Any:
    """The processor without its part for videos, which alone needs torchvision and num2words."""
    classes = importlib.import_module("transformers.models.auto.processing_auto")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(found.folder, **_LOCAL)
        pictures = transformers.AutoImageProcessor.from_pretrained(found.folder, **_LOCAL)
        values, _ = transformers.ProcessorMixin.get_processor_dict(found.folder, local_files_only=True)
        options: dict[str, Any] = {"chat_template": values.get("chat_template") or tokenizer.chat_template}
        if found.kind == "smolvlm":
            # the class that SmolVLM's own came from: the same words around a picture, but no videos
            kind = transformers.Idefics3Processor
            options |= {name: values[name] for name in ("image_seq_len",) if name in values}
        else:
            kind = _without_videos(getattr(transformers, classes.PROCESSOR_MAPPING_NAMES[found.kind]))
            options |= {"video_processor": None}
        return kind(image_processor=pictures, tokenizer=tokenizer, **options)
    except LOADING_ERRORS as problem:
        raise _broken(found, missing) from problem


def _without_videos(kind: type) -> type:
    """The same class, content with None for its video processor."""

    def check(self: Any, name: str, argument: Any) -> Any:
        if name == "video_processor" and argument is None:
            return type(None)
        return kind.check_argument_for_proper_class(self, name, argument)  # type: ignore[attr-defined]

    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})


def _broken(found: CheckpointFolder, problem: Exception) -> InputError:
    package = _missing_package(str(problem))
    if isinstance(problem, ImportError) and package:
        return InputError(
            f"{found.name} needs the package {package}, which is missing: install it with `pip install "
            f"{package}`, or choose another captioning model"
        )
    return DamagedCopyError(
        f"{found.name} cannot be loaded: what it reads pictures and words with is damaged, incomplete or of "
        f"another version of transformers ({found.first_words(problem)})"
    )


def _missing_package(text: str) -> str:
    """The package that an ImportError of transformers is about; empty where it is not one of those known."""
    known = ("torchvision", "num2words", "sentencepiece", "tiktoken", "protobuf", "einops", "timm")
    return next((name for name in known if name in text.lower()), "")
