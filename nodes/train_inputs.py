"""Inputs and outputs of the training node: sockets, the eleven widgets, the settings sockets."""

from typing import get_args

from comfy_api.latest import io

from ..trainer.config import MAX_SEED, Resume, Targets
from .widgets import (
    DATASET,
    LORA_SETTINGS,
    OBJECTIVE_SETTINGS,
    OPTIMIZER_SETTINGS,
    PREVIEW_SETTINGS,
    RUN_SETTINGS,
    mark_advanced,
)

FROM_PRESET = "preset"


def train_inputs() -> list[io.Input]:
    return [*_sockets(), *_length_widgets(), *_recipe_widgets(), *_settings_sockets()]


def _sockets() -> list[io.Input]:
    return [
        io.Model.Input(
            "model",
            tooltip="SDXL model to train on, as loaded; LoRAs in front of it become part of the base.",
        ),
        io.Clip.Input("clip", tooltip="The text encoders of the same checkpoint; they encode the captions."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint; it encodes the pictures."),
        DATASET.Input("dataset", tooltip="Pictures and captions from Load Dataset."),
    ]


def _length_widgets() -> list[io.Input]:
    from ..trainer.presets import PRESETS

    recipes = "; ".join(f"{name}: {preset.summary}" for name, preset in PRESETS.items())
    return [
        io.String.Input(
            "name",
            default="my_lora",
            tooltip="Name of the LoRA file, a plain file name; an existing file is never overwritten. "
            "Kohya: output_name.",
        ),
        io.Combo.Input(
            "preset",
            options=list(PRESETS),
            default=next(iter(PRESETS)),
            tooltip=f"Starting values for everything that is not set below. {recipes}.",
        ),
        io.Int.Input(
            "steps",
            default=0,
            min=0,
            max=10_000_000,
            tooltip="Optimizer steps, 500 to 3000 for most; 0 = from epochs, else the preset's. "
            "Kohya: max_train_steps.",
        ),
        io.Int.Input(
            "epochs",
            default=0,
            min=0,
            max=100_000,
            tooltip="Passes over the dataset, used when steps is 0; 0 = the preset's steps. "
            "Kohya: max_train_epochs.",
        ),
    ]


def _recipe_widgets() -> list[io.Input]:
    return [
        io.Int.Input(
            "rank",
            default=0,
            min=0,
            max=1024,
            tooltip="Size of the LoRA, 8 to 32 for most; 0 = the preset's. Kohya: network_dim.",
        ),
        io.Float.Input(
            "alpha",
            default=0.0,
            min=0.0,
            max=4096.0,
            step=0.5,
            tooltip="The LoRA is scaled by alpha / rank; 0 = the same as rank. Kohya: network_alpha.",
        ),
        io.Combo.Input(
            "targets",
            options=[FROM_PRESET, *get_args(Targets)],
            default=FROM_PRESET,
            tooltip="Layers that get an update: attention is small, attention+ff is Kohya's default, "
            "attention+ff+conv learns most and forgets most. Kohya: conv_dim for the last.",
        ),
        io.Float.Input(
            "learning_rate",
            default=0.0,
            min=0.0,
            max=1.0,
            step=1e-6,
            tooltip="Peak learning rate of AdamW, 5e-5 to 5e-4; 0 = the preset's. Kohya: unet_lr.",
        ),
        io.Int.Input(
            "batch_size",
            default=1,
            min=1,
            max=1024,
            tooltip="Pictures in a step, 1 to 8; more needs more memory. Kohya: train_batch_size.",
        ),
        io.Int.Input(
            "seed",
            default=42,
            min=0,
            max=MAX_SEED,
            control_after_generate=False,  # a new seed would be a new run at every queue
            tooltip="Seed of every random draw; the same seed gives the same file on the CPU. Kohya: seed.",
        ),
        io.Combo.Input(
            "resume",
            options=list(get_args(Resume)),
            default=get_args(Resume)[0],
            tooltip="auto: go on with the unfinished run of this name and these settings, and load "
            "a finished one; new: always train anew. Kohya: resume.",
        ),
    ]


def _settings_sockets() -> list[io.Input]:
    sockets = [
        (LORA_SETTINGS, "lora_settings", "Rank, alpha and layers; replaces the preset's."),
        (OPTIMIZER_SETTINGS, "optimizer_settings", "AdamW and its learning rate; replaces the preset's."),
        (OBJECTIVE_SETTINGS, "objective_settings", "What the loss rewards; replaces the preset's."),
        (PREVIEW_SETTINGS, "preview_settings", "Prompts to draw with the finished LoRA."),
        (RUN_SETTINGS, "run_settings", "Checkpoints, accumulation, precision and memory."),
    ]
    return [
        mark_advanced(kind.Input(name, optional=True, tooltip=f"From a settings node. {text}"))
        for kind, name, text in sockets
    ]


def train_outputs() -> list[io.Output]:
    return [
        io.Model.Output("trained_model", display_name="model", tooltip="The model with the LoRA applied."),
        io.Clip.Output("trained_clip", display_name="clip", tooltip="CLIP with the LoRA applied."),
        io.LoraModel.Output("lora", display_name="lora", tooltip="The LoRA itself, for Apply LoRA."),
        io.String.Output(
            "lora_file", display_name="lora_file", tooltip="Its name, as ComfyUI's LoRA loaders list it."
        ),
        io.Image.Output(
            "samples",
            display_name="samples",
            tooltip="Pictures drawn with the LoRA, one for each preview prompt.",
        ),
        io.String.Output(
            "report", display_name="report", tooltip="What was trained, how it went and where it lies."
        ),
    ]
