"""Train on a full-size SDXL in ComfyUI and show what it costs and leaves: full_size.py COMFYUI CHECKPOINT.

Run with a Python that has ComfyUI's packages and requirements.txt. Prints memory before, while and after,
seconds a step, and whether every base weight and a seeded sample are the same before and after. Ends with
an error when they are not.
"""

import argparse
import hashlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from host_process import boot, load_pack, write_pictures

GIB = 2**30


def weights_digest(*patchers: Any) -> str:
    """sha256 over every parameter and buffer, byte for byte."""
    digest = hashlib.sha256()
    with torch.inference_mode():
        for patcher in patchers:
            for name, weight in patcher.model.state_dict().items():
                digest.update(name.encode())
                digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def seeded_sample(model: Any, clip: Any, size: int) -> torch.Tensor:
    """Two Euler steps of ComfyUI's own sampler."""
    import comfy.sample

    with torch.inference_mode():
        positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(p)) for p in ("a picture", ""))
        latents = torch.zeros(1, 4, size // 8, size // 8)
        noise = comfy.sample.prepare_noise(latents, 7)
        return comfy.sample.sample(
            model, noise, 2, 4.0, "euler", "normal", positive, negative, latents, seed=7
        )


def resident_bytes() -> int:
    """What this process holds of its own, without pages of the checkpoint file, which may drop any moment."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The highest resident memory while the block runs, bytes."""
    peak, done = [resident_bytes()], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def train_on(model: Any, clip: Any, vae: Any, options: argparse.Namespace) -> tuple[Any, list[float], int]:
    """Train as the node does; returns the result, seconds of each step, bytes held when training began."""
    from sdxl_trainer.nodes.comfy_bridge.host_model import HostModel
    from sdxl_trainer.trainer.config import (
        DatasetConfig,
        LoRAConfig,
        PivotalConfig,
        RunConfig,
        TextEncoderConfig,
        TrainConfig,
    )
    from sdxl_trainer.trainer.data.dataset import load_dataset
    from sdxl_trainer.trainer.events import SilentListener, StepReport
    from sdxl_trainer.trainer.runs.run import Job, train

    class Clock(SilentListener):
        seconds: list[float] = []  # noqa: RUF012

        def step(self, report: StepReport) -> None:
            self.seconds.append(report.seconds)

    folder = options.scratch / "input" / "noise"
    write_pictures(folder, 2, options.size)
    config = TrainConfig(
        name="full_size",
        steps=options.steps,
        lora=LoRAConfig(rank=options.rank, targets=options.targets),
        run=RunConfig(save_every=0),
        # the pictures are captioned "picture number 0 of something"
        pivotal=PivotalConfig(token="something" if options.pivotal else ""),
        text_encoder=TextEncoderConfig(train_text_encoder=options.text_encoder),
    )
    job = Job(
        config=config,
        dataset=load_dataset(folder, DatasetConfig(resolution=options.size)),
        loras_folder=options.scratch / "models" / "loras",
        run_folder=options.scratch / "output" / "sdxl_trainer",
        embeddings_folder=options.scratch / "models" / "embeddings",
    )
    clock = Clock()
    with torch.inference_mode(), torch.inference_mode(False):
        result = train(job, HostModel(model, clip, vae, options.checkpoint.name), clock)
    return result, clock.seconds, resident_bytes()


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--targets", default="attention")
    parser.add_argument("--pivotal", action="store_true", help="new tokens in the first half of the steps")
    parser.add_argument("--text-encoder", default="off", help="off, both, clip_l or clip_g")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    with tempfile.TemporaryDirectory() as scratch:
        options.scratch = Path(scratch)
        boot(options.comfyui, options.scratch, "--cpu", "--bf16-unet")
        load_pack()
        import comfy.model_management
        import comfy.sd
        from comfyui_version import __version__

        with torch.inference_mode():
            model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(str(options.checkpoint))
        comfy.model_management.load_models_gpu([model])
        print(f"ComfyUI {__version__}, {options.size} px, rank {options.rank}, {options.targets}")
        parts = (model, clip.patcher, vae.patcher)
        sample_before = seeded_sample(model, clip, options.size)
        digest_before = weights_digest(*parts)
        before = resident_bytes()
        print(f"loaded model and one sample: {before / GIB:.2f} GiB")

        started = time.monotonic()
        with peak_memory() as peak:
            result, seconds, after = train_on(model, clip, vae, options)
        print(
            f"training: peak {(peak[0] - before) / GIB:+.2f} GiB, {peak[0] / GIB:.2f} GiB in all, "
            f"{time.monotonic() - started:.0f} s"
        )
        each = ", ".join(f"{s:.2f}" for s in seconds)
        print(f"seconds a step: {each} (median {statistics.median(seconds):.2f})")
        megabytes = result.lora_path.stat().st_size / 1e6
        print(f"afterwards: {(after - before) / GIB:+.2f} GiB; a file of {megabytes:.0f} MB")

        same_weights = weights_digest(*parts) == digest_before
        same_sample = torch.equal(seeded_sample(model, clip, options.size), sample_before)
        print(f"base weights identical: {same_weights}; seeded sample identical: {same_sample}")
        again = train_on(model, clip, vae, options)[0]
        print(f"queued again: {again.trained_steps} steps trained")
    if not (same_weights and same_sample and again.trained_steps == 0):
        sys.exit("the host was not left as found")


if __name__ == "__main__":
    main()
