"""One picture into one text: what every captioning model can do, whatever it is made of."""

from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import nn

from ..errors import InputError
from ..settings.captioner_config import CaptionStyle, GenerationConfig
from ..settings.run_config import Precision
from .checkpoint_folder import open_folder


class Captioner(Protocol):
    """A model that writes captions.

    Attributes:
        module: its weights; on the CPU and in evaluation mode after loading, the caller moves it.
        identity: changes with the weights and with how pictures and words become numbers.
        styles: what it can be asked for.
    """

    module: nn.Module
    identity: str
    styles: tuple[CaptionStyle, ...]

    def refusal(self, style: CaptionStyle, question: str) -> str:
        """Why it cannot be asked for this, as a sentence; empty when it can."""
        ...

    def caption(
        self, picture: Image.Image, style: CaptionStyle, question: str, config: GenerationConfig
    ) -> str:
        """What it writes about one picture, as one line; may be empty.

        Args:
            picture: upright, mode RGB, any size.
            style: one of `styles`.
            question: what to ask, for the style "custom"; else without effect.
            config: how words are chosen. Equal inputs give equal texts; no global random number is drawn.

        Raises:
            InputError: a style or question that it cannot be asked for.
        """
        ...


def load_captioner(
    folder: Path, name: str, precision: Precision = "auto", device: torch.device | None = None
) -> Captioner:
    """The model in a folder of safetensors weights; nothing but the folder is read, no code of it is run.

    Args:
        folder: as `locate` finds it.
        name: what the user called it, for messages.
        precision: "auto" is the checkpoint's own on an accelerator and float32 on the CPU.
        device: where it will run; None = the CPU. The weights stay on the CPU.

    Raises:
        InputError: no model, one that writes no captions, needs code of its own or a missing package, or is
            incomplete or damaged.
    """
    device = device or torch.device("cpu")
    found = open_folder(folder, name)
    if found.is_tagger:
        from .tagger import load_tagger

        return load_tagger(found, _dtype(precision, device))
    from .text_captioner import load_text_captioner

    return load_text_captioner(found, _dtype(precision, device))


def check_style(captioner: Captioner, style: CaptionStyle, question: str = "") -> None:
    """Raise an InputError where the model cannot be asked for this; to be called before any work starts."""
    if problem := captioner.refusal(style, question):
        raise InputError(problem)


def _dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """None is the checkpoint's own."""
    if precision == "auto":
        return torch.float32 if device.type == "cpu" else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
