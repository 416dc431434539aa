"""One frozen layer and what runs in its place: the layer with its update, of whatever kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..config import LoRAConfig
from .adapter_dropout import AdapterMode, LayerDropout, layer_dropout
from .adapter_parts import PARTS, column_norm
from .dora import DoRALayer, run_dora
from .flat_weights import FlatWeights
from .fused_lora import LoRALayer, run_lora
from .weight_space import WeightSpaceLayer, run_untouched, run_weight_space


@dataclass(frozen=True, eq=False)
class AdaptedLayer:
    """A frozen layer and what runs in its place.

    Attributes:
        parts: by part name, in the model's type; views of the flat buffer.
        run: the layer with its update.
        lora: of plain LoRA and DoRA.
    """

    base: nn.Module
    parts: Mapping[str, nn.Parameter]
    run: Callable[[Tensor, LayerDropout | None], Tensor]
    dropout: LayerDropout | None
    mode: AdapterMode
    lora: LoRALayer | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), or (B, I, H, W) -> (B, O, H', W')."""
        if not self.mode.is_on:
            return type(self.base).forward(self.base, x)
        dropout = self.dropout if self.mode.is_training else None
        if dropout is not None and dropout.is_left_out():
            return run_untouched(self.base, x, self.parts)
        return self.run(x, dropout)


def adapt_layer(
    path: str, base: nn.Module, weights: FlatWeights, config: LoRAConfig, mode: AdapterMode
) -> AdaptedLayer:
    """The layer `base` with the parts of its update that `weights` holds under `<path>.<part>`."""
    names = {part: f"{path}.{part}" for part in PARTS if f"{path}.{part}" in weights}
    parts = {part: nn.Parameter(weights.view(weights.compute, name)) for part, name in names.items()}
    gradients = {part: weights.view(weights.compute_gradient, name) for part, name in names.items()}
    dropout = layer_dropout(config, mode, path)
    if "lora_up" not in parts:
        layer = WeightSpaceLayer(base, parts, gradients, config.scale)
        return AdaptedLayer(base, parts, _bound(run_weight_space, layer), dropout, mode)
    lora = LoRALayer(
        base=base,
        down=parts["lora_down"],
        up=parts["lora_up"],
        down_gradient=gradients["lora_down"],
        up_gradient=gradients["lora_up"],
        scale=config.scale,
    )
    if "dora_scale" not in parts:
        return AdaptedLayer(base, parts, _bound(run_lora, lora), dropout, mode, lora)
    dora = DoRALayer(
        lora=lora,
        magnitude=parts["dora_scale"],
        master=weights.view(weights.master, names["dora_scale"]),
        gradient=gradients["dora_scale"],
        square_norm=column_norm(base.weight).square().view(-1),
    )
    return AdaptedLayer(base, parts, _bound(run_dora, dora), dropout, mode, lora)


def _bound(run: Callable[..., Tensor], layer: Any) -> Callable[[Tensor, LayerDropout | None], Tensor]:
    return lambda x, dropout: run(layer, x, dropout)
