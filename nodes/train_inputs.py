"""Inputs and outputs of the two training nodes: sockets, their widgets, the settings sockets."""

from collections.abc import Mapping, Sequence
from typing import get_args

from comfy_api.latest import io

from ..trainer.config import MAX_SEED, Resume, Targets
from .widgets import DATASET, SETTINGS, mark_advanced

FROM_PRESET = "preset"

MAX_NEW_TOKENS = 75  # of a window of 77, without its first and its last

# in the order in which they stand on the node; more may only be appended
LORA_WIDGETS = (
    "name",
    "preset",
    "steps",
    "epochs",
    "rank",
    "alpha",
    "targets",
    "learning_rate",
    "batch_size",
    "seed",
    "resume",
)
PIVOTAL_WIDGETS = (
    "name",
    "preset",
    "token",
    "new_tokens",
    "ti_fraction",
    "steps",
    "rank",
    "learning_rate",
    "token_learning_rate",
    "batch_size",
    "seed",
    "resume",
)
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
TEXT_SOCKETS = {
    "text_encoder": "A LoRA on the text encoders too: which, and how fast.",
    "pivotal": "The new tokens: several words, how they start, their optimizer; replaces the preset's.",
}


def train_inputs() -> list[io.Input]:
    text_sockets = _settings_sockets({"text_encoder": TEXT_SOCKETS["text_encoder"]})
    return [
        *_sockets(),
        *_widgets(LORA_WIDGETS),
        *_settings_sockets(SOCKETS),
        _start_socket(),
        *text_sockets,
    ]


def pivotal_inputs() -> list[io.Input]:
    return [
        *_sockets(),
        *_widgets(PIVOTAL_WIDGETS),
        *_settings_sockets({**SOCKETS, **TEXT_SOCKETS}),
        _start_socket(),
    ]


def _widgets(names: Sequence[str]) -> list[io.Input]:
    made = {one.id: one for one in (*_length_widgets(names), *_recipe_widgets(), *_token_widgets())}
    return [made[name] for name in names]


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


def _length_widgets(names: Sequence[str]) -> list[io.Input]:
    from ..trainer.settings.presets import PRESETS

    usual = "from epochs, else the preset's" if "epochs" in names else "the preset's"

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
            tooltip=f"Optimizer steps, 500 to 3000 for most; 0 = {usual}. Kohya: max_train_steps.",
        ),
        io.Int.Input(
            "epochs",
            default=0,
            min=0,
            max=100_000,
            tooltip="Passes over the dataset, 10 to 100, the fewer pictures the more; used when steps is 0; "
            "0 = the preset's steps. Kohya: max_train_epochs.",
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
            tooltip="The LoRA is scaled by alpha / rank: half of the rank up to the rank for most; 0 = the "
            "preset's, or else the rank. Kohya: network_alpha.",
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
            "a finished one; new: always train anew; continue: go on with it, also past a Finish now, or "
            "refuse and say what differs. Kohya: resume.",
        ),
    ]


def _token_widgets() -> list[io.Input]:
    return [
        io.String.Input(
            "token",
            default="TOK",
            tooltip="Word of your captions and prompts that the new tokens stand for; several: TOK, OHWX; "
            "empty = that of Pivotal Settings. diffusers: token_abstraction.",
        ),
        io.Int.Input(
            "new_tokens",
            default=0,
            min=0,
            max=MAX_NEW_TOKENS,
            tooltip="New tokens that each word stands for, 1 to 8; 0 = the preset's. "
            "diffusers: num_new_tokens_per_abstraction.",
        ),
        io.Float.Input(
            "ti_fraction",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Part of the steps that trains the tokens, before the LoRA is trained, 0.3 to 0.6; "
            "1 = tokens only; 0 = the preset's. diffusers: train_text_encoder_ti_frac.",
        ),
        io.Float.Input(
            "token_learning_rate",
            default=0.0,
            min=0.0,
            max=10.0,
            step=1e-6,
            tooltip="Peak learning rate of the tokens, 1e-4 to 1e-3 for AdamW; 0 = usual: 3e-4, 1 for "
            "Prodigy. cog-sdxl: ti_lr.",
        ),
    ]


def _settings_sockets(sockets: Mapping[str, str]) -> list[io.Input]:
    return [
        mark_advanced(
            SETTINGS[section].Input(
                f"{section}_settings", optional=True, tooltip=f"From a settings node. {text}"
            )
        )
        for section, text in sockets.items()
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


def pivotal_outputs() -> list[io.Output]:
    embedding = io.String.Output(
        "embedding",
        display_name="embedding",
        tooltip="Name of the file of new tokens: what other nodes' prompts write after embedding: instead "
        "of the word. Several: a name for each word; write embedding: before each.",
    )
    return [*_outputs("CLIP that knows the word, with the LoRA applied."), embedding, _report_picture()]


def train_outputs() -> list[io.Output]:
    return [*_outputs("CLIP with the LoRA applied."), _report_picture()]


def _report_picture() -> io.Output:
    return io.Image.Output(
        "report_picture",
        display_name="report_picture",
        tooltip="The report as one tall picture: previews over time, loss, pictures, checks; the page "
        "report.html in the folder of the run tells more.",
    )


def _outputs(clip: str) -> list[io.Output]:
    return [
        io.Model.Output("trained_model", display_name="model", tooltip="The model with the LoRA applied."),
        io.Clip.Output("trained_clip", display_name="clip", tooltip=clip),
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
