"""Inputs and outputs of the training node: sockets, the eleven widgets, the settings sockets."""

from typing import get_args

from comfy_api.latest import io

from ..trainer.config import MAX_SEED, Resume, Targets
from .widgets import DATASET, SETTINGS, mark_advanced

FROM_PRESET = "preset"

# in the order in which they stand on the node; more may only be appended
SOCKETS = {
    "lora": "Kind, rank, alpha and layers; replaces the preset's.",
    "optimizer": "Optimizer and learning rate; replaces the preset's.",
    "objective": "What the loss rewards; replaces the preset's.",
    "preview": "Prompts to draw while training and with the finished LoRA.",
    "run": "Checkpoints, accumulation, precision and memory.",
    "schedule": "Warm-up share, restarts and bend of the learning rate.",
    "prodigy": "How Prodigy finds the rate; only for the Prodigy optimizers.",
    "noise": "Noise and the choice of timesteps.",
    "prior": "Prior preservation: keep the class while the subject is learned.",
    "validation": "Loss on held-out pictures, early stop.",
    "logging": "TensorBoard, Weights & Biases, Hugging Face hub.",
}


def train_inputs() -> list[io.Input]:
    return [*_sockets(), *_length_widgets(), *_recipe_widgets(), *_settings_sockets(), _start_socket()]


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
    from ..trainer.settings.presets import PRESETS

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
            tooltip="Starting values for all that is not set below or plugged in: what you train first, then "
            "published recipes by name; the help page lists them, the report shows what became of them.",
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
            tooltip="The LoRA is scaled by alpha / rank; 0 = the preset's, or else the rank. "
            "Kohya: network_alpha.",
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
            max=10.0,
            step=1e-6,
            tooltip="Peak learning rate, 5e-5 to 5e-4 for AdamW, 1 for Prodigy; 0 = the preset's. "
            "Kohya: unet_lr.",
        ),
        io.Int.Input(
            "batch_size",
            default=0,
            min=0,
            max=1024,
            tooltip="Pictures in a step, 1 to 8; more needs more memory; 0 = the preset's. "
            "Kohya: train_batch_size.",
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
            "a finished one; new: always train anew; continue: go on with it, or refuse and say what "
            "differs. Kohya: resume.",
        ),
    ]


def _settings_sockets() -> list[io.Input]:
    return [
        mark_advanced(
            SETTINGS[section].Input(
                f"{section}_settings", optional=True, tooltip=f"From a settings node. {text}"
            )
        )
        for section, text in SOCKETS.items()
    ]


def _start_socket() -> io.Input:
    return mark_advanced(
        io.MultiType.Input(
            "initial_lora",
            types=[io.LoraModel, io.String],
            optional=True,
            tooltip="LoRA, or its file name, to start from instead of from nothing; of the kind that is "
            "trained, no larger in rank, its layers among the trained ones. Kohya: network_weights.",
        )
    )


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
