"""LoadTrainingSettings: what a LoRA was trained with, back on the wires of the settings sockets."""

from typing import Any

from comfy_api.latest import io

from ..trainer.config import SECTIONS
from ..trainer.errors import InputError
from .comfy_bridge.folders import lora_file
from .lora_checkpoints import NO_FILE, chosen_file, files_fingerprint, lora_name_widget, lora_socket
from .widgets import CATEGORY, settings_output

# outputs are only ever appended: these stand behind the report
ADDED_SECTIONS = ("text_encoder", "pivotal")


class LoadTrainingSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_LoadTrainingSettings",
            display_name="Load Training Settings",
            category=CATEGORY,
            description="The settings that a LoRA was trained with, out of its file: all of them where it "
            "was trained here, what kohya's metadata tells where it was trained there.",
            inputs=_inputs(),
            outputs=[
                *(settings_output(section) for section in SECTIONS if section not in ADDED_SECTIONS),
                io.Int.Output(
                    "steps", display_name="steps", tooltip="Plug into steps; 0 where the file does not say."
                ),
                io.Int.Output(
                    "batch_size",
                    display_name="batch_size",
                    tooltip="Plug into batch_size; 0 where the file does not say.",
                ),
                io.Int.Output(
                    "seed",
                    display_name="seed",
                    tooltip="Plug into seed; 42, the trainers' own default, where the file does not say.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="All settings in words, those of the dataset too, and what could not be read.",
                ),
                *(settings_output(section) for section in ADDED_SECTIONS),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str = NO_FILE, **_: Any) -> str:
        return NO_FILE if lora_name == NO_FILE else files_fingerprint([lora_file(lora_name)])

    @classmethod
    def execute(cls, lora_name: str, lora: Any = None) -> io.NodeOutput:
        from ..trainer.settings.settings_from_lora import settings_of_file

        path = chosen_file(lora, lora_name)
        if path is None:
            raise InputError("the wired LoRA comes from no file, so it tells no settings: choose its file")
        loaded = settings_of_file(path)
        numbers = (loaded.steps, loaded.batch_size, loaded.seed)
        first = (section for name, section in loaded.sections.items() if name not in ADDED_SECTIONS)
        added = (loaded.sections[name] for name in ADDED_SECTIONS)
        return io.NodeOutput(*first, *numbers, loaded.describe(), *added)


def _inputs() -> list[io.Input]:
    return [
        lora_name_widget(),
        lora_socket(),
    ]
