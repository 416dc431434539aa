"""The captioning models that people use: labels, their repositories and sizes, and those that are refused.

All run on classes of transformers or timm itself; what needs code from its repository is refused by name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True, slots=True)
class KnownModel:
    """`repository` as owner/name on the Hugging Face hub; `size` of its weights in GB, about.

    `kind` as `CheckpointFolder.kind`: what it can be asked for.
    """

    repository: str
    size: float
    kind: str


KNOWN: Mapping[str, KnownModel] = {
    "blip-large": KnownModel("Salesforce/blip-image-captioning-large", 1.9, "blip"),
    # the hub had its weights in pickled form only, so that it may have to be converted by hand
    "blip-base": KnownModel("Salesforce/blip-image-captioning-base", 1.0, "blip"),
    "blip-2": KnownModel("Salesforce/blip2-opt-2.7b", 15.0, "blip-2"),
    "florence-2-base": KnownModel("florence-community/Florence-2-base", 0.9, "florence2"),
    "florence-2-large": KnownModel("florence-community/Florence-2-large", 3.1, "florence2"),
    "florence-2-large-ft": KnownModel("florence-community/Florence-2-large-ft", 3.1, "florence2"),
    "smolvlm-256m": KnownModel("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", 1.0, "smolvlm"),
    "smolvlm-500m": KnownModel("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", 2.0, "smolvlm"),
    "smolvlm-2.2b": KnownModel("HuggingFaceTB/SmolVLM2-2.2B-Instruct", 9.0, "smolvlm"),
    "qwen3-vl-2b": KnownModel("Qwen/Qwen3-VL-2B-Instruct", 4.3, "qwen3_vl"),
    "qwen2.5-vl-3b": KnownModel("Qwen/Qwen2.5-VL-3B-Instruct", 7.5, "qwen2_5_vl"),
    "qwen3-vl-4b": KnownModel("Qwen/Qwen3-VL-4B-Instruct", 8.9, "qwen3_vl"),
    "qwen2.5-vl-7b": KnownModel("Qwen/Qwen2.5-VL-7B-Instruct", 16.6, "qwen2_5_vl"),
    "qwen3-vl-8b": KnownModel("Qwen/Qwen3-VL-8B-Instruct", 17.5, "qwen3_vl"),
    "joycaption": KnownModel("fancyfeast/llama-joycaption-beta-one-hf-llava", 17.0, "llava"),
    "wd-vit-tagger-v3": KnownModel("SmilingWolf/wd-vit-tagger-v3", 0.4, "tagger"),
    "wd-swinv2-tagger-v3": KnownModel("SmilingWolf/wd-swinv2-tagger-v3", 0.4, "tagger"),
    "wd-convnext-tagger-v3": KnownModel("SmilingWolf/wd-convnext-tagger-v3", 0.4, "tagger"),
    "wd-vit-large-tagger-v3": KnownModel("SmilingWolf/wd-vit-large-tagger-v3", 1.3, "tagger"),
    "wd-eva02-large-tagger-v3": KnownModel("SmilingWolf/wd-eva02-large-tagger-v3", 1.3, "tagger"),
}
"""Label -> the model, small ones of a kind first; the very first is the default, and can be fetched."""

_NEEDS_CODE: Mapping[str, str] = {
    r"microsoft/florence-2-.*": "florence-2-base, the same weights for transformers' own class",
    r"(vikhyatk|moondream)/moondream.*": "smolvlm-2.2b or qwen3-vl-2b",
    r"miaoshouai/florence-2-.*": "florence-2-large",
    r"(thudm|zai-org)/cog(vlm|agent).*": "qwen3-vl-4b",
    r"qwen/qwen-vl.*": "qwen3-vl-4b",
}
"""Pattern of a repository whose model is code of its own -> what to choose instead."""

_FOLDER = r"\w[\w .()+\-]*"
_PART = r"[A-Za-z0-9][A-Za-z0-9._\-]*"


def repository_of(name: str) -> str:
    """The repository behind a label, or the name itself: owner/name of the hub, or a folder's plain name.

    Raises:
        InputError: no name, a path, or a model that needs code from its repository.
    """
    name = name.strip()
    if name.lower() in KNOWN:
        return KNOWN[name.lower()].repository
    if not re.fullmatch(rf"{_PART}/{_PART}|{_FOLDER}", name) or ".." in name:
        raise InputError(
            f"the captioning model is {name!r}, but must be one of {', '.join(KNOWN)}, a repository of the "
            "Hugging Face hub as owner/name, or the name of a folder with a model"
        )
    for pattern, instead in _NEEDS_CODE.items():
        if re.fullmatch(pattern, name, re.IGNORECASE):
            raise InputError(
                f"{name} runs only with program code from its repository, which is never run here; "
                f"choose {instead}"
            )
    return name


def known_model(name: str) -> KnownModel | None:
    """The model of the catalogue behind a label or a repository.

    Raises:
        InputError: see `repository_of`.
    """
    repository = repository_of(name)
    return next((model for model in KNOWN.values() if model.repository == repository), None)


def size_text(name: str) -> str:
    """How big a known model is, as ` (about 1.9 GB)`; empty for others."""
    model = known_model(name)
    return f" (about {model.size:g} GB)" if model else ""
