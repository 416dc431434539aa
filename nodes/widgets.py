"""Widgets made from the dataclasses of `trainer/config.py`: name, default, choices and tooltip are theirs.

Only how far a slider goes is written here, once for each number.
"""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from comfy_api.latest import io

from ..trainer.config import MAX_SEED, SECTIONS
from ..trainer.settings.objective_config import LAST_TIMESTEP

CATEGORY = "SDXL Trainer"

DATASET = io.Custom("SDXL_DATASET")
SETTINGS: Mapping[str, Any] = {name: io.Custom(f"SDXL_{name.upper()}_SETTINGS") for name in SECTIONS}
"""Section of a TrainConfig -> the type of its socket."""

# field -> (least, most, step) of its widget; the dataclass accepts all of it
RANGES: dict[str, tuple[float, float, float]] = {
    "resolution": (64, 4096, 64),
    "repeats": (1, 10_000, 1),
    "bucket_step": (32, 128, 32),
    "max_train_samples": (0, 10_000_000, 1),
    "rank": (1, 1024, 1),
    "alpha": (0, 4096, 0.5),
    "learning_rate": (0, 10.0, 1e-6),
    "warmup_steps": (0, 10_000_000, 1),
    "weight_decay": (0, 1, 0.001),
    "beta1": (0, 0.9999, 0.0001),
    "beta2": (0, 0.999999, 0.000001),
    "eps": (1e-20, 1e-2, 1e-9),
    "max_grad_norm": (0, 1e6, 0.1),
    "min_snr_gamma": (0, 1000, 0.5),
    "caption_dropout": (0, 1, 0.01),
    "steps": (1, 1000, 1),
    "guidance": (0, 100, 0.5),
    "seed": (0, MAX_SEED, 1),
    "save_every": (0, 10_000_000, 10),
    "keep_last": (0, 10_000, 1),
    "gradient_accumulation": (1, 1024, 1),
    "dropout": (0, 0.9, 0.01),
    "rank_dropout": (0, 0.9, 0.01),
    "module_dropout": (0, 0.9, 0.01),
    "lokr_factor": (-1, 1024, 1),
    "lora_plus_ratio": (0.01, 1000, 0.5),
    "ema_decay": (0, 0.99999, 0.0001),
    "warmup_share": (0, 1, 0.01),
    "num_cycles": (1, 1000, 1),
    "power": (0.01, 100, 0.1),
    "d_coef": (0.01, 100, 0.1),
    "d0": (1e-12, 1e-1, 1e-7),
    "beta3": (0, 0.999999, 0.0001),
    "huber_c": (1e-4, 10, 0.001),
    "unmasked_weight": (0, 1, 0.01),
    "noise_offset": (0, 1, 0.0001),
    "pyramid_iterations": (0, 16, 1),
    "pyramid_discount": (0, 1, 0.05),
    "input_perturbation": (0, 1, 0.01),
    "timestep_min": (0, LAST_TIMESTEP, 1),
    "timestep_max": (0, LAST_TIMESTEP, 1),
    "logit_mean": (-10, 10, 0.1),
    "logit_std": (0.01, 10, 0.1),
    "prior_loss_weight": (0, 100, 0.05),
    "preview_every": (0, 10_000_000, 10),
    "width": (0, 4096, 8),
    "height": (0, 4096, 8),
    "validation_share": (0, 0.5, 0.01),
    "validate_every": (0, 10_000_000, 10),
    "early_stop_patience": (0, 10_000, 1),
    "save_every_epochs": (0, 10_000_000, 1),
    "resume_from_step": (0, 10_000_000, 1),
    "clip_l_learning_rate": (0, 10.0, 1e-6),
    "clip_g_learning_rate": (0, 10.0, 1e-6),
    "stop_fraction": (0.01, 1, 0.05),
    "text_encoder_rank": (0, 1024, 1),
    "ti_fraction": (0.01, 1, 0.05),
    "norm_pull": (0, 1, 0.05),
    "variants_per_picture": (1, 64, 1),
    "flip": (0, 1, 0.05),
    "crop_jitter": (0, 0.5, 0.01),
    "rotation": (0, 45, 0.5),
    "brightness": (0, 0.9, 0.01),
    "contrast": (0, 0.9, 0.01),
    "saturation": (0, 0.9, 0.01),
    "hue": (0, 0.5, 0.01),
    "keep_tags": (0, 1000, 1),
    "tag_dropout": (0, 1, 0.01),
    "num_variants": (1, 256, 1),
    "max_tokens": (1, 2048, 1),
    "min_tokens": (0, 2048, 1),
    "temperature": (0, 5, 0.05),
    "top_p": (0.01, 1, 0.01),
    "top_k": (0, 100_000, 1),
    "num_beams": (1, 20, 1),
    "repetition_penalty": (0.5, 5, 0.05),
    "tag_threshold": (0.01, 1, 0.01),
    "character_threshold": (0.01, 1, 0.01),
    "max_pictures": (0, 10_000_000, 1),
}
MULTILINE = ("prompts", "prompt", "negative", "strip_phrases")


@cache
def field_docs(kind: type) -> dict[str, str]:
    """Field name -> the string under it in the source of a dataclass."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(following, ast.Expr):
            continue
        if isinstance(statement.target, ast.Name) and isinstance(following.value, ast.Constant):
            docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs


def widget(kind: type, name: str, advanced: bool = False, choices: Sequence[str] = ()) -> io.Input:
    """The widget of one field of a dataclass; a menu where the host knows all `choices` of a text."""
    (field,) = [f for f in dataclasses.fields(kind) if f.name == name]
    hint = get_type_hints(kind)[name]
    text: dict[str, Any] = {"tooltip": field_docs(kind)[name], "default": field.default}
    if get_origin(hint) is Literal:
        made: io.Input = io.Combo.Input(name, options=list(get_args(hint)), **text)
    elif choices:
        made = io.Combo.Input(name, options=list(choices), **text)
    elif hint is bool:
        made = io.Boolean.Input(name, **text)
    elif hint in (int, float):
        least, most, step = RANGES[name]
        if hint is int:
            # the frontend adds a randomising widget to every "seed" unless it is told not to
            text["control_after_generate"] = False
        number = io.Int if hint is int else io.Float
        made = number.Input(name, min=hint(least), max=hint(most), step=hint(step), **text)
    else:
        made = io.String.Input(name, multiline=name in MULTILINE, **text)
    return mark_advanced(made) if advanced else made


def mark_advanced(made: io.Input) -> io.Input:
    """Fold the widget away; the constructor's own argument does not exist before ComfyUI 0.10."""
    made.extra_dict = {**(made.extra_dict or {}), "advanced": True}
    return made


def widgets(
    kind: type, advanced: tuple[str, ...] = (), choices: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> list[io.Input]:
    """The widgets of all fields, in their order.

    None is required: a prompt of the API that was saved before a setting existed gets its default.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    made = [widget(kind, name, name in advanced, choices.get(name, ())) for name in names]
    for one in made:
        one.optional = True
    return made


def settings_output(section: str) -> io.Output:
    name = f"{section}_settings"
    trainers = "Pivotal Tuning" if section == "pivotal" else "Train SDXL LoRA or Pivotal Tuning"
    return SETTINGS[section].Output(name, display_name=name, tooltip=f"Plug into {name} of {trainers}.")


def hidden_value(node: type[io.ComfyNode], name: str) -> Any:
    """What ComfyUI tells a running node beside its inputs; None outside a queue."""
    return getattr(node.hidden, name, None) if node.hidden is not None else None
