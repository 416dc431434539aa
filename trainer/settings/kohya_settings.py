"""kohya's `ss_*` metadata as our settings, as far as the two mean the same.

Names after sd-scripts' train_network.py (commit 48d368f). All values are texts; "None": off or unset.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, get_args

from ..config import LRSchedule
from .text_config import ENCODERS

NO_STEPS = 0
NO_BATCH_SIZE = 0
NONE = "None"

# section, setting -> kohya's entry, type, and what its "None" means (no entry here: our default)
_NUMBERS: Mapping[tuple[str, str], tuple[str, type, float | None]] = {
    ("lora", "rank"): ("ss_network_dim", int, None),
    ("lora", "alpha"): ("ss_network_alpha", float, None),
    ("lora", "dropout"): ("ss_network_dropout", float, 0.0),
    ("optimizer", "learning_rate"): ("ss_learning_rate", float, None),
    ("optimizer", "warmup_steps"): ("ss_lr_warmup_steps", int, None),
    ("optimizer", "max_grad_norm"): ("ss_max_grad_norm", float, None),
    ("objective", "min_snr_gamma"): ("ss_min_snr_gamma", float, 0.0),
    ("objective", "caption_dropout"): ("ss_caption_dropout_rate", float, 0.0),
    ("objective", "huber_c"): ("ss_huber_c", float, None),
    ("noise", "noise_offset"): ("ss_noise_offset", float, 0.0),
    ("noise", "pyramid_iterations"): ("ss_multires_noise_iterations", int, 0),
    ("noise", "pyramid_discount"): ("ss_multires_noise_discount", float, None),
    ("noise", "input_perturbation"): ("ss_ip_noise_gamma", float, 0.0),
    ("prior", "prior_loss_weight"): ("ss_prior_loss_weight", float, None),
    ("run", "gradient_accumulation"): ("ss_gradient_accumulation_steps", int, None),
}
_TEXTS: Mapping[tuple[str, str], str] = {
    ("objective", "loss"): "ss_loss_type",
    ("objective", "huber_schedule"): "ss_huber_schedule",
}
_COUNTS = {"steps": "ss_max_train_steps", "seed": "ss_seed"}
_BATCH_SIZES = ("ss_batch_size_per_device", "ss_total_batch_size")
_OPTIMIZERS = {
    "adamw": "adamw",
    "adamw8bit": "adamw8bit",
    "prodigy": "prodigy",
    "prodigyplusschedulefree": "prodigy_plus_schedule_free",
    "adafactor": "adafactor",
    "lion": "lion",
    "sgd": "sgd",
}
_PRODIGY = ("d_coef", "d0", "beta3", "decouple", "use_bias_correction", "safeguard_warmup")
_KINDS = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}
# kohya trains what these stand for, this trainer does not
_UNSUPPORTED = {
    "ss_scale_weight_norms": "scale_weight_norms",
    "ss_adaptive_noise_scale": "adaptive_noise_scale",
    "ss_face_crop_aug_range": "face_crop_aug_range",
    "ss_caption_tag_dropout_rate": "caption_tag_dropout_rate",
}


def kohya_values(metadata: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Plain values in the shape of `TrainConfig.to_json`, and a sentence for each that could not be read.

    Args:
        metadata: texts, as they stand in the header of the file.
    """
    notes: list[str] = []
    values: dict[str, Any] = {name: {} for name in ("lora", "optimizer", "objective", "noise", "prior")}
    for (section, name), (key, kind, unset) in _NUMBERS.items():
        _put(values.setdefault(section, {}), name, _number(metadata, key, kind, unset, notes))
    for (section, name), key in _TEXTS.items():
        _put(values[section], name, _text(metadata, key))
    unet_rate = _number(metadata, "ss_unet_lr", float, None, notes)
    _put(values["optimizer"], "learning_rate", unet_rate)
    for name, key in _COUNTS.items():
        _put(values, name, _number(metadata, key, int, None, notes))
    sizes = (_number(metadata, key, int, None, notes) for key in _BATCH_SIZES)
    _put(values, "batch_size", next((size for size in sizes if size), None))
    _network(metadata, values["lora"], notes)
    _optimizer(metadata, values, notes)
    _text_encoder(metadata, values, notes)
    if metadata.get("ss_debiased_estimation") == "True":
        values["objective"]["debiased_estimation"] = True
    if metadata.get("ss_zero_terminal_snr") == "True":
        values["objective"]["zero_terminal_snr"] = "on"
    for key, name in _UNSUPPORTED.items():
        if metadata.get(key, NONE) not in (NONE, "0", "0.0", "False", ""):
            notes.append(f"kohya's {name} is {metadata[key]}, which is not done here")
    unread = [name for name in ("steps", "batch_size", "seed") if name not in values]
    unread += [name for name in ("rank", "alpha") if name not in values["lora"]]
    if unread:
        notes.append(f"not in the file: {', '.join(unread)}")
    return values, notes


def _put(section: dict[str, Any], name: str, value: Any) -> None:
    if value is not None:
        section[name] = value


def _number(
    metadata: Mapping[str, str], key: str, kind: type, unset: float | None, notes: list[str]
) -> float | None:
    """The number of an entry; None where the entry is missing or says nothing."""
    text = _text(metadata, key)
    if text is None:
        return unset if key in metadata else None
    try:
        number = float(text)
    except ValueError:
        notes.append(f"{key} is '{text}', which is no number")
        return None
    return kind(number)


def _text(metadata: Mapping[str, str], key: str) -> str | None:
    text = metadata.get(key, NONE).strip()
    return None if text in (NONE, "") else text


def _network(metadata: Mapping[str, str], lora: dict[str, Any], notes: list[str]) -> None:
    """Kind of the adapter, its layers and its dropouts, out of kohya's network_args."""
    arguments = _arguments(metadata, notes)
    module = _text(metadata, "ss_network_module") or "networks.lora"
    algorithm = str(arguments.get("algo", "lora")).lower()
    is_dora = str(arguments.get("dora_wd", "False")) == "True"
    kind = _KINDS.get(algorithm)
    if kind is None or not module.startswith(("networks.lora", "lycoris")):
        notes.append(f"the network is {module} {algorithm}, which is not trained here: taken as lora")
    elif is_dora and kind != "lora":
        notes.append(f"DoRA's lengths on {kind} are not trained here")
    lora["adapter"] = "dora" if is_dora and kind == "lora" else kind or "lora"
    lora["targets"] = "attention+ff+conv" if arguments.get("conv_dim") else "attention+ff"
    for name in ("rank_dropout", "module_dropout", "dropout"):
        _put(lora, name, _as_float(arguments.get(name)))
    factor = _as_float(arguments.get("factor"))
    _put(lora, "lokr_factor", None if factor is None else int(factor))
    for name, own in (("conv_dim", "rank"), ("conv_alpha", "alpha")):
        given, shared = _as_float(arguments.get(name)), lora.get(own)
        if given is not None and shared is not None and given != shared:
            notes.append(
                f"{name} is {given:g}, but here convolutions have the {own} of all layers, {shared:g}"
            )
    if arguments.get("block_dims"):
        notes.append("block_dims stand in the file, but are counted otherwise here: see block_ranks")


def _arguments(metadata: Mapping[str, str], notes: list[str]) -> Mapping[str, Any]:
    text = _text(metadata, "ss_network_args")
    if text is None:
        return {}
    try:
        arguments = json.loads(text)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        notes.append(f"ss_network_args is '{text[:80]}', which cannot be read")
        return {}
    return arguments


def _as_float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _optimizer(metadata: Mapping[str, str], values: dict[str, Any], notes: list[str]) -> None:
    """Optimizer and learning rate schedule; "module.Class(weight_decay=0.1,betas=(0.9, 0.99))"."""
    optimizer = values["optimizer"]
    schedule = _text(metadata, "ss_lr_scheduler")
    if schedule in get_args(LRSchedule):
        optimizer["lr_schedule"] = schedule
    else:
        notes.append(
            f"the learning rate schedule is {schedule or 'not told'}: constant with warm-up is taken"
        )
    text = _text(metadata, "ss_optimizer") or ""
    name = re.split(r"[.(]", text.split("(")[0])[-1]
    if name.lower() not in _OPTIMIZERS:
        notes.append(f"the optimizer is {name or 'not told'}, which is not known here: AdamW is taken")
        return
    optimizer["optimizer"] = _OPTIMIZERS[name.lower()]
    given = dict(re.findall(r"(\w+)=(\([^)]*\)|[^,()]+)", text.partition("(")[2]))
    betas = [_as_float(part) for part in given.get("betas", "").strip("()").split(",")]
    if len(betas) > 1:
        _put(optimizer, "beta1", betas[0])
        _put(optimizer, "beta2", betas[1])
    for setting in ("weight_decay", "eps"):
        _put(optimizer, setting, _as_float(given.get(setting)))
    prodigy = {key: _plain(given[key]) for key in _PRODIGY if key in given}
    values["prodigy"] = {key: value for key, value in prodigy.items() if value is not None}


def _plain(text: str) -> bool | float | None:
    return {"True": True, "False": False}.get(text, _as_float(text))


def _text_encoder(metadata: Mapping[str, str], values: dict[str, Any], notes: list[str]) -> None:
    """Which text encoders have a LoRA: one rate for both, or a list of two where 0 is none.

    "None" says no more than that there was no rate of their own: they then had the UNet's, or none at all
    (network_train_unet_only, which no entry tells).
    """
    text = _text(metadata, "ss_text_encoder_lr")
    if text is None:
        notes.append("the file does not tell whether the text encoders were trained: taken as off")
        return
    rates = [_as_float(part) for part in text.strip("[]").split(",")]
    if len(rates) > 2 or any(rate is None for rate in rates):
        notes.append(f"ss_text_encoder_lr is '{text}', which cannot be read")
        return
    by_name = {name: rate for name, rate in zip(ENCODERS, [*rates, *rates], strict=False) if rate}
    section = values["text_encoder"] = {f"{name}_learning_rate": rate for name, rate in by_name.items()}
    section["train_text_encoder"] = "both" if len(by_name) > 1 else next(iter(by_name), "off")
    if by_name:  # kohya's one weight decay is everybody's
        _put(section, "weight_decay", values["optimizer"].get("weight_decay"))
