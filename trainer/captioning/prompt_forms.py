"""How a model is asked: through its chat template, with a fixed prompt, or with the picture alone."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..settings.captioner_config import CaptionStyle
from .caption_questions import (
    FIXED_PROMPTS,
    FLORENCE_TASKS,
    JOYCAPTION,
    JOYCAPTION_SYSTEM,
    QUESTIONS,
)
from .checkpoint_folder import CheckpointFolder

MARK = "WHAT-IS-ASKED"
"""Stands for the question in a prompt that is kept."""


@dataclass(frozen=True, slots=True)
class PromptForm:
    """`prompts`: style -> the whole prompt, with MARK where a custom question goes."""

    prompts: Mapping[CaptionStyle, str]
    is_chat: bool = False

    def prompt(self, style: CaptionStyle, question: str) -> str:
        return self.prompts[style].replace(MARK, question)


def fixed_form(found: CheckpointFolder, processor: Any) -> PromptForm:
    """The prompts of a model that has no chat template.

    Raises:
        InputError: a model of which nobody knows how to ask it.
    """
    if found.kind == "florence2":
        return PromptForm({**FLORENCE_TASKS, "custom": MARK})
    if found.kind not in FIXED_PROMPTS:
        raise InputError(
            f"{found.name} has no chat template, and how to ask a '{found.kind}' without one is not known: "
            "use its instruct version, or choose another captioning model"
        )
    image = str(getattr(processor, "image_token", None) or "<image>")
    prompts = {
        style: text.replace("<image>", image).replace("{question}", MARK)
        for style, text in FIXED_PROMPTS[found.kind].items()
    }
    return PromptForm(prompts)


def chat_form(processor: Any, name: str) -> PromptForm:
    """The prompts of a model with a chat template: one turn with the picture and what is asked.

    Templates differ in what they take: parts with a picture among them, or plain text into which they or
    nobody puts the picture. The first that gives one picture and the whole question is used.

    Raises:
        InputError: a template that none of these fit.
    """
    joycaption = "joycaption" in name.lower()
    questions = {**(JOYCAPTION if joycaption else QUESTIONS), "custom": MARK}
    image = str(getattr(processor, "image_token", "") or "")
    contents = (
        lambda text: [{"type": "image"}, {"type": "text", "text": text}],
        lambda text: text,
        lambda text: f"{image}\n{text}",
    )
    before = [{"role": "system", "content": JOYCAPTION_SYSTEM}] if joycaption else []
    template_errors = importlib.import_module("jinja2.exceptions").TemplateError
    for content in contents:
        try:
            prompts = {
                style: processor.apply_chat_template(
                    [*before, {"role": "user", "content": content(text)}],
                    add_generation_prompt=True,
                    tokenize=False,
                )
                for style, text in questions.items()
            }
        except (template_errors, TypeError, ValueError, AttributeError, LookupError):
            continue
        asked = prompts["custom"]
        if asked.count(MARK) == 1 and (not image or asked.count(image) == 1):
            return PromptForm(prompts, is_chat=True)
    raise InputError(
        f"{name} has a chat template that takes no picture and question: its files do not belong together; "
        "download it again, or choose another captioning model"
    )
