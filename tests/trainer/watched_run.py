"""Tiny runs of which everything that shows is kept, so that two can be compared: for the tests."""

import hashlib
import re
from contextlib import contextmanager
from dataclasses import replace

import tiny_run
import torch
from safetensors.torch import load_file
from sdxl_trainer.trainer.config import SECTIONS
from sdxl_trainer.trainer.diffusion.noise_schedule import NoiseSchedule

STEPS = 3


def digest(data):
    return hashlib.sha256(data).hexdigest()[:12]


def bits(tensor):
    return digest(tensor.detach().float().contiguous().numpy().tobytes())


class Watched(tiny_run.TinyModel):
    """Writes down what its UNet is given wherever a gradient is asked for: in training alone."""

    def __init__(self, prediction_type="epsilon"):
        super().__init__()
        self.schedule = NoiseSchedule.sdxl(prediction_type)
        self.given = []

    @contextmanager
    def open_denoiser(self, activation_bytes):
        handle = self.unet.register_forward_pre_hook(self.note, with_kwargs=True)
        try:
            with super().open_denoiser(activation_bytes) as denoiser:
                yield replace(denoiser, schedule=self.schedule)
        finally:
            handle.remove()

    def note(self, unet, values, named):
        if torch.is_grad_enabled():
            noisy_latents, timesteps = values
            self.given.append(
                {
                    "noisy latents": bits(noisy_latents),
                    "timesteps": timesteps.tolist(),
                    "captions": bits(named["encoder_hidden_states"]),
                    "sizes": named["added_cond_kwargs"]["time_ids"].tolist(),
                }
            )


def settings(changes):
    """`{"lora.rank": 4, "steps": 5}` as keyword arguments of `tiny_run.tiny_config`."""
    values = {}
    for place, value in changes.items():
        section, _, name = place.rpartition(".")
        (values.setdefault(section, {}) if section else values)[name] = value
    assert values.keys() <= {*SECTIONS, "name", "steps", "batch_size", "seed", "resume"}
    return values


def run_watched(folder, dataset, changes, prediction_type="epsilon"):
    """Train on `dataset` and return all that the run shows, by name."""
    model, listener = Watched(prediction_type), tiny_run.StopAfter()
    job = tiny_run.tiny_job(folder, dataset, **{"steps": STEPS, **settings(changes)})
    result = tiny_run.train(job, model, listener)
    state = load_file(max((folder / "runs" / result.name / "state").glob("*.safetensors")))
    lora = load_file(result.lora_path)
    return {
        **{key: [given[key] for given in model.given] for key in model.given[0]},
        "rates": [(report.learning_rate, report.effective_learning_rate) for report in listener.reports],
        "weights": {name: bits(value) for name, value in state.items() if name.startswith("lora/")},
        "text LoRA": {name: bits(value) for name, value in state.items() if re.match("clip_./lora/", name)},
        "tokens": {name: bits(value) for name, value in state.items() if name.startswith("tokens/lora/")},
        "file": {name: bits(value) for name, value in lora.items()},
        "form": {name: (value.dtype, value.shape) for name, value in lora.items()},
        "held-out loss": listener.measured,
        "file names": sorted(
            re.sub(r"events\.out.*", "events", str(path.relative_to(folder)))
            for part in ("loras", "runs", "embeddings")
            for path in (folder / part).rglob("*")
            if path.is_file()
        ),
        "pictures": {
            path.name: digest(path.read_bytes()) for path in (folder / "runs").rglob("samples/*.png")
        },
        "memory": re.findall(r"gradient checkpointing (\w+)", result.report),
    }


def differences(one, other):
    """The names of what two runs show differently."""
    return {name for name in one if one[name] != other[name]}
