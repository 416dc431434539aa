"""Time our training step against plain diffusers + peft on an accelerator: python benchmarks/gpu.py.

Both train the same rank-16 attention LoRA on an SDXL UNet of random weights (nothing is downloaded),
with the same latents and captions. Plain is what the diffusers example script does without its
per-step VAE and text encoders: fp32 LoRA under bf16 autocast, foreach AdamW. Each row is measured in a
fresh UNet of its own; figures are medians over the timed steps. `--small` runs a narrow UNet on the CPU, to
see that the script works.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainer.adapter.lora import attach_adapter
from trainer.config import LoRAConfig, NoiseConfig, ObjectiveConfig, OptimizerConfig, ProdigyConfig
from trainer.diffusion.conditioning import Batch
from trainer.diffusion.noise_draw import draw_noise
from trainer.diffusion.noise_schedule import NoiseSchedule
from trainer.diffusion.objective import denoising_losses
from trainer.memory_plan import LEVELS, checkpoint_modules
from trainer.optimization.optimizers import AdapterOptimizer
from trainer.sdxl.model import Denoiser

RANK = 16
LEARNING_RATE = 1e-4
WIDTHS = {"full": (320, 640, 1280), "small": (32, 64, 64)}
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    side: int
    batch_size: int
    checkpointing: bool


@dataclass(frozen=True)
class Figures:
    """What one trainer reached on one case."""

    trainer: str
    seconds_per_step: float
    pictures_per_second: float
    peak_gib: float


def build_unet(width: str, device: torch.device) -> UNet2DConditionModel:
    """SDXL's UNet, or one of its shape but narrow, with random bf16 weights."""
    channels = WIDTHS[width]
    depth = (1, 2, 10) if width == "full" else (1, 1, 1)
    with device:
        unet = UNet2DConditionModel(
            sample_size=128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=channels,
            layers_per_block=2,
            cross_attention_dim=2048,
            attention_head_dim=tuple(max(c // 64, 1) for c in channels),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            transformer_layers_per_block=depth,
        )
    return unet.to(torch.bfloat16).requires_grad_(False)


def draw_batch(case: Case, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(0)
    latent_side = case.side // 8

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, torch.bfloat16)

    time_ids = torch.tensor([[case.side, case.side, 0, 0, case.side, case.side]] * case.batch_size)
    return Batch(
        latents=draw(case.batch_size, 4, latent_side, latent_side).float(),
        prompt_embeds=draw(case.batch_size, 77, 2048),
        pooled=draw(case.batch_size, 1280),
        time_ids=time_ids.to(device, torch.float32),
    )


def our_step(unet: UNet2DConditionModel, batch: Batch) -> Callable[[int], None]:
    """The parts of trainer/loop.py that belong to one step."""
    adapter = attach_adapter(unet, LoRAConfig(rank=RANK, targets="attention"), seed=0)
    optimizer = AdapterOptimizer(adapter.weights, OptimizerConfig(), ProdigyConfig(), adapter.is_up)
    device = batch.latents.device
    denoiser = Denoiser(unet, NoiseSchedule.sdxl().to(device))

    def step(index: int) -> None:
        num_timesteps = denoiser.schedule.num_timesteps
        draw = draw_noise(batch.latents.shape, 0, index, NoiseConfig(), num_timesteps).to(device)
        adapter.weights.zero_gradients()
        losses = denoising_losses(denoiser.predict, batch, draw, denoiser.schedule, ObjectiveConfig())
        losses.mean().backward()
        adapter.weights.collect_gradients()
        optimizer.step(LEARNING_RATE, adapter.weights.clip(1.0).isfinite())
        adapter.weights.publish()

    return step


def plain_step(unet: UNet2DConditionModel, batch: Batch) -> Callable[[int], None]:
    """A step of diffusers' train_text_to_image_lora_sdxl.py with cached latents and text."""
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=ATTENTION), unet)
    parameters = [p for p in unet.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    device = batch.latents.device
    added = {"text_embeds": batch.pooled, "time_ids": batch.time_ids}

    def step(_: int) -> None:
        noise = torch.randn_like(batch.latents)
        timesteps = torch.randint(0, 1000, (len(batch.latents),), device=device)
        noisy_latents = schedule.add_noise(batch.latents, noise, timesteps)
        with torch.autocast(device.type, torch.bfloat16):
            prediction = unet(noisy_latents, timesteps, batch.prompt_embeds, added_cond_kwargs=added).sample
        loss = torch.nn.functional.mse_loss(prediction.float(), noise.float())
        loss.item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


@contextmanager
def fresh_memory(device: torch.device) -> Iterator[None]:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield
    gc.collect()


def measure(name: str, width: str, case: Case, device: torch.device, num_steps: int) -> Figures:
    with fresh_memory(device):
        unet = build_unet(width, device)
        if case.checkpointing and name == "ours":
            checkpoint_modules(unet, LEVELS[1])
        elif case.checkpointing:
            unet.train()
            unet.enable_gradient_checkpointing()
        batch = draw_batch(case, device)
        step = {"ours": our_step, "diffusers + peft": plain_step}[name](unet, batch)
        seconds = [timed(step, index, device) for index in range(num_steps + 3)][3:]
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    median = statistics.median(seconds)
    return Figures(name, median, case.batch_size / median, peak / 2**30)


def timed(step: Callable[[int], None], index: int, device: torch.device) -> float:
    started = time.perf_counter()
    step(index)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a narrow UNet on the CPU at 128 px")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        sys.exit("no GPU here: run this where torch sees one, or try --small")

    device = torch.device("cpu" if options.small else "cuda")
    width = "small" if options.small else "full"
    cases = [Case(1024, 1, False), Case(1024, 1, True), Case(1024, 4, False), Case(1024, 4, True)]
    if options.small:
        cases = [Case(128, 1, False), Case(128, 2, True)]
    rows = []
    print("| px | batch | checkpointing | trainer | s / step | pictures / s | peak GiB | ours : plain |")
    print("|---|---|---|---|---|---|---|---|")
    for case in cases:
        plain, ours = (measure(n, width, case, device, options.steps) for n in ("diffusers + peft", "ours"))
        for figures in (plain, ours):
            ratio = figures.seconds_per_step / plain.seconds_per_step
            rows.append({**asdict(case), **asdict(figures), "ratio": ratio})
            print(
                f"| {case.side} | {case.batch_size} | {'on' if case.checkpointing else 'off'} "
                f"| {figures.trainer} | {figures.seconds_per_step:.3f} | {figures.pictures_per_second:.2f} "
                f"| {figures.peak_gib:.2f} | {ratio:.2f} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2), "utf-8")


if __name__ == "__main__":
    main()
