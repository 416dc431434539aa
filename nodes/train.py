"""TrainSDXLLoRA: the wired model, a dataset and settings become a LoRA file, applied and sampled."""

import logging
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io, ui

from ..trainer.config import (
    LoRAConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PreviewConfig,
    RunConfig,
    TrainConfig,
)
from ..trainer.errors import CancelledError
from .comfy_bridge.captions import literal_prompt
from .comfy_bridge.folders import lora_name, loras_folder, run_folder
from .comfy_bridge.host_model import HostModel
from .comfy_bridge.lora_patches import apply_lora, check_keys
from .comfy_bridge.preview import sample_preview
from .comfy_bridge.progress import HostListener
from .graph_metadata import checkpoint_title, graph_metadata
from .lora_model import TrainedLoRA, read_tensors
from .train_inputs import train_inputs, train_outputs
from .widgets import CATEGORY, hidden_value

if TYPE_CHECKING:
    from ..trainer.dataset import TrainingSet
    from ..trainer.run import Result

log = logging.getLogger(__name__)

# what a sampler, a decoder or another pack's patch may raise; none of it may cost a finished run
SAMPLING_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OSError)
NO_SAMPLE_SIZE = 64  # pixels of the grey picture that stands in for samples


class TrainSDXLLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDXLTrainer_TrainSDXLLoRA",
            display_name="Train SDXL LoRA",
            category=CATEGORY,
            description="Trains a LoRA on the wired SDXL model and gives out that model with the LoRA "
            "applied. Cancel saves first; queueing again goes on where it stopped, and loads a finished run.",
            inputs=train_inputs(),
            outputs=train_outputs(),
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        dataset: Any,
        preset: str,
        lora_settings: LoRAConfig | None = None,
        optimizer_settings: OptimizerConfig | None = None,
        objective_settings: ObjectiveConfig | None = None,
        preview_settings: PreviewConfig | None = None,
        run_settings: RunConfig | None = None,
        **fields: Any,
    ) -> io.NodeOutput:
        from ..trainer.presets import Settings, Widgets, explain, resolve

        widgets = Widgets(**fields)
        settings = Settings(
            lora=lora_settings,
            optimizer=optimizer_settings,
            objective=objective_settings,
            preview=preview_settings or PreviewConfig(),
            run=run_settings or RunConfig(),
        )
        config = resolve(preset, widgets, settings, dataset)
        origins = explain(preset, widgets, settings, dataset)
        title = checkpoint_title(hidden_value(cls, "prompt"), hidden_value(cls, "unique_id"))
        host = HostModel(model, clip, vae, title, config.run.precision)
        result = cls._train(host, dataset, config)

        lora = TrainedLoRA(read_tensors(result.lora_path), result.lora_path)
        count = check_keys(model, clip, lora, result.lora_path.name)
        trained = apply_lora(model, clip, lora, 1.0, 1.0)
        samples, sampling_note = _samples(*trained, vae, dataset, config)
        report = [
            result.report,
            f"Checked with ComfyUI's own loader: every key fits, {count}.",
            "\n".join(host.notes),
            "Settings:\n" + "\n".join(origins),
            sampling_note,
        ]
        return io.NodeOutput(
            *trained,
            lora,
            lora_name(result.lora_path),
            samples,
            "\n\n".join(part for part in report if part),
            ui=ui.PreviewImage(samples, cls=cls),
        )

    @classmethod
    def _train(cls, host: HostModel, dataset: "TrainingSet", config: TrainConfig) -> "Result":
        """Run to the end, or save and pass Cancel on to ComfyUI."""
        from ..trainer.run import Job, train

        job = Job(
            config=config,
            dataset=dataset,
            loras_folder=loras_folder(),
            run_folder=run_folder(),
            extra_metadata=graph_metadata(hidden_value(cls, "prompt"), hidden_value(cls, "extra_pnginfo")),
        )
        listener = HostListener(hidden_value(cls, "unique_id"))
        try:
            with torch.inference_mode(False):
                return train(job, host, listener)
        except CancelledError as error:
            log.info("SDXL Trainer: %s", error)
        listener.raise_interrupt()


def _samples(model: Any, clip: Any, vae: Any, dataset: Any, config: TrainConfig) -> tuple[torch.Tensor, str]:
    """IMAGE batch drawn with the LoRA, and a sentence for the report when it could not be drawn."""
    prompts = [line.strip() for line in config.preview.prompts.splitlines() if line.strip()]
    if not prompts:
        prompts = [literal_prompt(dataset.pictures[0].captions[0])]
    size = max(dataset.buckets, key=dataset.samples_in)
    try:
        return sample_preview(model, clip, vae, prompts, config.preview, size), ""
    except SAMPLING_ERRORS as error:
        log.exception("SDXL Trainer: the LoRA is saved, but sampling with it failed")
        blank = torch.full((1, NO_SAMPLE_SIZE, NO_SAMPLE_SIZE, 3), 0.5)
        return blank, f"The LoRA is saved, but sampling with it failed: {type(error).__name__}: {error}"
