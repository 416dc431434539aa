"""What a captioning model is asked for each style, in the words that its makers trained it with."""

from collections.abc import Mapping

from ..settings.captioner_config import CaptionStyle

QUESTIONS: Mapping[CaptionStyle, str] = {
    "short": "Describe this image in one short sentence.",
    "detailed": (
        "Describe this image in one detailed paragraph: the subject and its look, pose and clothing, the "
        "surroundings, light, colours, composition and style. Write only the description."
    ),
    "tags": (
        "List what this image shows as short lower-case tags separated by commas, the most important first: "
        "subject, look, clothing, pose, objects, surroundings, light, style. Write only the tags."
    ),
}
"""For models that follow instructions."""

JOYCAPTION: Mapping[CaptionStyle, str] = {
    "short": "Write a short descriptive caption for this image in a formal tone.",
    "detailed": "Write a long detailed description for this image.",
    "tags": "Write a list of Booru-like tags for this image.",
}
"""The prompts of its model card; https://github.com/fpgaminer/joycaption."""
JOYCAPTION_SYSTEM = "You are a helpful image captioner."

FLORENCE_TASKS: Mapping[CaptionStyle, str] = {"short": "<CAPTION>", "detailed": "<MORE_DETAILED_CAPTION>"}
"""Xiao et al. 2023, https://arxiv.org/abs/2311.06242; transformers' processor turns them into sentences."""
FLORENCE_CUSTOM = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>", "<OCR>")

FIXED_PROMPTS: Mapping[str, Mapping[CaptionStyle, str]] = {
    "blip": {"short": ""},
    "git": {"short": ""},
    "vision-encoder-decoder": {"short": ""},
    "blip-2": {"short": "", "custom": "Question: {question} Answer:"},
    "instructblip": {**QUESTIONS, "custom": "{question}"},
    "paligemma": {"short": "caption en", "detailed": "describe en", "custom": "{question}"},
    "llava": {
        style: f"USER: <image>\n{text} ASSISTANT:"
        for style, text in {**QUESTIONS, "custom": "{question}"}.items()
    },
}
"""Kind of model without a chat template -> style -> its prompt; "" is none at all."""

CANNOT: Mapping[str, str] = {
    "blip": "BLIP writes one short sentence, whatever it is asked (min_tokens makes it longer)",
    "git": "GIT writes one short sentence, whatever it is asked (min_tokens makes it longer)",
    "blip-2": "BLIP-2 writes a short sentence or answers a question",
    "florence2": "Florence-2 knows only its own tasks, and no tags or free questions",
    "tagger": "a tagger writes tags only",
}
"""Kind of model -> what it can do, for the sentence that refuses the rest."""
