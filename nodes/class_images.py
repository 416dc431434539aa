"""ClassImages: pictures of the class beside those of the subject, real ones or drawn by the wired model."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..trainer.config import MAX_SEED, DatasetConfig, PreviewConfig
from ..trainer.data.captions import literal_prompt
from ..trainer.errors import InputError
from .comfy_bridge.class_folder import NEW_FOLDER, class_folder, class_folder_choices
from .comfy_bridge.families import require_sdxl
from .comfy_bridge.pixels import to_image
from .comfy_bridge.preview import (
    decode_latents,
    encode_prompts,
    require_sampler,
    sample_latents,
    sampler_choices,
    scheduler_choices,
    to_pictures,
)
from .comfy_bridge.progress import report_progress
from .widgets import CATEGORY, DATASET, hidden_value, mark_advanced

if TYPE_CHECKING:
    from ..trainer.data.dataset import TrainingSet

DEFAULT_FOLDER = "class_images"
DEFAULT_COUNT = 100
DRAWING = PreviewConfig()


class ClassImages(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_ClassImages",
            display_name="Class Images",
            category=CATEGORY,
            description="Adds pictures of the class (other dogs than yours), so that the class keeps its "
            "look while the subject is learned: real ones from a folder, or drawn once by the wired model.",
            hidden=[io.Hidden.unique_id],
            inputs=[*_sockets(), *_folder_widgets(), *_drawing_widgets()],
            outputs=[
                DATASET.Output(
                    "dataset_with_class",
                    display_name="dataset",
                    tooltip="The dataset with its class images; plug into Train SDXL LoRA.",
                ),
                io.Image.Output(
                    "sheet", display_name="sheet", tooltip="The class images with their captions."
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What was found and drawn, and the arithmetic of steps with class images.",
                ),
                io.Int.Output("count", display_name="count", tooltip="Number of class images in use."),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls, folder: str = NEW_FOLDER, new_folder: str = DEFAULT_FOLDER, **others: Any
    ) -> str:
        from ..trainer.data.dataset import folder_fingerprint

        place, _ = class_folder(folder, new_folder)
        return folder_fingerprint(place, DatasetConfig()) if place.is_dir() else "no folder yet"

    @classmethod
    def execute(
        cls,
        dataset: "TrainingSet",
        folder: str,
        new_folder: str,
        class_prompt: str,
        num_class_images: int,
        model: Any = None,
        clip: Any = None,
        vae: Any = None,
        **drawing: Any,
    ) -> io.NodeOutput:
        from ..trainer.data.class_images import missing_class_images, require_apart
        from ..trainer.data.contact_sheet import dataset_sheet
        from ..trainer.data.dataset_report import describe

        place, shown = class_folder(folder, new_folder)
        node_id = hidden_value(cls, "unique_id")
        require_apart(dataset, place)
        missing = missing_class_images(place, num_class_images)
        if missing:
            wired = {"model": model, "clip": clip, "vae": vae}
            _require_means(shown, (num_class_images - missing, num_class_images), class_prompt, wired)
            _Drawing(wired, PreviewConfig(**drawing), class_prompt, dataset).draw(place, missing, node_id)
        try:
            joined = _with_class_images(dataset, place, class_prompt, node_id)
        except InputError as error:
            # a workflow and its errors are shared; where the user keeps his files is not
            raise InputError(str(error).replace(str(place), shown)) from None
        sheet = to_image(dataset_sheet(joined.class_set))
        done = f"{missing} class images drawn into {shown}, {len(joined.class_set.pictures)} are there now."
        return io.NodeOutput(joined, sheet, f"{done}\n\n{describe(joined)}", len(joined.class_set.pictures))


def _sockets() -> list[io.Input]:
    why = "to draw missing class images with; none is needed where enough lie in the folder."
    return [
        DATASET.Input("dataset", tooltip="The pictures of the subject, from Load Dataset."),
        io.Model.Input("model", optional=True, tooltip=f"The model to be trained, without its LoRA, {why}"),
        io.Clip.Input("clip", optional=True, tooltip=f"CLIP of the same checkpoint, {why}"),
        io.Vae.Input("vae", optional=True, tooltip=f"VAE of the same checkpoint, {why}"),
    ]


def _folder_widgets() -> list[io.Input]:
    choices = class_folder_choices()
    return [
        io.Combo.Input(
            "folder",
            options=choices,
            default=choices[0],
            tooltip="Folder of class images, real ones best, 100 to 200; (new_folder) = the one named below. "
            "Kohya: reg_data_dir, diffusers: class_data_dir.",
        ),
        io.String.Input(
            "new_folder",
            default=DEFAULT_FOLDER,
            tooltip="Name of a folder under ComfyUI's input folder, made when it is not there.",
        ),
        io.String.Input(
            "class_prompt",
            default="",
            tooltip="Caption of class images without one of their own, and the prompt to draw with, such as "
            "'a photo of a dog', without the trigger word; diffusers: class_prompt.",
        ),
        io.Int.Input(
            "num_class_images",
            default=DEFAULT_COUNT,
            min=0,
            max=100_000,
            tooltip="Draws what the folder lacks of so many, once, 100 to 200; 0 = only what lies there. "
            "Diffusers: num_class_images.",
        ),
    ]


def _drawing_widgets() -> list[io.Input]:
    return [
        io.Int.Input(
            "seed",
            default=DRAWING.seed,
            min=0,
            max=MAX_SEED,
            control_after_generate=False,  # a new seed would draw nothing new, but run the node again
            tooltip="Noise seed of the first class image; the next ones count up.",
        ),
        io.Int.Input("steps", default=DRAWING.steps, min=1, max=1000, tooltip="Sampling steps; 15 to 40."),
        io.Float.Input(
            "guidance",
            default=DRAWING.guidance,
            min=0.0,
            max=100.0,
            step=0.5,
            tooltip="Classifier-free guidance; KSampler: cfg. 4 to 9.",
        ),
        io.Combo.Input(
            "sampler", options=sampler_choices(), default=DRAWING.sampler, tooltip="KSampler: sampler_name."
        ),
        io.Combo.Input(
            "scheduler",
            options=scheduler_choices(),
            default=DRAWING.scheduler,
            tooltip="KSampler: scheduler.",
        ),
        mark_advanced(
            io.String.Input(
                "negative", default=DRAWING.negative, tooltip="Negative prompt of all class images."
            )
        ),
    ]


def _require_means(folder: str, counts: tuple[int, int], class_prompt: str, wired: dict[str, Any]) -> None:
    """Refuse to draw without a model or a prompt; `counts` are the pictures there and those wanted."""
    unwired = [name for name, value in wired.items() if value is None]
    there, wanted = counts
    lacking = f"{folder} holds {there} class images, but num_class_images is {wanted}"
    if unwired:
        raise InputError(
            f"{lacking}: wire {', '.join(unwired)} to draw the {wanted - there} missing ones, or set "
            "num_class_images to 0 to use what lies there"
        )
    if not class_prompt.strip():
        raise InputError(
            f"{lacking}, and class_prompt is empty: say what to draw, such as 'a photo of a dog'"
        )


class _Drawing:
    """One class prompt, encoded once, drawn with as many seeds as pictures are missing."""

    def __init__(
        self, wired: dict[str, Any], config: PreviewConfig, class_prompt: str, dataset: "TrainingSet"
    ) -> None:
        from ..trainer.data.class_images import class_image_size

        require_sdxl(wired["model"], wired["clip"], wired["vae"])
        require_sampler(config)
        self._model, self._clip, self._vae = wired["model"], wired["clip"], wired["vae"]
        self._config = config
        self._prompt = literal_prompt(class_prompt.strip())
        self._size = class_image_size(dataset)

    def draw(self, folder: Path, missing: int, node_id: str | None) -> None:
        """Draw and save one by one; Cancel ends it between two, or within one, and keeps what is saved."""
        from ..trainer.data.class_images import class_image_seed, next_class_image, save_class_image

        report = report_progress("drawing class images", node_id)
        report(0, missing)
        encoded = encode_prompts(self._clip, [self._prompt], self._config.negative)
        first = next_class_image(folder)
        for done, index in enumerate(range(first, first + missing), 1):
            config = replace(self._config, seed=class_image_seed(self._config.seed, index))
            latents = sample_latents(self._model, encoded, 0, config, self._size)
            (picture,) = to_pictures(decode_latents(self._vae, latents))
            save_class_image(folder, index, picture)
            report(done, missing)


def _with_class_images(
    dataset: "TrainingSet", place: Path, class_prompt: str, node_id: str | None
) -> "TrainingSet":
    from ..trainer.data.class_images import class_dataset_config
    from ..trainer.data.dataset import load_dataset
    from ..trainer.data.dataset_sets import with_class_images

    if not place.is_dir():
        raise InputError(
            f"the class folder '{place}' does not exist and num_class_images is 0: put pictures there, or "
            "set num_class_images to 100 to draw some"
        )
    config = class_dataset_config(dataset, class_prompt)
    class_set = load_dataset(place, config, report_progress("reading class images", node_id))
    return with_class_images(dataset, class_set)
