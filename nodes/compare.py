"""CompareLoRAs: checkpoints, strengths and prompts on one labelled sheet, drawn by ComfyUI's samplers."""

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..trainer.config import MAX_SEED, PreviewConfig
from ..trainer.errors import InputError
from .comfy_bridge.compare import Cell, Comparison, draw_comparison
from .comfy_bridge.pixels import to_image
from .comfy_bridge.preview import require_sampler, sampler_choices, scheduler_choices
from .comfy_bridge.progress import report_progress
from .lora_checkpoints import (
    NO_FILE,
    checkpoint_file,
    chosen_file,
    lora_name_widget,
    lora_socket,
    parse_numbers,
    parse_steps,
    run_fingerprint,
    step_title,
)
from .widgets import CATEGORY, hidden_value, mark_advanced

MAX_PICTURES = 400  # a slip of the keyboard must not sample for days
MAX_STRENGTH = 20.0
TILE, MIN_TILE, MAX_SHEET = 320, 160, 4096  # pixels: of a picture on the sheet, and of the sheet's width


class CompareLoRAs(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_CompareLoRAs",
            display_name="Compare LoRAs",
            category=CATEGORY,
            description="Draws checkpoints x strengths x prompts of a LoRA with the same noise and lays them "
            "out on one sheet: which checkpoint, and how strong?",
            inputs=[*_sockets(), *_choice_widgets(), *_sampling_widgets(), lora_socket()],
            outputs=[
                io.Image.Output("sheet", display_name="sheet", tooltip="All pictures on one labelled sheet."),
                io.Image.Output(
                    "images",
                    display_name="images",
                    tooltip="The pictures themselves, row by row as they stand on the sheet.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="What each picture of the batch shows, in order."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str = NO_FILE, **_: Any) -> str:
        return run_fingerprint(lora_name)

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, **fields: Any) -> io.NodeOutput:
        comparison = _comparison(fields)
        progress = report_progress("drawing", hidden_value(cls, "unique_id"))
        images = draw_comparison(model, clip, vae, comparison, progress)
        sheet = _sheet(comparison, images)
        return io.NodeOutput(sheet, images, _report(comparison), ui=ui.PreviewImage(sheet, cls=cls))


def _comparison(fields: dict[str, Any]) -> Comparison:
    """What is to be drawn, checked before anything is.

    Raises:
        InputError: no file, a checkpoint that was not kept, a text that cannot be read, words without their
            embedding, or too many pictures.
    """
    from .comfy_bridge.lora_words import words_of_file

    path = chosen_file(fields.get("lora"), fields["lora_name"])
    if path is None:
        raise InputError("the wired LoRA comes from no file, so it has no checkpoints: choose its file")
    prompts = [line.strip() for line in fields["prompts"].splitlines() if line.strip()]
    if not prompts:
        raise InputError("prompts is empty: write one prompt a line")
    strengths = list(dict.fromkeys(parse_numbers(fields["strengths"], "strengths", "0, 0.6, 1.0"))) or [1.0]
    if max(map(abs, strengths)) > MAX_STRENGTH:
        raise InputError(f"strengths holds {max(strengths, key=abs):g}, but must be within ±{MAX_STRENGTH:g}")
    files = {
        step_title(step): checkpoint_file(path, step) for step in parse_steps(fields["checkpoints"], path)
    }
    preview = PreviewConfig(
        negative=fields["negative"],
        steps=fields["steps"],
        guidance=fields["cfg"],
        seed=fields["seed"],
        sampler=fields["sampler_name"],
        scheduler=fields["scheduler"],
        width=fields["width"],
        height=fields["height"],
    )
    require_sampler(preview)
    found = {file: words_of_file(file) for file in files.values()}
    words = {file: words for file, words in found.items() if words is not None}
    comparison = Comparison(path.stem, files, strengths, prompts, preview, words)
    if len(comparison.cells) > MAX_PICTURES:
        raise InputError(
            f"{len(files)} checkpoints, {len(strengths)} strengths and {len(prompts)} prompts make "
            f"{len(comparison.cells)} pictures, but at most {MAX_PICTURES} are drawn: name fewer of them"
        )
    return comparison


def _sheet(comparison: Comparison, images: torch.Tensor) -> torch.Tensor:
    from ..trainer.data.contact_sheet import SheetStyle, contact_sheet
    from .comfy_bridge.preview import to_pictures

    columns, preview = len(comparison.column_titles), comparison.preview
    tile = max(MIN_TILE, min(TILE, MAX_SHEET // columns))
    style = SheetStyle(
        tile=tile,
        height=round(tile * preview.height / preview.width),
        row_titles=comparison.row_titles,
        row_notes=[prompt for prompt in comparison.prompts for _ in comparison.row_strengths],
        column_titles=comparison.column_titles,
        corner=comparison.name,
    )
    return to_image(contact_sheet(to_pictures(images), [], columns, style))


def _report(comparison: Comparison) -> str:
    preview = comparison.preview
    files = ", ".join(dict.fromkeys(path.name for path in comparison.files.values()))
    head = (
        f"{comparison.name}: {len(comparison.cells)} pictures of {preview.width}x{preview.height}, "
        f"{preview.sampler} {preview.scheduler}, {preview.steps} steps, cfg {preview.guidance:g}, prompt n "
        f"with seed {preview.seed} + n - 1\nfiles: {files}{_words_note(comparison)}"
    )
    return "\n".join([head, *(f"{n}: {_line(cell)}" for n, cell in enumerate(comparison.cells, start=1))])


def _words_note(comparison: Comparison) -> str:
    words = comparison.words.values()
    if not words:
        return ""
    names = ", ".join(dict.fromkeys(word.names for word in words))
    others = ", ".join(word.source for word in words if word.is_other_run)
    return f"; words: {names}" + (f", but of another run than the LoRA: {others}" if others else "")


def _line(cell: Cell) -> str:
    drawn = f"{cell.title}, strength {cell.strength:g}" if cell.strength else cell.title
    return f"{drawn}: {cell.prompt}"


def _sockets() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="SDXL model that the LoRA was trained for, without the LoRA."),
        io.Clip.Input("clip", tooltip="CLIP of the same checkpoint."),
        io.Vae.Input("vae", tooltip="VAE of the same checkpoint."),
    ]


def _choice_widgets() -> list[io.Input]:
    return [
        lora_name_widget(),
        io.String.Input(
            "checkpoints",
            default="",
            tooltip="Steps of the checkpoints beside the file, such as 250, 500, final; empty = all of them.",
        ),
        io.String.Input(
            "strengths",
            default="0, 0.6, 1.0",
            tooltip="Strengths of each checkpoint, 0.4 to 1.2; 0 = the model without LoRA, drawn once.",
        ),
        io.String.Input("prompts", default="", multiline=True, tooltip="One prompt a line."),
        io.String.Input("negative", default="", multiline=True, tooltip="Negative prompt of all of them."),
    ]


def _sampling_widgets() -> list[io.Input]:
    size = {"default": 1024, "min": 64, "max": 4096, "step": 8}
    return [
        io.Int.Input(
            "seed",
            default=1,
            min=0,
            max=MAX_SEED,
            control_after_generate=False,
            tooltip="Noise of the first prompt, the same in all columns; the next prompts count up.",
        ),
        io.Int.Input(
            "steps", default=20, min=1, max=1000, tooltip="Sampling steps, 15 to 40. KSampler: steps."
        ),
        io.Float.Input(
            "cfg", default=6.0, min=0.0, max=100.0, step=0.5, tooltip="Guidance, 4 to 9. KSampler: cfg."
        ),
        io.Combo.Input(
            "sampler_name", options=sampler_choices(), default="euler", tooltip="KSampler: sampler_name."
        ),
        io.Combo.Input(
            "scheduler", options=scheduler_choices(), default="normal", tooltip="KSampler: scheduler."
        ),
        mark_advanced(
            io.Int.Input(
                "width", **size, tooltip="Width of each picture, 768 to 1344 pixels, a multiple of 8."
            )
        ),
        mark_advanced(
            io.Int.Input(
                "height", **size, tooltip="Height of each picture, 768 to 1344 pixels, a multiple of 8."
            )
        ),
    ]
