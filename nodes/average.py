"""AverageLoRAs: several checkpoints of a run as one LoRA file, their changes averaged."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..trainer.errors import InputError
from .comfy_bridge.folders import embedding_file, loras_folder
from .comfy_bridge.folders import lora_name as listed_name
from .lora_checkpoints import (
    NO_FILE,
    checkpoint_file,
    chosen_file,
    lora_name_widget,
    lora_socket,
    parse_numbers,
    parse_steps,
    run_fingerprint,
)
from .lora_model import TrainedLoRA, read_tensors
from .widgets import CATEGORY

if TYPE_CHECKING:
    from .comfy_bridge.lora_words import LoRAWords


class AverageLoRAs(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_AverageLoRAs",
            display_name="Average LoRAs",
            category=CATEGORY,
            description="Averages checkpoints of a run into one LoRA file, which is often steadier than any "
            "of them. The files themselves stay as they are.",
            inputs=_inputs(),
            outputs=[
                io.LoraModel.Output("average", display_name="lora", tooltip="The average, for Apply LoRA."),
                io.String.Output(
                    "lora_file", display_name="lora_file", tooltip="Its name, as ComfyUI's loaders list it."
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="What was averaged, and into which file."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str = NO_FILE, **_: Any) -> str:
        return run_fingerprint(lora_name)

    @classmethod
    def execute(
        cls, lora_name: str, checkpoints: str, weights: str, name: str, lora: Any = None
    ) -> io.NodeOutput:
        from ..trainer.files.averaged_file import write_average
        from ..trainer.files.lora_file import read_lora
        from .comfy_bridge.lora_words import words_of

        path = chosen_file(lora, lora_name)
        if path is None:
            raise InputError("the wired LoRA comes from no file, so it has no checkpoints: choose its file")
        files = [checkpoint_file(path, step) for step in parse_steps(checkpoints, path)]
        shares = parse_numbers(weights, "weights", "1, 1, 2") or [1.0] * len(files)
        _require_pairs(files, shares)
        loras = {file.name: read_lora(file) for file in files}
        name = name.strip() or f"{path.stem}_average"
        target, is_new = write_average(loras_folder(), name, loras, shares, embedding_file)
        average = TrainedLoRA(read_tensors(target), target)
        used = [file.name for file, share in zip(files, shares, strict=True) if share]
        words = [words for words in (words_of(loras[file], file) for file in used) if words is not None]
        report = _report(files, shares, target, is_new) + _words_note(words)
        return io.NodeOutput(average, listed_name(target), report)


def _require_pairs(files: list[Path], shares: list[float]) -> None:
    names = ", ".join(file.name for file in files)
    if len(files) < 2:
        raise InputError(
            f"there is only {names} to average: name at least two checkpoints, such as '400, final'"
        )
    if len(shares) != len(files):
        raise InputError(
            f"weights holds {len(shares)} numbers for {len(files)} files ({names}): give one for each, or "
            "none"
        )


def _report(files: list[Path], shares: list[float], target: Path, is_new: bool) -> str:
    total = sum(shares)
    parts = [f"{share / total:.0%} {file.name}" for file, share in zip(files, shares, strict=True)]
    verb = "written" if is_new else "held this very average already"
    return f"{target.name} {verb}: " + " + ".join(parts)


def _words_note(words: "list[LoRAWords]") -> str:
    if not words:
        return ""
    names = list(dict.fromkeys(name for found in words for name in found.vectors.vectors))
    noun = "word" if len(names) == 1 else "words"
    note = f"\nIt holds the vectors of the {noun} {', '.join(names)} itself: Apply LoRA is enough"
    return "\n".join([note, *dict.fromkeys(str(found) for found in words if found.is_other_run)])


def _inputs() -> list[io.Input]:
    return [
        lora_name_widget(),
        io.String.Input(
            "checkpoints",
            default="",
            tooltip="Steps of the checkpoints beside the file, such as 400, 500, final; empty = all of them.",
        ),
        io.String.Input(
            "weights",
            default="",
            tooltip="A weight for each, such as 1, 1, 2, of which only the proportions count; empty = all "
            "alike.",
        ),
        io.String.Input(
            "name",
            default="",
            tooltip="Name of the new file; empty = the LoRA's with _average. No file is overwritten: a name "
            "that is taken gets a number.",
        ),
        lora_socket(),
    ]
