"""Time our training step against core's TrainLoraNode: versus_core.py COMFYUI_FOLDER CHECKPOINT.

Run with a Python that has ComfyUI's packages and requirements.txt. Both train on the same loaded model in
this one process: batch 1, same size, same rank, seconds between optimizer steps, median. Core adapts every
layer and leaves no choice; ours is timed on attention and on attention+ff. Core's checkpointing is timed
on and off; ours chooses by itself.
"""

import argparse
import inspect
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from host_process import boot, load_pack, write_pictures


@contextmanager
def step_seconds() -> Iterator[list[float]]:
    """Seconds between optimizer steps, whoever makes them; the first ones, which warm up, are left out."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    ticks: list[float] = []
    seconds: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: ticks.append(time.perf_counter()))
    try:
        yield seconds
    finally:
        hook.remove()
        seconds += [after - before for before, after in pairwise(ticks[1:])]


def time_core(model: Any, clip: Any, vae: Any, options: argparse.Namespace, checkpointing: bool) -> float:
    """Median seconds a step of core's node, called with the inputs that its schema names."""
    from comfy_extras.nodes_train import TrainLoraNode

    with torch.inference_mode():
        positive = clip.encode_from_tokens_scheduled(clip.tokenize("picture number 0 of something"))
        latents = {"samples": vae.encode(torch.rand(1, options.size, options.size, 3))}
        values = {
            "model": model,
            "latents": latents,
            "positive": positive,
            "batch_size": 1,
            "steps": options.steps + 2,
            "grad_accumulation_steps": 1,
            "learning_rate": 1e-4,
            "rank": options.rank,
            "optimizer": "AdamW",
            "loss_function": "MSE",
            "seed": 0,
            "training_dtype": "bf16",
            "lora_dtype": "bf16",
            "quantized_backward": False,
            "algorithm": "LoRA",
            "gradient_checkpointing": checkpointing,
            "checkpoint_depth": 1,
            "offloading": False,
            "existing_lora": "[None]",
            "bucket_mode": False,
            "bypass_mode": False,
        }
        is_classic = hasattr(TrainLoraNode, "train")
        call = TrainLoraNode().train if is_classic else TrainLoraNode.execute
        names = inspect.signature(call).parameters
        values = {name: value for name, value in values.items() if name in names}
        if not is_classic:  # its schema takes every input as a list
            values = {n: v if n == "positive" else [v] for n, v in values.items()}
            values["positive"] = [positive]
        with step_seconds() as seconds:
            call(**values)
    return statistics.median(seconds)


def time_ours(model: Any, clip: Any, vae: Any, options: argparse.Namespace, targets: str) -> float:
    """Median seconds a step of our trainer."""
    from sdxl_trainer.nodes.comfy_bridge.host_model import HostModel
    from sdxl_trainer.trainer.config import DatasetConfig, LoRAConfig, RunConfig, TrainConfig
    from sdxl_trainer.trainer.data.dataset import load_dataset
    from sdxl_trainer.trainer.events import SilentListener
    from sdxl_trainer.trainer.runs.run import Job, train

    folder = options.scratch / "input" / "noise"
    write_pictures(folder, 2, options.size)
    config = TrainConfig(
        name=f"versus_{targets.replace('+', '_')}",
        steps=options.steps + 2,
        seed=0,
        resume="new",
        lora=LoRAConfig(rank=options.rank, targets=targets),
        run=RunConfig(save_every=0),
    )
    job = Job(
        config=config,
        dataset=load_dataset(folder, DatasetConfig(resolution=options.size)),
        loras_folder=options.scratch / "models" / "loras",
        run_folder=options.scratch / "output" / "sdxl_trainer",
    )
    host = HostModel(model, clip, vae, "random SDXL")
    with torch.inference_mode(), torch.inference_mode(False), step_seconds() as seconds:
        train(job, host, SilentListener())
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each row")
    options = parser.parse_args()
    device_arguments = [] if torch.cuda.is_available() else ["--cpu", "--bf16-unet"]

    with tempfile.TemporaryDirectory() as scratch:
        options.scratch = Path(scratch)
        boot(options.comfyui, options.scratch, *device_arguments)
        load_pack()
        import comfy.sd
        from comfyui_version import __version__

        with torch.inference_mode():
            model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(str(options.checkpoint))

        print(f"ComfyUI {__version__}, {options.size} px, batch 1, rank {options.rank}, seconds a step")
        ours = {}
        for targets in ("attention", "attention+ff"):
            ours[targets] = time_ours(model, clip, vae, options, targets)
            print(f"ours, {targets}: {ours[targets]:.2f}", flush=True)
        for checkpointing in (True, False):
            core = time_core(model, clip, vae, options, checkpointing)
            ratios = ", ".join(f"{targets} {seconds / core:.2f}" for targets, seconds in ours.items())
            title = f"core, checkpointing {'on' if checkpointing else 'off'}"
            print(f"{title}: {core:.2f}; ours to core: {ratios}", flush=True)


if __name__ == "__main__":
    main()
