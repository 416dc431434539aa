"""Which styles of caption a model can write, told before anything of it is fetched or loaded."""

from collections.abc import Sequence

from ..errors import InputError
from ..settings.captioner_config import CaptionStyle
from .caption_questions import CANNOT, FIXED_PROMPTS, FLORENCE_CUSTOM, FLORENCE_TASKS
from .catalog import known_model
from .checkpoint_folder import CheckpointFolder

STYLES: tuple[CaptionStyle, ...] = ("short", "detailed", "tags", "custom")


def style_refusal(
    name: str, kind: str, styles: Sequence[CaptionStyle], style: CaptionStyle, question: str
) -> str:
    """Why a model cannot be asked for this, as a sentence; empty when it can.

    Args:
        name: for the sentence.
        kind: as `CheckpointFolder.kind`.
        styles: what it can be asked for.
        style: what is asked for.
        question: of the style "custom".
    """
    if style not in styles:
        able = CANNOT.get(kind, f"it can write {' or '.join(styles)} captions")
        other = (
            "the style 'tags', or a model that writes sentences, such as florence-2-base"
            if kind == "tagger"
            else f"{' or '.join(styles)}, or a model that follows instructions, such as qwen3-vl-2b"
        )
        return f"{name} cannot write captions of the style '{style}': {able}; choose {other}"
    if style != "custom":
        return ""
    if not question.strip():
        return "the style 'custom' needs a question: write what to ask, or choose another style"
    if kind == "florence2" and question.strip() not in FLORENCE_CUSTOM:
        return (
            f"{name} cannot be asked {question.strip()[:60]!r}: {CANNOT[kind]}; ask for one "
            f"of {', '.join(FLORENCE_CUSTOM)}, or choose a model that follows instructions: qwen3-vl-2b"
        )
    return ""


def refuse_style(found: CheckpointFolder, style: CaptionStyle, question: str) -> None:
    """Raise an InputError where the model in a folder lacks the style, by its config alone.

    What only its processor tells, such as a sign of the model in the question, `Captioner.refusal` finds.
    """
    if styles := _styles_of(found.kind, found.has_chat_template):
        _refuse(found.name, found.kind, styles, style, question)


def refuse_known_style(name: str, style: CaptionStyle, question: str) -> None:
    """The same for a model of the catalogue that is not on this machine; others pass.

    Raises:
        InputError: see `refuse_style`; no name of a model.
    """
    model = known_model(name)
    if model is not None:
        _refuse(name, model.kind, _styles_of(model.kind, model.kind not in FIXED_PROMPTS), style, question)


def _refuse(name: str, kind: str, styles: Sequence[CaptionStyle], style: CaptionStyle, question: str) -> None:
    if problem := style_refusal(name, kind, styles, style, question):
        raise InputError(problem)


def _styles_of(kind: str, has_chat_template: bool) -> tuple[CaptionStyle, ...]:
    """Empty where only loading tells."""
    if kind == "tagger":
        return ("tags",)
    if kind == "florence2":
        able = {*FLORENCE_TASKS, "custom"}
    elif has_chat_template:
        able = set(STYLES)
    else:
        able = set(FIXED_PROMPTS.get(kind, ()))
    return tuple(style for style in STYLES if style in able)
