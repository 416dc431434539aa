"""How much of the forward pass to keep for the backward pass, chosen from the memory that is free.

What is kept costs memory; what is not (gradient checkpointing, arXiv 1604.06174) is computed twice.
The figures are counted for SDXL at 1024 px, batch 1, bfloat16, with memory-saving attention: live
tensors of a whole step, LoRA on attention alone / on attention and feed-forward.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .config import Checkpointing, LoRAConfig, Targets, TrainConfig
from .data.dataset import TrainingSet
from .settings.part_rates import text_end_step

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Level:
    """One way to checkpoint: which modules are computed twice, and what the step then holds, GiB."""

    title: str
    modules: tuple[str, ...]
    attention_gib: float
    attention_ff_gib: float
    text_gib: float
    """Of both text encoders for one window of 77 tokens, float32, where they have a LoRA."""


LEVELS = (
    Level("off", (), 5.31, 6.42, 0.26),
    Level("transformer blocks", ("BasicTransformerBlock", "CLIPEncoderLayer"), 0.54, 0.62, 0.03),
    Level("all blocks", ("BasicTransformerBlock", "CLIPEncoderLayer", "ResnetBlock2D"), 0.50, 0.58, 0.03),
)
_LETTERS_IN_A_WINDOW = 300
"""75 tokens of about four letters each."""
_CONV_SHARE = 1.15  # convolution adapters keep their inputs, too
_LARGEST_WEIGHT: Mapping[Targets, int] = {
    "attention": 1280 * 2048,
    "attention+ff": 10240 * 1280,
    "attention+ff+conv": 1280 * 2560 * 9,
}
"""Numbers in the largest adapted weight of SDXL."""
_BUILT_MATRICES = 8
"""As large as the weight, that the backward pass of one LoHa or LoKr layer holds for a moment. What is kept
from the forward pass is the same for all kinds (counted: 18.49 GiB of saved tensors for LoRA, 18.50 for DoRA,
18.46 for LoHa and LoKr, with attention in its plain form)."""
_SDXL_CHANNELS = (320, 640, 1280)
_SDXL_DEPTH = (0, 2, 10)
_SDXL_PARAMETERS = 2_567_463_684
_WORKSPACE = 0.6 * GIB  # kernels' scratch space and the allocator's gaps
_USABLE = 0.9


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The level chosen for a run; both sizes in bytes."""

    level: Level
    needed: int
    free: int
    forced: bool
    ran_out: bool = False
    """Whether the level had to be raised because a step did not fit after all."""

    @property
    def title(self) -> str:
        """For the report: what was chosen and why."""
        if self.ran_out:
            return f"{self.level.title} (memory ran out with less)"
        if self.forced:
            return f"{self.level.title} (as set)"
        verb = "fits into" if self.needed <= self.free else "is the least possible, but more than"
        return f"{self.level.title} ({_gib(self.needed)} of activations {verb} {_gib(self.free)} free)"


def activation_bytes(
    level: Level, lora: LoRAConfig, batch: tuple[int, int, int], unet_config: Any, bytes_per_value: int
) -> int:
    """Estimate what a step holds at its peak besides the weights.

    Linear in batch and area, and in the width and depth of the UNet relative to SDXL's.

    Args:
        level: how much is checkpointed.
        lora: which layers have an adapter, and of which kind.
        batch: (samples, width, height) in pixels.
        unet_config: with `block_out_channels`, `transformer_layers_per_block` and `down_block_types`;
            None for SDXL itself.
        bytes_per_value: of the compute dtype.
    """
    gib = level.attention_gib if lora.targets == "attention" else level.attention_ff_gib
    if lora.targets == "attention+ff+conv":
        gib *= _CONV_SHARE
    samples, width, height = batch
    area = samples * width * height / 1024**2
    relative = 1.0 if unet_config is None else _relative_size(unet_config)
    kept = int(gib * GIB * area * relative * bytes_per_value / 2)
    return kept + _built_bytes(lora, unet_config, bytes_per_value)


def text_bytes(level: Level, captions: Sequence[str], num_samples: int, unet_config: Any) -> int:
    """Estimate what a step holds of the text encoders while they learn.

    Args:
        level: how much is checkpointed.
        captions: of which the longest decides.
        num_samples: in a batch.
        unet_config: as of `activation_bytes`; text encoders are taken to be as small as their UNet.
    """
    num_windows = max(math.ceil(len(caption) / _LETTERS_IN_A_WINDOW) for caption in captions)
    relative = 1.0 if unet_config is None else _relative_size(unet_config)
    return int(level.text_gib * GIB * max(1, num_windows) * num_samples * relative)


def _built_bytes(lora: LoRAConfig, unet_config: Any, bytes_per_value: int) -> int:
    """For the matrices that LoHa and LoKr build and throw away; LoRA and DoRA build none."""
    if lora.adapter not in ("loha", "lokr"):
        return 0
    width = _SDXL_CHANNELS[-1] if unet_config is None else unet_config.block_out_channels[-1]
    largest = _LARGEST_WEIGHT[lora.targets] * (width / _SDXL_CHANNELS[-1]) ** 2
    return int(_BUILT_MATRICES * largest * bytes_per_value)


def _relative_size(unet_config: Any) -> float:
    depth = unet_config.transformer_layers_per_block
    channels = unet_config.block_out_channels
    depth = (depth,) * len(channels) if isinstance(depth, int) else tuple(depth)
    has_attention = ["CrossAttn" in kind for kind in unet_config.down_block_types]
    depth = tuple(d if attends else 0 for d, attends in zip(depth, has_attention, strict=True))
    return _size(channels, depth) / _size(_SDXL_CHANNELS, _SDXL_DEPTH)


def _size(channels: tuple[int, ...], depth: tuple[int, ...]) -> float:
    """Values that a pixel's worth of latents passes through, up to a constant factor."""
    return sum(
        width / 4**stage * (1 + layers)
        for stage, (width, layers) in enumerate(zip(channels, depth, strict=True))
    )


def plan_memory(free: int, setting: Checkpointing, needed: Callable[[Level], int]) -> MemoryPlan:
    """Choose the least checkpointing that fits.

    Args:
        free: bytes that the step may use.
        setting: "on" and "off" leave no choice.
        needed: bytes of activations at a level.
    """
    if setting != "auto":
        level = LEVELS[0] if setting == "off" else LEVELS[1]
        return MemoryPlan(level, needed(level), free, True)
    fitting = [level for level in LEVELS if needed(level) + _WORKSPACE <= _USABLE * free]
    level = fitting[0] if fitting else LEVELS[-1]
    return MemoryPlan(level, needed(level), free, False)


def bytes_needed(
    config: TrainConfig, dataset: TrainingSet, unet_config: Any, bytes_per_value: int
) -> Callable[[Level], int]:
    """Of the largest batch of a run, by level: `activation_bytes`, and `text_bytes` where the text learns."""
    batches = [(min(config.batch_size, n), *bucket) for bucket, n in dataset.samples_by_bucket.items()]
    largest = max(batches, key=math.prod)
    captions = [caption for picture in dataset.pictures for caption in picture.captions]

    def needed(level: Level) -> int:
        own = text_bytes(level, captions, largest[0], unet_config) if text_end_step(config) else 0
        return own + activation_bytes(level, config.lora, largest, unet_config, bytes_per_value)

    return needed


def bytes_to_ask_for(config: TrainConfig, dataset: TrainingSet, device: torch.device) -> int:
    """What a host should free beside the UNet before it is opened; SDXL's size is assumed for it."""
    precision = config.run.precision
    is_float32 = precision == "fp32" or (precision == "auto" and device.type == "cpu")
    bytes_per_value = 4 if is_float32 else 2
    room = max(0, total_bytes(device) - _SDXL_PARAMETERS * bytes_per_value)
    needed = bytes_needed(config, dataset, None, bytes_per_value)
    return plan_memory(room, config.run.gradient_checkpointing, needed).needed


def free_bytes(device: torch.device) -> int:
    """Memory that new tensors on this device can have."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return min(psutil.virtual_memory().available, _container_free())


def total_bytes(device: torch.device) -> int:
    """The size of the device's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return psutil.virtual_memory().total


def _container_free() -> int:
    """What is left of a container's own limit (Linux, cgroup v2); very much where there is none."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        cache = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        # Files in the page cache count as used, but make room when asked.
        return 2**62 if limit == "max" else int(limit) - used + int(cache.get("inactive_file", 0))
    except (OSError, ValueError):
        return 2**62


def empty_cache(device: torch.device) -> None:
    """Give the allocator's unused blocks back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def checkpoint_modules(unet: nn.Module, level: Level) -> None:
    """Let the modules of a level compute their inner values again in the backward pass.

    May be called again with a stronger level. It sets `forward` on the instances, so the UNet must be a
    private view; diffusers' own switch needs `train()` in old versions and checkpoints all or nothing.
    """
    for module in unet.modules():
        if type(module).__name__ in level.modules and "forward" not in vars(module):
            module.forward = _recomputed(module.forward)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        # No random state is kept: there is no dropout in SDXL, and reading it waits for the device.
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.0f} MiB"
