"""Which layers of the UNet get an update, and of which rank.

Names are diffusers' module paths. Blocks are named as in the original (sgm) UNet, as people who merge
LoRAs by block and ComfyUI's files know them.
"""

from collections.abc import Collection, Iterable, Mapping

from diffusers import UNet2DConditionModel
from torch import nn

from ..config import Blocks, LoRAConfig, Targets
from ..errors import InputError
from ..files.lora_names import to_sgm_paths
from ..sdxl.half_linear import HalfLinear
from ..settings.lora_config import parse_block_ranks

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
CONVOLUTION = (
    "conv1",
    "conv2",
    "conv_shortcut",
    "time_emb_proj",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
)
TARGET_NAMES: Mapping[Targets, tuple[str, ...]] = {
    "attention": ATTENTION,
    "attention+ff": ATTENTION + FEED_FORWARD,
    "attention+ff+conv": ATTENTION + FEED_FORWARD + CONVOLUTION,
}
"""Endings of module paths: 560, 722 and 788 layers of SDXL; the second is kohya's default set."""

_CONTENT, _STYLE = "up_blocks.0.attentions.0", "up_blocks.0.attentions.1"
BLOCK_PATHS: Mapping[Blocks, tuple[str, ...]] = {
    "all": ("",),
    "content": (_CONTENT,),
    "style": (_STYLE,),
    "style+content": (_CONTENT, _STYLE),
}
"""B-LoRA, arXiv 2403.14572 sec. 4; `BLOCKS` in blora_utils.py of github.com/yardenfren1996/B-LoRA."""


def choose_layers(unet: UNet2DConditionModel, config: LoRAConfig) -> dict[str, int]:
    """Module path -> rank, in the order of the UNet's modules.

    Raises:
        InputError: `block_ranks` names a block without such layers, or no layer is left.
        ValueError: a layer this code cannot train beside.
    """
    endings = tuple(f".{name}" for name in TARGET_NAMES[config.targets])
    modules = {path: module for path, module in unet.named_modules() if f".{path}".endswith(endings)}
    paths = [path for path in modules if _is_within(path, BLOCK_PATHS[config.blocks])]
    ranks = _ranks(paths, config, unet.config["layers_per_block"])
    chosen = {path: rank for path, rank in ranks.items() if rank}
    if not chosen:
        raise InputError(
            f"no layer is left to train: targets {config.targets}, blocks {config.blocks} and block_ranks "
            f"'{config.block_ranks}' leave none of the UNet's {len(modules)}: switch one of them back on"
        )
    for path in chosen:
        if not can_be_trained(modules[path]):
            raise ValueError(f"{path} is a {type(modules[path]).__name__}, no plain layer")
    return chosen


def _is_within(path: str, prefixes: Iterable[str]) -> bool:
    return any(not prefix or path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)


def _ranks(paths: Collection[str], config: LoRAConfig, layers_per_block: int) -> dict[str, int]:
    """The longest prefix of a layer's sgm path that `block_ranks` names decides."""
    asked = parse_block_ranks(config.block_ranks)
    places = to_sgm_paths(paths, layers_per_block)
    ranks = {}
    unused = set(asked)
    for path, place in places.items():
        fitting = [prefix for prefix in asked if _is_within(place, (prefix,))]
        ranks[path] = asked[max(fitting, key=len)] if fitting else config.rank
        unused -= set(fitting)
    if unused:
        there = ", ".join(_blocks(places.values()))
        raise InputError(
            f"block_ranks names {', '.join(sorted(unused))}, where no layer is trained: with targets "
            f"{config.targets} and blocks {config.blocks} there are {there}"
        )
    return ranks


def _blocks(places: Iterable[str]) -> list[str]:
    """Such as `input_blocks.4` of `input_blocks.4.1.proj_in`, each once."""
    return list(dict.fromkeys(".".join(place.split(".")[:2]) for place in places))


def can_be_trained(layer: nn.Module) -> bool:
    """True for plain linear layers and ungrouped, zero-padded convolutions: all that SDXL has.

    A linear layer may store its matrix in another type than it computes in, as `sdxl/half_linear.py` does.
    """
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) in (nn.Linear, HalfLinear)
