"""What a LoRA file says about itself: kohya's `ss_*`, ModelSpec's `modelspec.*`, and our own settings.

All values are texts. Folders are named, never placed: no path of the user's machine goes into a file that is
made to be shared. Lists after sd-scripts' train_network.py and library/sai_model_spec.py (commit 48d368f).
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from torch import Tensor

from ..config import TrainConfig
from ..data.captions import holds_trigger
from ..data.dataset import TrainingSet
from ..settings.part_rates import part_window
from ..text.new_tokens import NewTokens, own_stem
from .kohya_metadata import (
    dataset_values,
    file_name,
    network_values,
    objective_values,
    prior_values,
    to_json,
    training_values,
)
from .safetensors_file import serialize

FINGERPRINT_KEY = "sdxl_trainer_run"
"""Under which a LoRA file holds the fingerprint of its run."""
SETTINGS_KEY = "sdxl_trainer_settings"
PASSED_THROUGH = ("workflow", "prompt")
"""JSON texts ComfyUI gives a node; the canvas opens a file that carries `workflow`."""

_LEGACY_START, _LEGACY_LENGTH = 0x100000, 0x10000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What the metadata tells of a run, at one of its checkpoints or at its end."""

    config: TrainConfig
    dataset: TrainingSet
    model_title: str
    """File name of the checkpoint trained on; a path is cut down to it."""
    prediction_type: str
    """"epsilon", "v_prediction" or "edm", as trained."""
    step: int
    """Optimizer steps done."""
    started_at: float
    """Unix time, seconds."""
    finished_at: float
    """Unix time of the checkpoint, seconds."""
    precision: str
    """Arithmetic of the frozen model: bf16, fp16 or fp32."""
    gradient_checkpointing: bool
    zero_terminal_snr: bool = False
    """Whether the noise schedule trained with ends without signal."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """`workflow` and `prompt`; other keys are left out."""


def build_metadata(facts: RunFacts) -> dict[str, str]:
    """All metadata but the hashes, which `content_hashes` makes from the finished tensors."""
    values = {
        **_run_values(facts),
        **network_values(facts.config),
        **training_values(facts.config),
        **objective_values(facts.config, facts.zero_terminal_snr),
        **prior_values(facts.config, facts.dataset),
        **dataset_values(facts.dataset),
        **_modelspec(facts),
        SETTINGS_KEY: to_json(
            {"train": _train_settings(facts.config), **dataset_settings(facts.dataset)},
        ),
        **{key: facts.extra[key] for key in PASSED_THROUGH if key in facts.extra},
    }
    return {key: value if isinstance(value, str) else str(value) for key, value in values.items()}


def _train_settings(config: TrainConfig) -> dict[str, Any]:
    """All settings but where the run was logged and published to: that is no reader's business."""
    return {name: values for name, values in config.to_json().items() if name != "logging"}


def dataset_settings(dataset: TrainingSet) -> dict[str, Any]:
    """How the pictures were loaded, and how their looks and captions were varied, where they were."""
    made = {
        "dataset": dataset.config,
        "augment": dataset.augment,
        "caption_variants": dataset.caption_variants,
    }
    return {name: dataclasses.asdict(config) for name, config in made.items() if config is not None}


def content_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The hashes by which programs know a LoRA again, whatever is later written into its metadata.

    `sshs_model_hash` is the SHA-256 of the tensors' bytes; `sshs_legacy_hash` that of 64 KiB at 1 MiB of the
    file it would be with only its `ss_*` metadata; as `precalculate_safetensors_hashes` of sd-scripts,
    library/train_util.py. `modelspec.hash_sha256` is the first with 0x in front, as ModelSpec 1.0.1 wants.

    Args:
        tensors: as they are written.
        metadata: of the file.
    """
    kept = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    header, content = serialize(tensors, kept)
    start = max(0, _LEGACY_START - len(header))
    window = (header[_LEGACY_START:] + content[start : start + _LEGACY_LENGTH])[:_LEGACY_LENGTH]
    digest = hashlib.sha256(content).hexdigest()
    return {
        "sshs_model_hash": digest,
        "sshs_legacy_hash": hashlib.sha256(window).hexdigest()[:8],
        "modelspec.hash_sha256": f"0x{digest}",
    }


def _run_values(facts: RunFacts) -> dict[str, Any]:
    config, dataset = facts.config, facts.dataset
    accumulation = config.run.gradient_accumulation
    steps_per_epoch = dataset.steps_per_epoch(config.batch_size, accumulation)
    return {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_v2": False,
        "ss_sd_model_name": file_name(facts.model_title),
        "ss_output_name": config.name,
        "ss_training_started_at": facts.started_at,
        "ss_training_finished_at": facts.finished_at,
        "ss_training_comment": "trained with SDXL Trainer for ComfyUI",
        "ss_steps": facts.step,
        "ss_max_train_steps": config.steps,
        "ss_epoch": facts.step // steps_per_epoch,
        "ss_num_epochs": math.ceil(config.steps / steps_per_epoch),
        "ss_num_batches_per_epoch": dataset.batches_per_epoch(config.batch_size),
        "ss_batch_size_per_device": config.batch_size,
        "ss_total_batch_size": config.batch_size * accumulation,
        "ss_gradient_accumulation_steps": accumulation,
        "ss_gradient_checkpointing": facts.gradient_checkpointing,
        "ss_mixed_precision": {"fp32": "no"}.get(facts.precision, facts.precision),
        "ss_seed": config.seed,
        "ss_session_id": _session_id(facts),
    }


def _session_id(facts: RunFacts) -> int:
    """Kohya's random number that marks the files of one run, here made from what marks the run."""
    marks = f"{facts.config.name} {facts.started_at} {facts.dataset.fingerprint}"
    return int.from_bytes(hashlib.sha256(marks.encode()).digest()[:4], "little")


def _modelspec(facts: RunFacts) -> dict[str, str]:
    """ModelSpec 1.0.1, https://github.com/Stability-AI/ModelSpec."""
    resolution, trigger = facts.dataset.config.resolution, _trigger(facts)
    finished = datetime.fromtimestamp(int(facts.finished_at), timezone.utc)
    values = {
        "sai_model_spec": "1.0.1",
        "architecture": f"stable-diffusion-xl-v1-base/{_kind(facts)}",
        "implementation": "https://github.com/Stability-AI/generative-models",
        "title": facts.config.name,
        "resolution": f"{resolution}x{resolution}",
        "date": finished.isoformat().replace("+00:00", "Z"),
        "prediction_type": {"v_prediction": "v"}.get(facts.prediction_type, facts.prediction_type),
    }
    if trigger:
        values["trigger_phrase"] = trigger
        strength = ", strength 1" if _kind(facts) == "lora" else ""
        values["usage_hint"] = f"Put '{trigger}' into the prompt{strength}.{_embedding_hint(facts)}"
    return {f"modelspec.{key}": value for key, value in values.items()}


def _kind(facts: RunFacts) -> str:
    return "lora" if part_window(facts.config, "unet")[1] else "textual-inversion"


def _trigger(facts: RunFacts) -> str:
    """What a prompt must hold: the dataset's trigger words, and the new words; "" for nothing."""
    trigger = facts.dataset.trigger_words
    new_tokens = NewTokens.of(facts.config.pivotal)
    words = () if new_tokens is None else new_tokens.names
    return ", ".join(filter(None, [trigger, *(word for word in words if not holds_trigger(trigger, word))]))


def _embedding_hint(facts: RunFacts) -> str:
    """How programs that do not know the new words say them: by the file they lie in."""
    if not facts.config.pivotal.is_on:
        return ""
    words = NewTokens.parse(facts.config.pivotal).names
    stem = f"{facts.config.name}_emb"
    written = ", ".join(f"embedding:{own_stem(stem, word, len(words))}" for word in words)
    return f" Where {', '.join(words)} {'is' if len(words) == 1 else 'are'} not known, write {written}."
