"""One LoRA that changes the weights as several do on average."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from .lora_file import LoRAFile
from .lora_layout import ALPHA, SUFFIXES

_DOWN, _UP = SUFFIXES["lora_down"], SUFFIXES["lora_up"]


def average_loras(files: Sequence[LoRAFile], weights: Sequence[float]) -> dict[str, Tensor]:
    """The exact weighted mean of the weights' changes, as one plain LoRA.

    sum_i w_i s_i up_i down_i = [w_1 s_1 up_1, w_2 s_2 up_2, ...] [down_1; down_2; ...]: the matrices side by
    side. The rank of a layer is the sum of theirs, its scale 1. The mean of the matrices themselves would be
    another change: mean(up) mean(down) is not mean(up down). A file without a layer changes nothing there.

    Args:
        files: plain LoRAs, as `read_lora` gives them.
        weights: one for each file, not all 0; they are divided by their sum.

    Returns:
        Tensors in kohya's layout, float32.

    Raises:
        InputError: no file, weights that do not fit, layers of other sizes, or a kind other than plain LoRA:
            the mean of DoRA, LoHa or LoKr updates is none of that kind.
    """
    shares = _shares(files, weights)
    kinds = sorted(set().union(*(file.kinds for file in files)) - {"lora"})
    if kinds:
        raise InputError(
            f"averaging: one of the files is a {kinds[0]}, whose updates have no mean of that kind: average "
            "plain LoRAs, or apply the files one after another at lower strengths"
        )
    tensors = {}
    for name in dict.fromkeys(name for file in files for name in file.names):
        parts = [
            (
                file.tensors[name + _UP].float() * (share * file.scale_of(name)),
                file.tensors[name + _DOWN].float(),
            )
            for file, share in zip(files, shares, strict=True)
            if share and name + _UP in file.tensors
        ]
        if not parts:
            continue
        sizes = {(len(up), *down.shape[1:]) for up, down in parts}
        if len(sizes) > 1:
            raise InputError(
                f"averaging: layer {name} has sizes {', '.join(map(str, sorted(sizes)))}: the files must be "
                "for the same model family"
            )
        tensors[name + _DOWN] = torch.cat([down for _, down in parts])
        tensors[name + _UP] = torch.cat([up for up, _ in parts], dim=1)
        tensors[name + ALPHA] = torch.tensor(float(len(tensors[name + _DOWN])))
    return tensors


def _shares(files: Sequence[LoRAFile], weights: Sequence[float]) -> list[float]:
    if not files:
        raise InputError("averaging: there is no LoRA to average: choose at least one")
    if len(files) != len(weights):
        raise InputError(
            f"averaging: {len(weights)} weights for {len(files)} LoRAs: give one weight for each LoRA"
        )
    total = sum(weights)
    if not torch.tensor(weights).isfinite().all() or total == 0:
        raise InputError(
            f"averaging: the weights {', '.join(f'{w:g}' for w in weights)} must be finite and not sum to 0"
        )
    return [weight / total for weight in weights]
