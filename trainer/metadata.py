"""What a LoRA file says about itself: kohya's `ss_*`, ModelSpec's `modelspec.*`, and our own settings.

All values are texts. Folders are named, never placed: no path of the user's machine goes into a file that is
made to be shared. Lists after sd-scripts' train_network.py and library/sai_model_spec.py (commit 48d368f).
"""

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from torch import Tensor

from .config import TrainConfig
from .dataset import TrainingSet
from .lr_schedule import num_warmup_steps
from .safetensors_file import serialize

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
    """"epsilon" or "v_prediction"."""
    step: int
    """Optimizer steps done."""
    started_at: float
    """Unix time, seconds."""
    finished_at: float
    """Unix time of the checkpoint, seconds."""
    precision: str
    """Arithmetic of the frozen model: bf16, fp16 or fp32."""
    gradient_checkpointing: bool
    extra: Mapping[str, str] = field(default_factory=dict)
    """`workflow` and `prompt`; other keys are left out."""


def build_metadata(facts: RunFacts) -> dict[str, str]:
    """All metadata but the hashes, which `content_hashes` makes from the finished tensors."""
    values = {
        **_run_values(facts),
        **_network_values(facts.config),
        **_optimizer_values(facts.config),
        **_dataset_values(facts.dataset),
        **_modelspec(facts),
        SETTINGS_KEY: _json(
            {"train": facts.config.to_json(), "dataset": dataclasses.asdict(facts.dataset.config)}
        ),
        **{key: facts.extra[key] for key in PASSED_THROUGH if key in facts.extra},
    }
    return {key: value if isinstance(value, str) else str(value) for key, value in values.items()}


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


def _network_values(config: TrainConfig) -> dict[str, Any]:
    rank, alpha = config.lora.rank, config.lora.effective_alpha
    has_convolutions = config.lora.targets == "attention+ff+conv"
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": alpha,
        "ss_network_args": _json({"conv_dim": rank, "conv_alpha": alpha} if has_convolutions else {}),
        "ss_network_dropout": None,
    }


def _optimizer_values(config: TrainConfig) -> dict[str, Any]:
    optimizer, objective = config.optimizer, config.objective
    betas = f"({optimizer.beta1}, {optimizer.beta2})"
    arguments = f"weight_decay={optimizer.weight_decay},betas={betas},eps={optimizer.eps}"
    return {
        "ss_learning_rate": optimizer.learning_rate,
        "ss_unet_lr": optimizer.learning_rate,
        "ss_text_encoder_lr": None,
        "ss_optimizer": f"torch.optim.adamw.AdamW({arguments})",
        "ss_lr_scheduler": optimizer.lr_schedule,
        "ss_lr_warmup_steps": num_warmup_steps(config.steps, optimizer),
        "ss_max_grad_norm": optimizer.max_grad_norm,
        "ss_min_snr_gamma": objective.min_snr_gamma or None,
        "ss_caption_dropout_rate": objective.caption_dropout,
        "ss_noise_offset": None,
        "ss_loss_type": "l2",
        "ss_cache_latents": True,
    }


def _dataset_values(dataset: TrainingSet) -> dict[str, Any]:
    buckets = dataset.buckets
    sides = [side for bucket in buckets for side in bucket]
    return {
        "ss_num_train_images": dataset.num_samples,
        "ss_num_reg_images": 0,
        "ss_resolution": f"({dataset.config.resolution}, {dataset.config.resolution})",
        "ss_enable_bucket": True,
        "ss_bucket_no_upscale": not dataset.config.upscale,
        "ss_min_bucket_reso": min(sides),
        "ss_max_bucket_reso": max(sides),
        "ss_bucket_info": _json(_bucket_info(dataset)),
        "ss_dataset_dirs": _json(_dataset_dirs(dataset)),
        "ss_reg_dataset_dirs": "{}",
        "ss_tag_frequency": _json(_tag_frequency(dataset)),
        "ss_flip_aug": dataset.config.flip,
        "ss_random_crop": dataset.config.crop == "random",
        "ss_shuffle_caption": False,
        "ss_keep_tokens": 0,
    }


def _bucket_info(dataset: TrainingSet) -> dict[str, Any]:
    buckets = {
        str(index): {"resolution": list(bucket), "count": dataset.samples_in(bucket)}
        for index, bucket in enumerate(dataset.buckets)
    }
    errors = [
        abs(picture.width / picture.height - variants[0].bucket[0] / variants[0].bucket[1])
        for picture, variants in zip(dataset.pictures, dataset.variants, strict=True)
    ]
    return {"buckets": buckets, "mean_img_ar_error": sum(errors) / len(errors)}


def _folder_of(dataset: TrainingSet, name: str) -> str:
    """The folder a picture lies in, its own name only."""
    return PurePosixPath(name).parent.name or file_name(dataset.root_name)


def _dataset_dirs(dataset: TrainingSet) -> dict[str, dict[str, int]]:
    folders: dict[str, dict[str, int]] = {}
    for picture in dataset.pictures:
        entry = folders.setdefault(_folder_of(dataset, picture.name), {"n_repeats": 0, "img_count": 0})
        entry["n_repeats"] = max(entry["n_repeats"], picture.repeats)
        entry["img_count"] += 1
    return folders


def _tag_frequency(dataset: TrainingSet) -> dict[str, dict[str, int]]:
    """Folder -> tag -> how many captions hold it; tags are what stands between commas, in lower case."""
    folders: dict[str, Counter[str]] = {}
    for picture in dataset.pictures:
        counts = folders.setdefault(_folder_of(dataset, picture.name), Counter())
        for caption in picture.captions:
            counts.update(tag for part in caption.split(",") if (tag := part.strip().lower()))
    return {folder: dict(counts) for folder, counts in folders.items()}


def _modelspec(facts: RunFacts) -> dict[str, str]:
    """ModelSpec 1.0.1, https://github.com/Stability-AI/ModelSpec."""
    resolution, trigger = facts.dataset.config.resolution, facts.dataset.trigger_words
    finished = datetime.fromtimestamp(int(facts.finished_at), timezone.utc)
    values = {
        "sai_model_spec": "1.0.1",
        "architecture": "stable-diffusion-xl-v1-base/lora",
        "implementation": "https://github.com/Stability-AI/generative-models",
        "title": facts.config.name,
        "resolution": f"{resolution}x{resolution}",
        "date": finished.isoformat().replace("+00:00", "Z"),
        "prediction_type": "v" if facts.prediction_type == "v_prediction" else "epsilon",
    }
    if trigger:
        values["trigger_phrase"] = trigger
        values["usage_hint"] = f"Put '{trigger}' into the prompt, strength 1."
    return {f"modelspec.{key}": value for key, value in values.items()}


def file_name(path: str) -> str:
    """The last part of a path of any system."""
    return PureWindowsPath(path).name or "unnamed"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
