"""Settings and dataset in kohya's words: the `ss_*` keys that other programs show and search.

Keys and forms are those of sd-scripts 48d368f, train_network.py lines 1003-1207 and sdxl_train_network.py;
arguments of networks that sd-scripts has not are LyCORIS' (f49d30d, lycoris/kohya.py). What has no key there
(masks, timesteps, blocks, EMA) stands among the full settings alone.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from ..config import LoRAConfig, TrainConfig
from ..data.dataset import TrainingSet
from ..optimization.lr_schedule import num_warmup_steps, peak_learning_rate
from ..optimization.optimizers import optimizer_description
from ..settings.part_rates import Part, part_optimizer, part_window

_LYCORIS_ALGO = {"lora": "lora", "dora": "lora", "loha": "loha", "lokr": "lokr"}
_LYCORIS_PRESET = {"attention": "attn-only", "attention+ff": "attn-mlp"}


def network_values(config: TrainConfig) -> dict[str, Any]:
    lora = config.lora
    is_kohya = lora.adapter == "lora" and not lora.rank_stabilized
    arguments = _network_arguments(lora) | ({} if is_kohya else _lycoris_arguments(lora))
    if config.optimizer.lora_plus_ratio != 1:
        arguments["loraplus_unet_lr_ratio"] = config.optimizer.lora_plus_ratio
        if config.text_encoder.trained:
            arguments["loraplus_text_encoder_lr_ratio"] = config.optimizer.lora_plus_ratio
    return {
        "ss_network_module": "networks.lora" if is_kohya else "lycoris.kohya",
        "ss_network_dim": lora.rank,
        "ss_network_alpha": lora.effective_alpha,
        # kohya reads its network arguments from the command line, so that all values are texts
        "ss_network_args": to_json({key: str(value) for key, value in arguments.items()}),
        "ss_network_dropout": lora.dropout or None,
        "ss_scale_weight_norms": None,
    }


def _network_arguments(lora: LoRAConfig) -> dict[str, Any]:
    """What kohya's own module takes: conv_dim, rank_dropout, module_dropout."""
    has_convolutions = lora.targets == "attention+ff+conv"
    values = {"conv_dim": lora.rank, "conv_alpha": lora.effective_alpha} if has_convolutions else {}
    dropouts = {"rank_dropout": lora.rank_dropout, "module_dropout": lora.module_dropout}
    return values | {key: value for key, value in dropouts.items() if value}


def _lycoris_arguments(lora: LoRAConfig) -> dict[str, Any]:
    values: dict[str, Any] = {"algo": _LYCORIS_ALGO[lora.adapter]}
    if lora.targets in _LYCORIS_PRESET:
        values["preset"] = _LYCORIS_PRESET[lora.targets]
    if lora.dropout:
        values["dropout"] = lora.dropout
    if lora.adapter == "dora":
        values |= {"dora_wd": True, "wd_on_output": False}
    if lora.adapter == "lokr":
        values["factor"] = lora.lokr_factor
    if lora.rank_stabilized:
        values["rs_lora"] = True
    return values


def training_values(config: TrainConfig) -> dict[str, Any]:
    """Optimizer and its rate."""
    optimizer = config.optimizer
    return {
        "ss_learning_rate": peak_learning_rate(config),
        "ss_unet_lr": _part_rate(config, "unet") or None,
        "ss_text_encoder_lr": _text_encoder_rates(config),
        "ss_optimizer": optimizer_description(config),
        "ss_lr_scheduler": optimizer.lr_schedule,
        "ss_lr_warmup_steps": num_warmup_steps(config.steps, config),
        "ss_max_grad_norm": optimizer.max_grad_norm,
        "ss_cache_latents": True,
        "ss_full_fp16": False,
    }


def _part_rate(config: TrainConfig, part: Part) -> float:
    """Peak rate of a part, 0 where it never trains."""
    if not part_window(config, part)[1]:
        return 0.0
    return peak_learning_rate(replace(config, optimizer=part_optimizer(config, part)))


def _text_encoder_rates(config: TrainConfig) -> str | None:
    """Both rates as kohya writes its list, 0.0 for an encoder that stays as it is; None = both do."""
    rates = [_part_rate(config, "clip_l"), _part_rate(config, "clip_g")]
    return to_json(rates) if any(rates) else None


def objective_values(config: TrainConfig, zero_terminal_snr: bool) -> dict[str, Any]:
    """Loss and noise; kohya writes None for what is off.

    Args:
        config: the settings.
        zero_terminal_snr: whether the schedule trained with ends without signal.
    """
    objective, noise = config.objective, config.noise
    return {
        "ss_min_snr_gamma": objective.min_snr_gamma or None,
        "ss_debiased_estimation": objective.debiased_estimation,
        "ss_zero_terminal_snr": zero_terminal_snr,
        "ss_loss_type": objective.loss,
        "ss_huber_schedule": objective.huber_schedule,
        "ss_huber_c": objective.huber_c,
        "ss_huber_scale": 1.0,
        "ss_caption_dropout_rate": objective.caption_dropout,
        "ss_noise_offset": noise.noise_offset or None,
        "ss_adaptive_noise_scale": None,
        "ss_multires_noise_iterations": noise.pyramid_iterations or None,
        "ss_multires_noise_discount": noise.pyramid_discount,
        "ss_ip_noise_gamma": noise.input_perturbation or None,
    }


def prior_values(config: TrainConfig, dataset: TrainingSet) -> dict[str, Any]:
    """Class images and held-out pictures."""
    used = dataset.class_set if config.prior.prior_preservation == "auto" else None
    validation = config.validation
    return {
        "ss_prior_loss_weight": config.prior.prior_loss_weight,
        "ss_num_reg_images": used.num_samples if used else 0,
        "ss_reg_dataset_dirs": to_json(_dataset_dirs(used) if used else {}),
        "ss_validation_split": validation.validation_share,
        "ss_validate_every_n_steps": validation.validate_every or None,
    }


def dataset_values(dataset: TrainingSet) -> dict[str, Any]:
    buckets = dataset.buckets
    sides = [side for bucket in buckets for side in bucket]
    return {
        "ss_num_train_images": dataset.num_samples,
        "ss_resolution": f"({dataset.config.resolution}, {dataset.config.resolution})",
        "ss_enable_bucket": True,
        "ss_bucket_no_upscale": not dataset.config.upscale,
        "ss_min_bucket_reso": min(sides),
        "ss_max_bucket_reso": max(sides),
        "ss_bucket_info": to_json(_bucket_info(dataset)),
        "ss_dataset_dirs": to_json(_dataset_dirs(dataset)),
        "ss_tag_frequency": to_json(_tag_frequency(dataset)),
        "ss_random_crop": dataset.config.crop == "random",
        **_augmentation_values(dataset),
        **_caption_values(dataset),
    }


def _augmentation_values(dataset: TrainingSet) -> dict[str, Any]:
    augment = dataset.augment
    colors = (augment.brightness, augment.contrast, augment.saturation, augment.hue) if augment else ()
    return {
        "ss_flip_aug": dataset.config.flip or bool(augment and augment.flip),
        "ss_color_aug": any(colors),
    }


def _caption_values(dataset: TrainingSet) -> dict[str, Any]:
    varied = dataset.caption_variants
    return {
        "ss_shuffle_caption": bool(varied and varied.shuffle),
        "ss_keep_tokens": varied.keep_tags if varied else 0,
        "ss_caption_tag_dropout_rate": varied.tag_dropout if varied else 0.0,
    }


def _bucket_info(dataset: TrainingSet) -> dict[str, Any]:
    buckets = {
        str(index): {"resolution": list(bucket), "count": samples}
        for index, (bucket, samples) in enumerate(dataset.samples_by_bucket.items())
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
        for caption in picture.shown_captions:
            counts.update(tag for part in caption.split(",") if (tag := part.strip().lower()))
    return {folder: dict(counts) for folder, counts in folders.items()}


def file_name(path: str) -> str:
    """The last part of a path of any system."""
    return PureWindowsPath(path).name or "unnamed"


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
