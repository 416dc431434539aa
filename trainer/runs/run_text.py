"""What of the text encoders a run trains: opened, with new tokens and LoRAs put in."""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass

from ..adapter.lora import Adapter, attach_text_adapter
from ..adapter.lora_initial import load_initial_text
from ..config import TrainConfig
from ..events import Listener
from ..files.lora_file import LoRAFile
from ..sdxl.model import TrainableModel
from ..settings.part_rates import part_window, text_end_step, text_rank
from ..text.new_tokens import NewTokens
from ..text.token_vectors import attach_new_tokens
from ..text.trained_text import TrainedText
from ..trained_part import TrainedPart


@dataclass(frozen=True, eq=False)
class RunText:
    """`trained` is None, and the rest empty, in a run whose text encoders stay as they are."""

    trained: TrainedText | None = None
    parts: tuple[TrainedPart, ...] = ()
    notes: tuple[str, ...] = ()


def open_text(
    config: TrainConfig,
    model: TrainableModel,
    captions: Collection[str],
    initial_lora: LoRAFile | None,
    listener: Listener,
    stack: contextlib.ExitStack,
) -> RunText:
    """Open the text encoders, where the settings train something of them.

    Args:
        config: of the run.
        model: lends its text encoders.
        captions: every caption of the run.
        initial_lora: what the LoRAs start as, if not as nothing.
        listener: hears of encodings.
        stack: closes them; closed earlier when nothing of the text learns any more.

    Raises:
        InputError: an initial LoRA that does not fit, or an optimizer whose package is missing.
    """
    if not text_end_step(config):
        return RunText()
    encoders = stack.enter_context(model.open_text_encoders())
    new_tokens = NewTokens.of(config.pivotal)
    parts: list[TrainedPart] = []
    notes: list[str] = []
    if new_tokens is not None:
        tokens = attach_new_tokens(encoders, new_tokens, config.pivotal, config.seed)
        stack.callback(tokens.detach)
        parts.append(TrainedPart.of("tokens", tokens, config))
        parts[-1].after_update = tokens.keep_norms
    adapters: dict[str, Adapter] = {}
    rank = text_rank(config)
    for name, encoder in (("clip_l", encoders.clip_l), ("clip_g", encoders.clip_g)):
        if not part_window(config, name)[1]:
            continue
        adapter = attach_text_adapter(encoder, name, config.lora, rank, config.seed, encoders.layer)
        stack.callback(adapter.detach)
        if initial_lora is not None:
            notes += load_initial_text(adapter, initial_lora, lora_title(initial_lora))
        part = TrainedPart.of(name, adapter, config, adapter.is_up)
        part.starts_from_file = initial_lora is not None
        parts.append(part)
        adapters[name] = adapter
    trained = TrainedText(encoders, adapters, new_tokens, captions, listener, stack.close)
    if config.prior.prior_preservation == "base_model":
        trained.prepare_base([config.prior.class_prompt])
    return RunText(trained, tuple(parts), tuple(notes))


def lora_title(lora: LoRAFile) -> str:
    """What a LoRA calls itself."""
    return lora.metadata.get("ss_output_name") or "the LoRA to start from"
