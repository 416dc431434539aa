"""What both training nodes do with their inputs: settings, a run, the LoRA on MODEL and CLIP, samples."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io, ui

from ..trainer.config import SECTIONS, TrainConfig
from ..trainer.errors import CancelledError
from .browser.live_run import LiveRun, RunEnd, RunPlace
from .browser.live_runs import RUNS
from .comfy_bridge.device_memory import memory_reader
from .comfy_bridge.folders import (
    embeddings_folder,
    known_folders,
    lora_file,
    lora_name,
    loras_folder,
    run_folder,
)
from .comfy_bridge.host_model import HostModel
from .comfy_bridge.lora_patches import apply_lora, check_keys
from .comfy_bridge.new_words import clip_with_words
from .comfy_bridge.preview import require_sampler, sample_preview
from .comfy_bridge.run_listener import RunListener, told_how_it_ends
from .comfy_bridge.server import prompt_id
from .graph_metadata import checkpoint_title, graph_metadata, workflow_id
from .lora_model import TrainedLoRA, read_tensors
from .report_picture import report_image
from .widgets import hidden_value

if TYPE_CHECKING:
    from ..trainer.data.dataset import TrainingSet
    from ..trainer.files.lora_file import LoRAFile
    from ..trainer.runs.run import Result

log = logging.getLogger(__name__)

# what a sampler, a decoder or another pack's patch may raise; none of it may cost a finished run
SAMPLING_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OSError)
NO_SAMPLE_SIZE = 64  # pixels of the grey picture that stands in for samples


class TrainingNode(io.ComfyNode):
    """A node that trains; inputs and outputs are its subclass's, further outputs too."""

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, dataset: Any, preset: str, **fields: Any
    ) -> io.NodeOutput:
        node = str(hidden_value(cls, "unique_id") or "")
        workflow = workflow_id(hidden_value(cls, "extra_pnginfo"))
        run = RUNS.open(RunPlace(node, workflow, prompt_id()), _kept_files)
        with told_how_it_ends(run):
            run.hide_folders(known_folders())
            return cls._execute(run, model, clip, vae, dataset, preset, fields)

    @classmethod
    def _execute(
        cls, run: LiveRun, model: Any, clip: Any, vae: Any, dataset: Any, preset: str, fields: dict[str, Any]
    ) -> io.NodeOutput:
        from ..trainer.settings.presets import Settings, Widgets, explain, prepared, resolve
        from .comfy_bridge.lora_words import words_of_file

        plugged = {section: fields.pop(f"{section}_settings", None) for section in SECTIONS}
        settings = Settings(**{section: value for section, value in plugged.items() if value is not None})
        initial_lora = _initial_lora(fields.pop("initial_lora", None))
        widgets = Widgets(**fields)
        dataset = prepared(preset, dataset)
        config = resolve(preset, widgets, settings, dataset)
        require_sampler(config.preview)
        origins = explain(preset, widgets, settings, dataset)
        title = checkpoint_title(hidden_value(cls, "prompt"), hidden_value(cls, "unique_id"))
        host = HostModel(model, clip, vae, title, config.run.precision)
        if config.pivotal.is_on or config.text_encoder.trained:
            host.require_trainable_text()
        log.info("SDXL Trainer: settings: %s", "; ".join(origins))
        run.measure_memory(memory_reader(host.device))
        result = cls._train(run, host, dataset, config, initial_lora)
        run.settle(_run_end(result))

        lora = TrainedLoRA(read_tensors(result.lora_path), result.lora_path)
        count = check_keys(model, clip, lora, result.lora_path.name)
        trained_model, trained_clip = apply_lora(model, clip, lora, 1.0, 1.0)
        # a file of the same name in another embeddings folder has no say
        own = {path.stem: path for path in result.embeddings}
        words = words_of_file(result.lora_path, own.get)
        if words is not None:
            trained_clip = clip_with_words(trained_clip, words.vectors)
        run.activity("sampling")
        samples, sampling_note = _samples(trained_model, trained_clip, vae, dataset, config)
        report = [
            result.report,
            f"Checked with ComfyUI's own loader: every key fits, {count}.",
            "" if words is None else f"{words}.",
            "\n".join(host.notes),
            "Settings:\n" + "\n".join(origins),
            sampling_note,
        ]
        return io.NodeOutput(
            trained_model,
            trained_clip,
            lora,
            lora_name(result.lora_path),
            samples,
            "\n\n".join(part for part in report if part),
            *cls._further_outputs(result),
            report_image(result.report_picture),
            ui=ui.PreviewImage(samples, cls=cls),
        )

    @classmethod
    def _further_outputs(cls, result: "Result") -> tuple[Any, ...]:
        """What a node gives out between the report and its picture."""
        return ()

    @classmethod
    def _train(
        cls,
        run: LiveRun,
        host: HostModel,
        dataset: "TrainingSet",
        config: TrainConfig,
        initial_lora: "LoRAFile | None",
    ) -> "Result":
        """Run to the end, or save and pass Cancel on to ComfyUI."""
        from ..trainer.runs.run import Job, train

        job = Job(
            config=config,
            dataset=dataset,
            loras_folder=loras_folder(),
            embeddings_folder=embeddings_folder() if config.pivotal.is_on else None,
            run_folder=run_folder(),
            cache_folder=run_folder() / ".cache",  # no run has a name with a dot in front
            initial_lora=initial_lora,
            extra_metadata=graph_metadata(hidden_value(cls, "prompt"), hidden_value(cls, "extra_pnginfo")),
        )
        listener = RunListener(hidden_value(cls, "unique_id"), run)
        try:
            with torch.inference_mode(False):
                return train(job, host, listener)
        except CancelledError as error:
            log.info("SDXL Trainer: %s", error)
            run.note(str(error))
        listener.raise_interrupt()


def _kept_files(name: str) -> Sequence[tuple[int, Path]]:
    """The checkpoints of a run that lie in the folder it writes to."""
    from ..trainer.runs.run_folder import RunFiles

    return RunFiles(name, loras_folder(), run_folder() / name).kept_loras()


def _run_end(result: "Result") -> RunEnd:
    from ..trainer.runs.run_folder import RunFiles

    files = RunFiles(result.name, result.lora_path.parent, result.samples_folder.parent)
    return RunEnd(
        steps=result.steps,
        lora_file=lora_name(result.lora_path),
        trigger_words=result.trigger_words,
        embedding=result.embedding,
        summary=result.held_out.describe(files.kept_lora(result.best_step).exists()),
        is_reloaded=result.is_reloaded,
    )


def _initial_lora(wired: Any) -> "LoRAFile | None":
    """The LoRA to start from: a file by its name, or the tensors on a wire.

    Raises:
        InputError: no such file, or no LoRA for SDXL.
    """
    if not wired:
        return None
    from ..trainer.files.lora_file import LoRAFile, read_lora

    path = lora_file(wired) if isinstance(wired, str) else getattr(wired, "path", None)
    return read_lora(path) if path else LoRAFile(dict(wired), {})


def _samples(model: Any, clip: Any, vae: Any, dataset: Any, config: TrainConfig) -> tuple[torch.Tensor, str]:
    """IMAGE batch drawn with the LoRA, and a sentence for the report when it could not be drawn."""
    from ..trainer.runs.previews import preview_prompts, preview_size

    prompts = preview_prompts(config.preview, dataset)
    size = preview_size(config.preview, dataset)
    try:
        return sample_preview(model, clip, vae, prompts, config.preview, size), ""
    except SAMPLING_ERRORS as error:
        log.exception("SDXL Trainer: the LoRA is saved, but sampling with it failed")
        blank = torch.full((1, NO_SAMPLE_SIZE, NO_SAMPLE_SIZE, 3), 0.5)
        return blank, f"The LoRA is saved, but sampling with it failed: {type(error).__name__}: {error}"
