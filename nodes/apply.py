"""ApplyLoRA: a LoRA from a wire or a file onto MODEL and CLIP, with proof that all of it was applied."""

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..trainer.errors import InputError
from .comfy_bridge.folders import lora_file
from .comfy_bridge.lora_patches import apply_lora, check_keys, layer_tensors
from .comfy_bridge.new_words import clip_with_words
from .lora_checkpoints import (
    NO_FILE,
    checkpoint_file,
    chosen_file,
    files_fingerprint,
    lora_name_widget,
    lora_socket,
)
from .widgets import CATEGORY

if TYPE_CHECKING:
    from ..trainer.files.lora_file import LoRAFile

TRIGGER_KEY = "modelspec.trigger_phrase"


class ApplyLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_ApplyLoRA",
            display_name="Apply LoRA",
            category=CATEGORY,
            description="Applies a LoRA like ComfyUI's own loader, but fails when any part does not fit, "
            "tells the trigger words, and CLIP knows the words that the LoRA was trained with.",
            inputs=_inputs(),
            outputs=_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str = NO_FILE, checkpoint_step: int = 0, **_: Any) -> str:
        if lora_name == NO_FILE:
            return NO_FILE
        from .comfy_bridge.lora_words import with_embeddings

        return files_fingerprint(with_embeddings([checkpoint_file(lora_file(lora_name), checkpoint_step)]))

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        lora_name: str,
        strength_model: float,
        strength_clip: float,
        checkpoint_step: int,
        lora: Any = None,
    ) -> io.NodeOutput:
        from .comfy_bridge.lora_words import words_of

        file, name = _read(lora, lora_name, checkpoint_step)
        trigger_words = file.metadata.get(TRIGGER_KEY, "")
        if strength_model == 0 and strength_clip == 0:
            return io.NodeOutput(model, clip, trigger_words, f"{name}: strength 0, not applied")
        count = check_keys(model, clip, file.tensors, name)
        words = words_of(file, name) if strength_clip else None
        patched_model, patched_clip = apply_lora(model, clip, file.tensors, strength_model, strength_clip)
        report = [
            f"{name}: applied {len(layer_tensors(file.tensors))} keys to {count}, "
            f"strength {strength_model:g} on the model and {strength_clip:g} on CLIP"
        ]
        if words is not None:
            patched_clip = clip_with_words(patched_clip, words.vectors)
            trigger_words = trigger_words or words.names
            report.append(str(words))
        return io.NodeOutput(patched_model, patched_clip, trigger_words, "\n".join(report))


def _read(lora: Any, lora_name: str, checkpoint_step: int) -> "tuple[LoRAFile, str]":
    """What is wired or chosen, and its file name.

    Raises:
        InputError: nothing is wired or chosen, or there is no such file.
    """
    from ..trainer.files.lora_file import LoRAFile
    from ..trainer.files.safetensors_file import read_safetensors

    path = chosen_file(lora, lora_name)
    if path is None and checkpoint_step:
        raise InputError(
            f"checkpoint_step is {checkpoint_step}, but the wired LoRA comes from no file: set it to 0"
        )
    if path is None:
        return LoRAFile(dict(lora), {}), "the wired LoRA"
    path = checkpoint_file(path, checkpoint_step)
    # of any kind: whether it fits, ComfyUI's key map says
    return LoRAFile(*read_safetensors(path)), path.name


def _inputs() -> list[io.Input]:
    strength = {"default": 1.0, "min": -20.0, "max": 20.0, "step": 0.01}
    return [
        io.Model.Input("model", tooltip="SDXL model that the LoRA is applied to."),
        io.Clip.Input("clip", tooltip="CLIP of the same checkpoint."),
        lora_name_widget(),
        io.Float.Input(
            "strength_model",
            **strength,
            tooltip="How strongly the model is changed, 0.6 to 1.2; 0 = not at all.",
        ),
        io.Float.Input(
            "strength_clip",
            **strength,
            tooltip="How strongly CLIP is changed, if the LoRA holds any of it; 0 = not at all, "
            "and no new words.",
        ),
        io.Int.Input(
            "checkpoint_step",
            default=0,
            min=0,
            max=10_000_000,
            tooltip="Step of an earlier checkpoint kept beside the file, such as 500; 0 = the file itself.",
        ),
        lora_socket(),
    ]


def _outputs() -> list[io.Output]:
    return [
        io.Model.Output("patched_model", display_name="model", tooltip="The model with the LoRA applied."),
        io.Clip.Output(
            "patched_clip", display_name="clip", tooltip="CLIP with the LoRA applied, and its words."
        ),
        io.String.Output(
            "trigger_words", display_name="trigger_words", tooltip="Words that a prompt must hold, if any."
        ),
        io.String.Output("report", display_name="report", tooltip="How many weights were changed, and how."),
    ]
