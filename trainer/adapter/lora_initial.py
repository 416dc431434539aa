"""Start from a LoRA that was trained before."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..files.lora_file import LoRAFile
from ..files.lora_layout import family_problem, layout_problem
from ..files.lora_names import UNET_PREFIX, to_kohya_names
from .adapter_parts import STARTS_AT_ZERO, kind_of, rank_of
from .lora import Adapter

_RANK_AXES = {
    "lora_down": 0,
    "lora_up": 1,
    "hada_w1_a": 1,
    "hada_w1_b": 0,
    "hada_w2_a": 1,
    "hada_w2_b": 0,
    "lokr_w2_a": 1,
    "lokr_w2_b": 0,
}
_ZERO_IN_NEW_RANKS = (*STARTS_AT_ZERO, "hada_w1_a")
"""With these empty, new ranks add nothing: a LoHa's two products may have no common term."""
_NUM_NAMED = 3


@torch.no_grad()
def load_initial(adapter: Adapter, lora: LoRAFile | Mapping[str, Tensor], name: str) -> list[str]:
    """Let a fresh adapter start where a file left off: the weights' change is the file's, exactly.

    A smaller rank is filled up with fresh ranks that add nothing yet; another alpha is multiplied in. Layers
    that the file lacks start fresh.

    Args:
        adapter: as `attach_adapter` gives it.
        lora: in kohya's or LyCORIS' layout.
        name: of the file, for messages.

    Returns:
        Notes for the report.

    Raises:
        InputError: the file is damaged, of another kind or larger rank, or has layers that do not learn here.
    """
    lora = lora if isinstance(lora, LoRAFile) else LoRAFile(dict(lora), {})
    problem = family_problem(lora.tensors) or layout_problem(lora.tensors)
    if problem:
        raise InputError(f"initial LoRA: {name} {problem}")
    in_unet = {key: parts for key, parts in lora.parts.items() if key.startswith(UNET_PREFIX)}
    layers_per_block = adapter.unet.config["layers_per_block"]
    paths = {kohya: path for path, kohya in to_kohya_names(adapter.paths, layers_per_block).items()}
    _require_kind(adapter, in_unet, name)
    _require_layers(in_unet, paths, name)
    state = adapter.state_dict()
    for key, parts in in_unet.items():
        path = paths[key]
        fresh = {part: state[f"{path}.{part}"] for part in adapter.layers[path].parts}
        filled = _filled(parts, fresh, lora.scale_of(key), adapter.config.scale)
        if isinstance(filled, str):
            raise InputError(f"initial LoRA: {name} does not fit at {key}: {filled}")
        state |= {f"{path}.{part}": tensor for part, tensor in filled.items()}
    adapter.load_state_dict(state)
    return _notes(lora, in_unet, adapter, name)


def _require_kind(adapter: Adapter, layers: Mapping[str, Mapping[str, Tensor]], name: str) -> None:
    kinds = {kind_of(parts) for parts in layers.values()}
    if kinds - {adapter.config.adapter}:
        raise InputError(
            f"initial LoRA: {name} is of kind {', '.join(sorted(kinds))}, but adapter is "
            f"{adapter.config.adapter}: set adapter to the kind of the file"
        )


def _require_layers(names: Mapping[str, object], paths: Mapping[str, str], name: str) -> None:
    if not names:
        raise InputError(f"initial LoRA: {name} holds no layer of the UNet, which is what is trained")
    odd = [key for key in names if key not in paths]
    if odd:
        raise InputError(
            f"initial LoRA: {name} has {len(odd)} layers that are not trained here ({_named(odd)}): choose "
            "targets, blocks and block_ranks that contain them, and the model family it was trained on"
        )


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_NUM_NAMED]) + (", ..." if len(names) > _NUM_NAMED else "")


def _filled(
    parts: Mapping[str, Tensor], fresh: Mapping[str, Tensor], scale: float, own_scale: float
) -> dict[str, Tensor] | str:
    """The file's parts in the sizes of the adapter's, or what does not fit."""
    if set(parts) != set(fresh):
        return f"it has {', '.join(parts)}, but these settings make {', '.join(fresh)}: check rank"
    if rank_of(parts) > rank_of(fresh):
        return f"its rank {rank_of(parts)} is larger than {rank_of(fresh)}: set rank (or block_ranks) to it"
    filled = {}
    for part, own in fresh.items():
        values = parts[part].to(torch.float32)
        room, axis = own.clone(), _RANK_AXES.get(part)
        if part in _ZERO_IN_NEW_RANKS:
            room.zero_()
        if axis is not None:
            room = room.movedim(axis, 0)
            values = values.movedim(axis, 0)
            target = room[: len(values)]
        else:
            target = room
        if target.shape != values.shape:
            hint = ": check lokr_factor" if part.startswith("lokr") else ""
            return f"{part} is {tuple(parts[part].shape)}, but must be {tuple(own.shape)}{hint}"
        # a whole lokr update has no scale, in the file as here
        is_scaled = part in STARTS_AT_ZERO and part != "lokr_w2"
        target.copy_(values * (scale / own_scale) if is_scaled else values)
        filled[part] = room if axis is None else room.movedim(0, axis)
    return filled


def _notes(lora: LoRAFile, used: Mapping[str, object], adapter: Adapter, name: str) -> list[str]:
    notes = [f"started from {name}: {len(used)} layers"]
    fresh, elsewhere = len(adapter.layers) - len(used), len(lora.names) - len(used)
    if fresh:
        notes.append(f"{fresh} layers that {name} does not have started fresh")
    if elsewhere:
        notes.append(f"{elsewhere} layers of {name} outside the UNet were left out: only the UNet is trained")
    return notes
