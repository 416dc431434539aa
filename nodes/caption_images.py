"""CaptionImages: captions for a dataset by the models people use, kept as they are made."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..trainer.settings.caption_config import CaptionConfig
from ..trainer.settings.captioner_config import GenerationConfig
from .captioner_settings import CAPTIONER_SETTINGS
from .comfy_bridge.captioners import caption_progress, captioner_choices, captioner_source
from .comfy_bridge.folders import run_folder
from .comfy_bridge.pixels import to_image
from .widgets import CATEGORY, DATASET, hidden_value, mark_advanced, widget

if TYPE_CHECKING:
    from ..trainer.captioning.caption_run import CaptionedSet
    from ..trainer.data.dataset import TrainingSet

ADVANCED = ("strip_phrases",)


class CaptionImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        choices = captioner_choices()
        return io.Schema(
            node_id="SDXLTrainer_CaptionImages",
            display_name="Caption Images",
            category=CATEGORY,
            description="Captions the pictures with BLIP, Florence-2, Qwen-VL, SmolVLM, WD tags or any model "
            "like them. Cancel keeps what is done, and the same is never asked twice.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                DATASET.Input("dataset", tooltip="The pictures, from Load Dataset."),
                io.Combo.Input(
                    "captioner",
                    options=choices,
                    default=choices[0],
                    tooltip="The captioning model: one known by name, or a folder of models/captioners or "
                    "models/LLM; press R after adding one.",
                ),
                io.String.Input(
                    "other_model",
                    default="",
                    tooltip="Any other: its Hugging Face id, such as owner/name, or its folder's name; goes "
                    "before captioner. Models with code of their own cannot be used.",
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    tooltip="Fetch the model from huggingface.co into models/captioners when it is nowhere "
                    "on this machine, or mend its copy there; off: nothing is ever fetched.",
                ),
                *_text_widgets(),
                mark_advanced(
                    CAPTIONER_SETTINGS.Input(
                        "captioner_settings",
                        optional=True,
                        tooltip="Length, sampling and seed, from Captioner Settings.",
                    )
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        dataset: "TrainingSet",
        captioner: str,
        other_model: str,
        download: bool,
        captioner_settings: GenerationConfig | None = None,
        **texts: Any,
    ) -> io.NodeOutput:
        from ..trainer.captioning.caption_run import describe_captions
        from ..trainer.data.contact_sheet import dataset_sheet
        from ..trainer.data.dataset_report import describe

        name = other_model.strip() or captioner
        config = CaptionConfig(**texts)
        generation = captioner_settings or GenerationConfig()
        done = _caption(dataset, (name, download, hidden_value(cls, "unique_id")), config, generation)
        captions = [picture.shown_captions[0] for picture in done.dataset.pictures]
        sheet = to_image(dataset_sheet(done.dataset))
        report = f"{describe_captions(done, name)}\n\n{describe(done.dataset)}"
        return io.NodeOutput(done.dataset, captions, sheet, report)


def _text_widgets() -> list[io.Input]:
    return [widget(CaptionConfig, field.name, field.name in ADVANCED) for field in fields(CaptionConfig)]


def _outputs() -> list[io.Output]:
    return [
        DATASET.Output(
            "captioned_dataset",
            display_name="dataset",
            tooltip="The dataset with its captions; plug into Train SDXL LoRA, Caption Variants or others.",
        ),
        io.String.Output(
            "captions",
            display_name="captions",
            is_output_list=True,
            tooltip="The caption of each picture, in the order of the names; of several the first.",
        ),
        io.Image.Output(
            "sheet",
            display_name="sheet",
            tooltip="The pictures with their captions: read them before training.",
        ),
        io.String.Output(
            "report",
            display_name="report",
            tooltip="How many were captioned, skipped or known from before, with examples.",
        ),
    ]


def _caption(
    dataset: "TrainingSet",
    model: tuple[str, bool, str | None],
    config: CaptionConfig,
    generation: GenerationConfig,
) -> "CaptionedSet":
    """Caption with the model (name, download, node that shows the progress); it is loaded only if needed."""
    from ..trainer.captioning.caption_journal import FOLDER
    from ..trainer.captioning.caption_run import caption_with

    name, download, node_id = model
    source = captioner_source(name, download, node_id)
    folder, report = run_folder() / FOLDER, caption_progress(node_id)
    return caption_with(dataset, source, config, generation, folder, report)
