"""Captions from transformers' models of pictures and words, through their own `generate`."""

import contextlib
import importlib
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn

from ..errors import InputError
from ..settings.captioner_config import CaptionStyle, GenerationConfig
from .caption_questions import FLORENCE_TASKS
from .checkpoint_folder import CheckpointFolder, DamagedCopyError
from .cut_off import without_cut_off_end
from .own_randomness import own_randomness
from .picture_processor import LOADING_ERRORS, load_processor
from .plain_config import plain_config
from .prompt_forms import PromptForm, chat_form, fixed_form
from .style_choice import STYLES, style_refusal

logger = logging.getLogger(__name__)

RESERVED = 40
"""Positions kept for the signs that a model adds by itself: for BLIP-2's picture, the beginning, the end."""
MAX_PIXELS = 1536 * 1024
"""Larger pictures are made smaller first: some models make a token of every 28 x 28 pixels, however many."""
MOST_MISSING = 0.05
"""Share of a model's weights that may be missing from its files: parts that captioning does not use."""


class TextCaptioner:
    """A model with `generate`, its processor, and how it is asked."""

    def __init__(self, module: nn.Module, processor: Any, form: PromptForm, found: CheckpointFolder) -> None:
        self.module = module
        self.identity = found.identity()
        self.styles: tuple[CaptionStyle, ...] = tuple(style for style in STYLES if style in form.prompts)
        self._processor = processor
        self._form = form
        self._name, self._kind = found.name, found.kind
        self._knows_token_types = "token_type_ids" in inspect.signature(module.forward).parameters

    def refusal(self, style: CaptionStyle, question: str) -> str:
        if problem := style_refusal(self._name, self._kind, self.styles, style, question):
            return problem
        if style != "custom" or self._kind == "florence2":
            return ""
        tokenizer = self._processor.tokenizer
        signs = {*tokenizer.all_special_tokens, str(getattr(self._processor, "image_token", "") or "")} - {""}
        if held := sorted(sign for sign in signs if sign in question):
            return f"the question holds {held[0]!r}, which is a sign of the model and no word: leave it out"
        return ""

    @torch.no_grad()
    def caption(
        self, picture: Image.Image, style: CaptionStyle, question: str, config: GenerationConfig
    ) -> str:
        if problem := self.refusal(style, question):
            raise InputError(problem)
        inputs = self.model_inputs(picture, style, question)
        arguments = self._arguments(config, inputs)
        device = next(self.module.parameters()).device
        with own_randomness(device, config.seed, picture):
            tokens = self.module.generate(**inputs, **arguments)[0]  # type: ignore[operator]
        new = new_tokens(tokens, inputs.get("input_ids"))
        text = self._text(new, style, question, picture)
        stopped = self._num_written(new) >= arguments["max_new_tokens"]
        return without_cut_off_end(text, style) if stopped else text

    def _num_written(self, new: torch.Tensor) -> int:
        model_config: Any = self.module.config
        generation: Any = self.module.generation_config
        # BLIP begins with a sign that is none of its tokenizer's
        begin = getattr(getattr(model_config, "text_config", model_config), "bos_token_id", None)
        forced = getattr(generation, "forced_eos_token_id", None) is not None
        return num_written(new, (*self._processor.tokenizer.all_special_ids, begin), forced)

    def _arguments(self, config: GenerationConfig, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """No model can write beyond its last position, of which the prompt takes its share."""
        model_config: Any = self.module.config
        text_config = getattr(model_config, "text_config", model_config)
        last = getattr(text_config, "max_position_embeddings", None) or 2**31
        prompt = inputs["input_ids"].shape[-1] if "input_ids" in inputs else RESERVED
        return generate_arguments(config, max(1, last - prompt - RESERVED))

    def model_inputs(self, picture: Image.Image, style: CaptionStyle, question: str) -> Mapping[str, Any]:
        """The model's tensors for one picture and what is asked, on its device and in its precision."""
        prompt = self._form.prompt(style, question.strip())
        words = {} if prompt == "" else {"text": [prompt]}
        extra = {"add_special_tokens": False} if self._begins_itself(prompt) else {}
        try:
            made = self._processor(images=[_not_too_large(picture)], **words, return_tensors="pt", **extra)
        except ValueError as problem:
            raise InputError(
                f"{self._name} cannot read a picture of {picture.width} x {picture.height} pixels: take it "
                "out of the dataset, or choose another captioning model"
            ) from problem
        weight = next(p for p in self.module.parameters() if p.is_floating_point())
        return {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for name, value in made.items()
            # some tokenizers make these for models that do not know them, which `generate` refuses
            if isinstance(value, torch.Tensor) and (name != "token_type_ids" or self._knows_token_types)
        }

    def _begins_itself(self, prompt: str) -> bool:
        """Whether the chat template has written the token of the beginning, which must not come twice."""
        begin = self._processor.tokenizer.bos_token
        return bool(begin) and self._form.is_chat and prompt.startswith(begin)

    def _text(self, new: torch.Tensor, style: CaptionStyle, question: str, picture: Image.Image) -> str:
        text = self._processor.tokenizer.decode(new, skip_special_tokens=True)
        if self._kind == "florence2":
            task = FLORENCE_TASKS.get(style, question.strip())
            # a folder without rules for its tasks has the plain text as its answer
            with contextlib.suppress(ValueError):
                answers = self._processor.post_process_generation(text, task=task, image_size=picture.size)
                text = answers[task]
        # models that think aloud do so before this mark, which is no special token
        return " ".join(text.rpartition("</think>")[2].split())


def _not_too_large(picture: Image.Image) -> Image.Image:
    scale = (MAX_PIXELS / (picture.width * picture.height)) ** 0.5
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def new_tokens(tokens: torch.Tensor, prompt_ids: torch.Tensor | None) -> torch.Tensor:
    """What was written after the prompt; some models give the prompt back, some do not. (n,) -> (m,)."""
    if prompt_ids is None:
        return tokens
    length = prompt_ids.shape[-1]
    if tokens.shape[0] >= length and torch.equal(tokens[:length], prompt_ids[0].to(tokens.device)):
        return tokens[length:]
    return tokens


def num_written(new: torch.Tensor, signs: Sequence[int], end_is_forced: bool = False) -> int:
    """How many of the tokens (n,) the model wrote, without the sign that it was started with.

    Nor does the sign of the end count, unless `end_is_forced`: some must write it where they run out of
    tokens.
    """
    ids = new.tolist()
    started = bool(ids) and ids[0] in signs
    ended = len(ids) > 1 and ids[-1] in signs and not end_is_forced
    return len(ids) - int(started) - int(ended)


def generate_arguments(config: GenerationConfig, room: int) -> dict[str, Any]:
    """Arguments of transformers' `generate`; None puts aside what the checkpoint itself would set.

    `room` is how many tokens the model can write at most.
    """
    draws = config.temperature > 0
    return {
        "max_new_tokens": min(config.max_tokens, room),
        "min_new_tokens": min(config.min_tokens, room) or None,
        "do_sample": draws,
        "temperature": config.temperature if draws else None,
        "top_p": config.top_p if draws else None,
        "top_k": config.top_k if draws else None,
        "num_beams": config.num_beams,
        "early_stopping": config.num_beams > 1,
        "repetition_penalty": config.repetition_penalty,
    }


def load_text_captioner(found: CheckpointFolder, dtype: torch.dtype | None) -> TextCaptioner:
    """Load a model of transformers' own classes and its processor onto the CPU.

    Args:
        found: the folder.
        dtype: of the weights; None = the checkpoint's own.

    Raises:
        InputError: a missing package, or files that are damaged or do not belong together.
    """
    processor = load_processor(found)
    chat = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    form = (
        chat_form(processor, found.name)
        if chat and found.kind != "florence2"
        else fixed_form(found, processor)
    )
    return TextCaptioner(_load_module(found, dtype), processor, form, found)


def _load_module(found: CheckpointFolder, dtype: torch.dtype | None) -> nn.Module:
    transformers = importlib.import_module("transformers")
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    wanted = {"dtype" if version >= (4, 56) else "torch_dtype": dtype or "auto"}
    try:
        module, report = transformers.AutoModelForImageTextToText.from_pretrained(
            found.folder,
            config=plain_config(transformers, found.folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **wanted,
        )
    except LOADING_ERRORS as problem:
        if isinstance(problem, ImportError):
            raise InputError(
                f"{found.name} needs a package that is missing ({found.first_words(problem)}): install "
                "it, or choose another captioning model"
            ) from problem
        raise DamagedCopyError(
            f"{found.name} cannot be loaded: its weights are damaged or do not fit its config.json "
            f"({found.first_words(problem)})"
        ) from problem
    _require_weights(found.name, module, report)
    return module.eval().requires_grad_(False)


def _require_weights(name: str, module: nn.Module, report: Mapping[str, Any]) -> None:
    """The loader only warns about weights that no file has, and draws them at random."""
    missing = sorted(str(key) for key in report.get("missing_keys", ()))
    if not missing:
        return
    if len(missing) > MOST_MISSING * len(module.state_dict()) or any("lm_head" in key for key in missing):
        raise DamagedCopyError(
            f"{name} lacks {len(missing)} of its weights ({', '.join(missing[:2])}): it is of another layout "
            "or incomplete, and would write nonsense",
            "download it again, or choose another captioning model",
        )
    logger.warning("%s lacks %d weights that captioning seldom uses: %s", name, len(missing), missing[:3])
