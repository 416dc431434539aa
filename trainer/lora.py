"""Which layers of the UNet get a LoRA, how it starts, and how it comes off again.

peft finds the layers and puts its own beside them; their weights are then views of one flat buffer
(`flat_weights.py`) and their forward is the one of `fused_lora.py`. Only ever on the run's private view of
the UNet: nothing here may see a module of the host. Names are diffusers' module paths.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import LoraLayer as PeftLayer
from torch import Tensor, nn

from .config import LoRAConfig, Targets
from .flat_weights import FlatWeights
from .fused_lora import LoRAForward, LoRAGroup, LoRALayer, can_be_fused, kaiming_uniform
from .lean_attention import LeanAttention, is_plain

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

_ADAPTER_NAME = "default"
DOWN, UP = ".lora_down", ".lora_up"


@dataclass(frozen=True)
class Adapter:
    """A LoRA on a UNet.

    Attributes:
        layers: module path -> (lora_down, lora_up) in the model's type: (R, I) and (O, R), or
            (R, I, k, k) and (O, R, 1, 1) for convolutions.
        weights: the flat buffers; names are `<module path>.lora_down` and `<module path>.lora_up`.
        scale: alpha / rank.
    """

    unet: UNet2DConditionModel
    layers: dict[str, tuple[nn.Parameter, nn.Parameter]]
    weights: FlatWeights
    scale: float
    _peft_layers: dict[str, PeftLayer]
    _processors: dict[str, Any]

    def state_dict(self) -> dict[str, Tensor]:
        """float32 copies on the CPU, each with its own memory: `<module path>.lora_down`, `.lora_up`."""
        flat = self.weights.snapshot()
        state = {name: self.weights.view(flat, name).clone() for name in self.weights.names}
        return {key: state[key] for path in self.layers for key in (path + DOWN, path + UP)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`; the layers see the weights at once.

        Raises:
            ValueError: names or shapes are not those of this adapter.
        """
        if set(state) != set(self.weights.names):
            odd = sorted(set(state) ^ set(self.weights.names))
            raise ValueError(f"{len(odd)} weights are not the ones of this LoRA, such as {odd[0]}")
        for name, tensor in state.items():
            view = self.weights.view(self.weights.master, name)
            if view.shape != tensor.shape:
                raise ValueError(f"{name} is {tuple(tensor.shape)}, but must be {tuple(view.shape)}")
            view.copy_(tensor)
        self.weights.publish()

    def detach(self) -> None:
        """Take the LoRA off: the UNet has its own modules again, the same objects as before."""
        for path, peft_layer in self._peft_layers.items():
            parent, _, child = path.rpartition(".")
            setattr(self.unet.get_submodule(parent), child, peft_layer.base_layer)
        for path, processor in self._processors.items():
            self.unet.get_submodule(path).set_processor(processor)
        self._peft_layers.clear()
        self._processors.clear()
        if hasattr(self.unet, "peft_config"):
            del self.unet.peft_config


def attach_lora(unet: UNet2DConditionModel, config: LoRAConfig, seed: int) -> Adapter:
    """Put a fresh LoRA on a private UNet view: it changes no output until it is trained.

    `lora_down` starts as kohya's does, uniform in +-1/sqrt(inputs), drawn from (seed, layer name) on the CPU
    in float32, so that a seed gives the same bytes on any device; `lora_up` starts at 0.

    Args:
        unet: frozen; its modules are replaced until `Adapter.detach`.
        config: rank, alpha, targets.
        seed: 0 to 2^64 - 1.

    Raises:
        ValueError: the UNet carries a LoRA already, or has a layer this code cannot train beside.
    """
    if hasattr(unet, "peft_config"):
        raise ValueError("the UNet carries a LoRA already: detach that one first")
    device, dtype = unet.device, unet.dtype
    peft_layers = _inject(unet, config)
    weights = FlatWeights(_shapes(peft_layers), device, dtype)
    _draw(weights, seed)
    scale = config.effective_alpha / config.rank
    fused = {path: _fuse(path, layer, weights, scale) for path, layer in peft_layers.items()}
    return Adapter(
        unet=unet,
        layers={path: (layer.down, layer.up) for path, layer in fused.items()},
        weights=weights,
        scale=scale,
        _peft_layers=peft_layers,
        _processors=_make_attention_lean(unet, fused, weights),
    )


def _inject(unet: UNet2DConditionModel, config: LoRAConfig) -> dict[str, PeftLayer]:
    peft_config = LoraConfig(
        r=config.rank,
        lora_alpha=config.effective_alpha,
        target_modules=list(TARGET_NAMES[config.targets]),
        lora_dropout=0.0,
        bias="none",
    )
    # low_cpu_mem_usage leaves peft's own weights undrawn: no global random numbers used, no memory taken
    inject_adapter_in_model(peft_config, unet, _ADAPTER_NAME, low_cpu_mem_usage=True)
    layers = {path: module for path, module in unet.named_modules() if isinstance(module, PeftLayer)}
    odd = [path for path, layer in layers.items() if not can_be_fused(layer.base_layer)]
    if odd:
        raise ValueError(f"{odd[0]} is a {type(layers[odd[0]].base_layer).__name__}, no plain layer")
    return layers


def _shapes(layers: Mapping[str, PeftLayer]) -> dict[str, tuple[int, ...]]:
    """All `lora_down` first: those of to_q, to_k, to_v then lie side by side and multiply as one."""
    downs = {path + DOWN: tuple(x.lora_A[_ADAPTER_NAME].weight.shape) for path, x in layers.items()}
    ups = {path + UP: tuple(x.lora_B[_ADAPTER_NAME].weight.shape) for path, x in layers.items()}
    return downs | ups


@torch.no_grad()
def _draw(weights: FlatWeights, seed: int) -> None:
    for name in weights.names:
        view = weights.view(weights.master, name)
        if name.endswith(DOWN) and not view.is_meta:
            digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
            view.copy_(kaiming_uniform(view.shape, generator))
    weights.publish()


def _fuse(path: str, peft_layer: PeftLayer, weights: FlatWeights, scale: float) -> LoRALayer:
    """Give peft's layer the flat buffer's weights and the fused forward."""
    down = nn.Parameter(weights.view(weights.compute, path + DOWN))
    up = nn.Parameter(weights.view(weights.compute, path + UP))
    peft_layer.lora_A[_ADAPTER_NAME].weight = down
    peft_layer.lora_B[_ADAPTER_NAME].weight = up
    layer = LoRALayer(
        base=peft_layer.base_layer,
        down=down,
        up=up,
        down_gradient=weights.view(weights.compute_gradient, path + DOWN),
        up_gradient=weights.view(weights.compute_gradient, path + UP),
        scale=scale,
    )
    peft_layer.forward = LoRAForward(layer)
    return layer


def _make_attention_lean(
    unet: UNet2DConditionModel, fused: Mapping[str, LoRALayer], weights: FlatWeights
) -> dict[str, Any]:
    """Swap the attention processors; returns those that were there, by module path."""
    before = {}
    for path, module in unet.named_modules():
        if not isinstance(module, Attention) or not is_plain(module):
            continue
        before[path] = module.processor
        names = ("to_k", "to_v") if module.is_cross_attention else ("to_q", "to_k", "to_v")
        group = _group([f"{path}.{name}" for name in names], fused, weights)
        is_cross = module.is_cross_attention
        module.set_processor(LeanAttention(None if is_cross else group, group if is_cross else None))
    return before


def _group(paths: list[str], fused: Mapping[str, LoRALayer], weights: FlatWeights) -> LoRAGroup:
    downs = [path + DOWN for path in paths]
    return LoRAGroup(
        layers=tuple(fused[path] for path in paths),
        down=weights.joined_view(weights.compute, downs),
        down_gradient=weights.joined_view(weights.compute_gradient, downs),
    )
