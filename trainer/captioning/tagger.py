"""Danbooru tags from SmilingWolf's WD taggers: timm's networks, a table of tags, two thresholds.

Pictures go in as their makers trained them: padded to a square on white, scaled, in the order blue, green,
red. https://huggingface.co/SmilingWolf/wd-vit-tagger-v3, https://github.com/neggles/wdv3-timm.
"""

import csv
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import InputError
from ..settings.captioner_config import CaptionStyle, GenerationConfig
from .checkpoint_folder import TAG_TABLE, CheckpointFolder, DamagedCopyError
from .style_choice import style_refusal

GENERAL, CHARACTER = 0, 4
"""Categories in the table; ratings, which are 9, and all others are never written."""

KAOMOJI = frozenset(
    (
        *("0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3", "6_9", ">_o"),
        *("@_@", "^_^", "o_o", "u_u", "x_x", "|_|", "||_||"),
    )
)
"""Faces made of signs, which keep their underscore."""

LOADS_OTHERS = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Arguments by which timm would read weights from elsewhere, pickled ones or those of the hub."""

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, slots=True)
class Tag:
    """`text` is as captions have it: spaces for underscores."""

    text: str
    category: int


@dataclass(frozen=True, slots=True)
class PictureForm:
    """`side` in pixels; `mean` and `std` of the channels blue, green, red."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resampling: Image.Resampling


class Tagger:
    """A network that gives each tag a probability; see `Captioner`."""

    styles: tuple[CaptionStyle, ...] = ("tags",)

    def __init__(
        self, module: nn.Module, tags: Sequence[Tag], form: PictureForm, found: CheckpointFolder
    ) -> None:
        self.module = module
        self.identity = found.identity()
        self._tags, self._form, self._name = tags, form, found.name

    def refusal(self, style: CaptionStyle, question: str) -> str:
        return style_refusal(self._name, "tagger", self.styles, style, question)

    @torch.no_grad()
    def caption(
        self, picture: Image.Image, style: CaptionStyle, question: str, config: GenerationConfig
    ) -> str:
        if problem := self.refusal(style, question):
            raise InputError(problem)
        weight = next(self.module.parameters())
        pixels = tagger_pixels(picture, self._form).to(weight.device, weight.dtype)
        probabilities = torch.sigmoid(self.module(pixels[None]).float())[0].cpu()
        return ", ".join(chosen_tags(self._tags, probabilities, config))


def tagger_pixels(picture: Image.Image, form: PictureForm) -> Tensor:
    """The picture in the middle of a white square: (3, side, side), normalised, blue first."""
    longest = max(picture.size)
    square = Image.new("RGB", (longest, longest), (255, 255, 255))
    square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
    scaled = square.resize((form.side, form.side), form.resampling)
    values = torch.frombuffer(bytearray(scaled.tobytes()), dtype=torch.uint8).view(form.side, form.side, 3)
    blue_first = values.permute(2, 0, 1).flip(0).float() / 255
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (form.mean, form.std))
    return (blue_first - mean) / std


def chosen_tags(tags: Sequence[Tag], probabilities: Tensor, config: GenerationConfig) -> list[str]:
    """Names of characters first, then general tags, each the most probable first.

    Args:
        tags: one for each number.
        probabilities: (n,).
        config: its two thresholds; a character_threshold of 1 leaves names out.
    """
    thresholds = {CHARACTER: config.character_threshold, GENERAL: config.tag_threshold}
    ranked = sorted(zip(probabilities.tolist(), tags, strict=True), key=lambda pair: -pair[0])
    return [
        tag.text
        for category, threshold in thresholds.items()
        for probability, tag in ranked
        if tag.category == category and probability >= threshold and threshold < 1
    ]


def tag_text(name: str) -> str:
    """`long_hair` as `long hair`; `^_^` stays."""
    return name if name in KAOMOJI else name.replace("_", " ")


def read_tags(found: CheckpointFolder) -> tuple[Tag, ...]:
    """The table of tags, in the order of the network's outputs.

    Raises:
        DamagedCopyError: no such table in the file.
    """
    try:
        with (found.folder / TAG_TABLE).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return tuple(Tag(tag_text(row["name"]), int(row["category"])) for row in rows)
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as problem:
        raise DamagedCopyError(
            f"{found.name}/{TAG_TABLE} is no table with the columns name and category"
        ) from problem


def load_tagger(found: CheckpointFolder, dtype: torch.dtype | None) -> Tagger:
    """Load a tagger onto the CPU; `dtype` None is the checkpoint's own.

    Raises:
        InputError: timm is missing, or the files are damaged or do not belong together.
    """
    try:
        timm = importlib.import_module("timm")
    except (ImportError, RuntimeError) as problem:
        # a torchvision that does not fit torch raises RuntimeError
        raise InputError(
            f"{found.name} is a tagger, which needs timm and a torchvision of the same build as torch, as "
            "ComfyUI has it: install timm with `pip install --no-deps timm`, or choose another captioning "
            "model"
        ) from problem
    tags = read_tags(found)
    architecture = str(found.config.get("architecture", ""))
    # create_model takes names such as hf-hub:owner/name, too, and asks the hub for them
    if not timm.is_model(architecture):
        raise InputError(
            f"{found.name} cannot be loaded: its config.json names the architecture '{architecture}', which "
            "is no network of timm: update timm if it is new, or choose another captioning model"
        )
    given = found.config.get("model_args") or {}
    options = {name: value for name, value in given.items() if name not in LOADS_OTHERS}
    options["num_classes"] = len(tags)
    try:
        module = timm.create_model(architecture, pretrained=False, **options)
        weights = load_file(found.weights[0])
        module.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, ValueError, KeyError, OSError, AttributeError) as problem:
        raise DamagedCopyError(
            f"{found.name} cannot be loaded as timm's '{architecture}' with {len(tags)} tags: its files are "
            f"damaged or do not belong together ({found.first_words(problem)})"
        ) from problem
    own = next(iter(weights.values())).dtype
    module = module.to(dtype or own).eval().requires_grad_(False)
    return Tagger(module, tags, _picture_form(found.config), found)


def _picture_form(config: Mapping[str, Any]) -> PictureForm:
    given = config.get("pretrained_cfg") or {}
    size = given.get("input_size") or [3, 448, 448]
    half = (0.5, 0.5, 0.5)
    return PictureForm(
        side=int(size[-1]),
        mean=tuple(float(x) for x in given.get("mean") or half),
        std=tuple(float(x) for x in given.get("std") or half),
        resampling=_RESAMPLING.get(str(given.get("interpolation")), Image.Resampling.BICUBIC),
    )
