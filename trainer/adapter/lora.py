"""The adapter on a UNet or a text encoder: how it starts, what it holds, and how it comes off again.

Layers keep their module; only their `forward` is replaced, on the instance. The weights are views of one
flat buffer (`flat_weights.py`); which there are says `adapter_parts.py`, how they multiply `fused_lora.py`,
`dora.py` and `weight_space.py`. Only ever on the run's private view of a network: nothing here may see a
module of the host. Names are diffusers' module paths; those of text encoders as in `text_lora_names.py`.
"""

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from ..config import LoRAConfig
from ..files.text_lora_names import TextEncoderName
from .adapted_layer import AdaptedLayer, adapt_layer
from .adapter_dropout import AdapterMode
from .adapter_layers import TARGET_NAMES, choose_layers
from .adapter_parts import FASTER, PARTS, STARTS_AT_ZERO, column_norm, part_shapes, start_value, updated
from .flat_weights import FlatWeights, Shape
from .fused_lora import LoRAGroup
from .lean_attention import LeanAttention, is_plain
from .text_layers import choose_text_layers, idle_text_layers

__all__ = ["TARGET_NAMES", "AdaptedLayer", "Adapter", "attach_adapter", "attach_text_adapter"]


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA, DoRA, LoHa or LoKr on a network.

    Attributes:
        network: a UNet or a text encoder.
        config: what it was made from; the rank of a text encoder's may be another.
        layers: by module path.
        weights: the flat buffers; names are `<module path>.<part>`, parts as in `adapter_parts.PARTS`.
        mode: whether the layers take part, and their dropout.
        idle: paths of layers that nothing trained depends on, so that they stay as they started.
    """

    network: nn.Module
    config: LoRAConfig
    layers: dict[str, AdaptedLayer]
    weights: FlatWeights
    mode: AdapterMode
    idle: frozenset[str] = frozenset()
    _processors: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def paths(self) -> list[str]:
        """Module paths of the layers with an update."""
        return list(self.layers)

    @property
    def size(self) -> int:
        """How many layers there are."""
        return len(self.layers)

    def state_dict(self) -> dict[str, Tensor]:
        """float32 copies on the CPU, each with its own memory: `<module path>.<part>`."""
        flat = self.weights.snapshot()
        names = [f"{path}.{part}" for path, layer in self.layers.items() for part in layer.parts]
        return {name: self.weights.view(flat, name).clone() for name in names}

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

    def begin_micro_step(self, seed: int, index: int) -> None:
        """Draw the dropout anew, as a function of (seed, index, layer); without dropout nothing changes.

        Call it before the forward passes of one backward pass, not between them: blocks that are computed
        again in the backward pass look up the same two numbers.
        """
        self.mode.seed, self.mode.index = seed, index

    def disabled(self) -> AbstractContextManager[None]:
        """Within it the network answers as without adapter, bit for bit."""
        return self.mode.turned(is_on=False)

    def evaluating(self) -> AbstractContextManager[None]:
        """Within it nothing is dropped."""
        return self.mode.turned(is_training=False)

    def num_still(self) -> int:
        """How many layers' update is still exactly nothing, `idle` ones included. Waits for the device."""
        return sum(self._is_still(path, layer) for path, layer in self.layers.items())

    @torch.no_grad()
    def _is_still(self, path: str, layer: AdaptedLayer) -> bool:
        parts = self._master_parts(path)
        if any(bool(parts[part].any()) for part in STARTS_AT_ZERO if part in parts):
            return False
        magnitude = parts.get("dora_scale")
        return magnitude is None or torch.equal(magnitude, column_norm(layer.base.weight).to(magnitude))

    def is_up(self, name: str) -> bool:
        """Whether LoRA+ gives the weight `name` its higher rate: `lora_up` and its counterparts."""
        return name.endswith(FASTER)

    @torch.no_grad()
    def weight_with_update(self, path: str) -> Tensor:
        """The layer's weight as a merge would make it, float32, from the master weights.

        (O, I) or (O, I, k, k), on the network's device.
        """
        return updated(self.layers[path].base.weight.float(), self._master_parts(path), self.config.scale)

    def _master_parts(self, path: str) -> dict[str, Tensor]:
        names = {part: f"{path}.{part}" for part in self.layers[path].parts}
        return {part: self.weights.view(self.weights.master, name) for part, name in names.items()}

    def detach(self) -> None:
        """Take the adapter off: every module and attribute of the network is what it was before."""
        for layer in self.layers.values():
            vars(layer.base).pop("forward", None)
        for path, processor in self._processors.items():
            self.network.get_submodule(path).set_processor(processor)
        self._processors.clear()


def attach_adapter(unet: UNet2DConditionModel, config: LoRAConfig, seed: int) -> Adapter:
    """Put a fresh adapter on a private UNet view: it changes no output until it is trained.

    Every weight is drawn from (seed, its name) on the CPU in float32, so that a seed gives the same bytes on
    any device.

    Args:
        unet: frozen; the `forward` of its layers is replaced until `Adapter.detach`.
        config: kind, rank, alpha, layers, dropout.
        seed: 0 to 2^64 - 1.

    Raises:
        InputError: the settings leave no layer, or name a block that is not there.
        ValueError: the UNet carries an adapter already, or has a layer this code cannot train beside.
    """
    chosen = {path: (unet.get_submodule(path), rank) for path, rank in choose_layers(unet, config).items()}
    adapter = _attach(unet, chosen, config, seed, unet.dtype)
    adapter._processors.update(_make_attention_lean(unet, adapter.layers, adapter.weights))
    return adapter


def attach_text_adapter(
    encoder: nn.Module, name: TextEncoderName, config: LoRAConfig, rank: int, seed: int, layer: int = -2
) -> Adapter:
    """Put a fresh adapter on a text encoder's private view: on every matrix of every layer, as kohya does.

    The weights are float32 and so is what the encoder computes, whatever type it is stored in
    (`sdxl/half_linear.py`).

    Args:
        encoder: CLIPTextModel or CLIPTextModelWithProjection of transformers, frozen.
        name: which of SDXL's two it is.
        config: kind, scale and dropout; its targets, blocks and rank are the UNet's.
        rank: of every layer.
        seed: 0 to 2^64 - 1.
        layer: which of its hidden states SDXL is given; layers after it are `Adapter.idle` in CLIP-L.

    Raises:
        ValueError: the encoder carries an adapter already, or is none of these.
    """
    chosen = {path: (module, rank) for path, module in choose_text_layers(encoder, name).items()}
    adapter = _attach(encoder, chosen, config, seed, torch.float32)
    return replace(adapter, idle=idle_text_layers(adapter.paths, name, layer))


def _attach(
    network: nn.Module,
    chosen: Mapping[str, tuple[nn.Module, int]],
    config: LoRAConfig,
    seed: int,
    dtype: torch.dtype,
) -> Adapter:
    modules = {path: module for path, (module, _) in chosen.items()}
    if any("forward" in vars(module) for module in modules.values()):
        raise ValueError("the network carries a LoRA already: detach that one first")
    weights = FlatWeights(_shapes(chosen, config), next(iter(modules.values())).weight.device, dtype)
    _start(weights, modules, seed)
    mode = AdapterMode()
    layers = {}
    for path, module in modules.items():
        layers[path] = adapt_layer(path, module, weights, config, mode)
        module.forward = layers[path]
    return Adapter(network, config, layers, weights, mode)


def _shapes(layers: Mapping[str, tuple[nn.Module, int]], config: LoRAConfig) -> dict[str, Shape]:
    """Part by part: all `lora_down` side by side, so that those of to_q, to_k, to_v multiply as one."""
    shapes = {path: part_shapes(config, tuple(m.weight.shape), rank) for path, (m, rank) in layers.items()}
    return {f"{path}.{part}": own[part] for part in PARTS for path, own in shapes.items() if part in own}


@torch.no_grad()
def _start(weights: FlatWeights, modules: Mapping[str, nn.Module], seed: int) -> None:
    for name in weights.names:
        view = weights.view(weights.master, name)
        path, _, part = name.rpartition(".")
        if view.is_meta:
            continue
        if part == "dora_scale":
            view.copy_(column_norm(modules[path].weight))
            continue
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        view.copy_(start_value(part, tuple(view.shape), generator))
    weights.publish()


def _make_attention_lean(
    unet: UNet2DConditionModel, layers: Mapping[str, AdaptedLayer], weights: FlatWeights
) -> dict[str, Any]:
    """Swap the attention processors; returns those that were there, by module path."""
    before = {}
    for path, module in unet.named_modules():
        if not isinstance(module, Attention) or not is_plain(module):
            continue
        before[path] = module.processor
        is_cross = module.is_cross_attention
        names = ("to_k", "to_v") if is_cross else ("to_q", "to_k", "to_v")
        group = _group([f"{path}.{name}" for name in names], layers, weights)
        module.set_processor(LeanAttention(None if is_cross else group, group if is_cross else None))
    return before


def _group(paths: list[str], layers: Mapping[str, AdaptedLayer], weights: FlatWeights) -> LoRAGroup | None:
    """The layers as one; None where they must run one by one: another kind, other ranks, dropout."""
    members = [layers[path] for path in paths if path in layers]
    loras = [m.lora for m in members if m.lora and "dora_scale" not in m.parts and not m.dropout]
    if len(loras) < len(paths) or len({len(lora.down) for lora in loras}) > 1:
        return None
    downs = [f"{path}.lora_down" for path in paths]
    return LoRAGroup(
        layers=tuple(loras),
        down=weights.joined_view(weights.compute, downs),
        down_gradient=weights.joined_view(weights.compute_gradient, downs),
        mode=members[0].mode,
    )
