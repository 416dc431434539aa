"""Start from a LoRA that was trained before."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..files.embedding_file import WORDS_KEY
from ..files.lora_file import LoRAFile
from ..files.lora_layout import family_problem, layout_problem
from ..files.lora_names import UNET_PREFIX, to_kohya_names
from ..files.text_lora_names import TEXT_PREFIXES, TextEncoderName, encoder_of
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
_TITLES: Mapping[TextEncoderName, str] = {"clip_l": "text encoder CLIP-L", "clip_g": "text encoder CLIP-G"}
_NUM_NAMED = 3


def load_initial(
    adapter: Adapter,
    lora: LoRAFile | Mapping[str, Tensor],
    name: str,
    trained_text: Collection[TextEncoderName] = (),
) -> list[str]:
    """Let the UNet's fresh adapter start where a file left off: the weights' change is the file's, exactly.

    A smaller rank is filled up with fresh ranks that add nothing yet; another alpha is multiplied in. Layers
    that the file lacks start fresh.

    Args:
        adapter: as `attach_adapter` gives it.
        lora: in kohya's or LyCORIS' layout.
        name: of the file, for messages.
        trained_text: text encoders with an adapter of their own, for `load_initial_text`.

    Returns:
        Notes for the report, also on what of the file is left out.

    Raises:
        InputError: the file is damaged, of another kind or larger rank, or has layers that do not learn here.
    """
    lora = _checked(lora, name)
    if lora.embeddings and not lora.names:
        raise InputError(
            f"initial LoRA: {name} holds new words and no layers, so there is nothing to start from: put "
            "Apply LoRA in front of the trainer to train on a model that knows them"
        )
    prefixes = (UNET_PREFIX, *(TEXT_PREFIXES[encoder] for encoder in trained_text))
    if not any(key.startswith(prefixes) for key in lora.names):
        raise InputError(f"initial LoRA: {name} holds no layer of the {_trained(trained_text)}")
    layers_per_block = adapter.network.config["layers_per_block"]
    notes = _load(adapter, lora, _Source(name, UNET_PREFIX, layers_per_block, "UNet"))
    return notes + _left_out(lora, prefixes, name, trained_text)


def load_initial_text(adapter: Adapter, lora: LoRAFile | Mapping[str, Tensor], name: str) -> list[str]:
    """As `load_initial`, for one text encoder's adapter, which starts fresh where there is nothing for it.

    Args:
        adapter: as `attach_text_adapter` gives it.
        lora: in kohya's or LyCORIS' layout.
        name: of the file, for messages.
    """
    encoder = encoder_of(adapter.paths[0])
    return _load(adapter, _checked(lora, name), _Source(name, TEXT_PREFIXES[encoder], 0, _TITLES[encoder]))


@dataclass(frozen=True, slots=True)
class _Source:
    """What of a file is read: its name, the layers' prefix, how they are numbered, and the network's name."""

    name: str
    prefix: str
    layers_per_block: int
    network: str

    @property
    def rank_setting(self) -> str:
        return "rank (or block_ranks)" if self.prefix == UNET_PREFIX else "text_encoder_rank"


def _checked(lora: LoRAFile | Mapping[str, Tensor], name: str) -> LoRAFile:
    lora = lora if isinstance(lora, LoRAFile) else LoRAFile(dict(lora), {})
    problem = family_problem(lora.tensors) or layout_problem(lora.tensors)
    if problem:
        raise InputError(f"initial LoRA: {name} {problem}")
    return lora


@torch.no_grad()
def _load(adapter: Adapter, lora: LoRAFile, source: _Source) -> list[str]:
    found = {key: parts for key, parts in lora.parts.items() if key.startswith(source.prefix)}
    if not found:
        return [f"{source.name} has no layer of the {source.network}, which starts fresh"]
    paths = {name: path for path, name in to_kohya_names(adapter.paths, source.layers_per_block).items()}
    _require_kind(adapter, found, source.name)
    _require_layers(found, paths, source)
    state = adapter.state_dict()
    for key, parts in found.items():
        path = paths[key]
        fresh = {part: state[f"{path}.{part}"] for part in adapter.layers[path].parts}
        filled = _filled(parts, fresh, lora.scale_of(key) / adapter.config.scale, source.rank_setting)
        if isinstance(filled, str):
            raise InputError(f"initial LoRA: {source.name} does not fit at {key}: {filled}")
        state |= {f"{path}.{part}": tensor for part, tensor in filled.items()}
    adapter.load_state_dict(state)
    return _notes(found, adapter, source)


def _require_kind(adapter: Adapter, layers: Mapping[str, Mapping[str, Tensor]], name: str) -> None:
    kinds = {kind_of(parts) for parts in layers.values()}
    if kinds - {adapter.config.adapter}:
        raise InputError(
            f"initial LoRA: {name} is of kind {', '.join(sorted(kinds))}, but adapter is "
            f"{adapter.config.adapter}: set adapter to the kind of the file"
        )


def _require_layers(names: Mapping[str, object], paths: Mapping[str, str], source: _Source) -> None:
    odd = [key for key in names if key not in paths]
    if odd:
        choose = "choose targets, blocks and block_ranks that contain them, and the model family"
        raise InputError(
            f"initial LoRA: {source.name} has {len(odd)} layers that are not trained here ({_named(odd)}): "
            f"{choose if source.prefix == UNET_PREFIX else 'use the model family'} it was trained on"
        )


def _trained(text: Collection[TextEncoderName]) -> str:
    names = ["UNet", *(_TITLES[encoder] for encoder in text)]
    if len(names) == 1:
        return "UNet, which is what is trained"
    return f"{', '.join(names[:-1])} or {names[-1]}, which are what is trained"


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_NUM_NAMED]) + (", ..." if len(names) > _NUM_NAMED else "")


def _filled(
    parts: Mapping[str, Tensor], fresh: Mapping[str, Tensor], factor: float, rank_setting: str
) -> dict[str, Tensor] | str:
    """The file's parts in the sizes of the adapter's, or what does not fit."""
    if set(parts) != set(fresh):
        return f"it has {', '.join(parts)}, but these settings make {', '.join(fresh)}: check rank"
    if rank_of(parts) > rank_of(fresh):
        return f"its rank {rank_of(parts)} is larger than {rank_of(fresh)}: set {rank_setting} to it"
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
        target.copy_(values * factor if is_scaled else values)
        filled[part] = room if axis is None else room.movedim(0, axis)
    return filled


def _notes(used: Mapping[str, object], adapter: Adapter, source: _Source) -> list[str]:
    where = "" if source.prefix == UNET_PREFIX else f" of the {source.network}"
    notes = [f"started from {source.name}: {len(used)} layers{where}"]
    fresh = len(adapter.layers) - len(used)
    if fresh:
        notes.append(f"{fresh} layers{where} that {source.name} does not have started fresh")
    return notes


def _left_out(
    lora: LoRAFile, prefixes: tuple[str, ...], name: str, trained_text: Collection[TextEncoderName]
) -> list[str]:
    notes = []
    num_elsewhere = sum(not key.startswith(prefixes) for key in lora.names)
    if num_elsewhere:
        trained = " and ".join(["the UNet", *(f"the {_TITLES[encoder]}" for encoder in trained_text)])
        only = f"only {trained} {'are' if trained_text else 'is'} trained"
        notes.append(f"{num_elsewhere} layers of {name} outside the UNet were left out: {only}")
    if lora.embeddings or WORDS_KEY in lora.metadata:
        notes.append(
            f"the new words that {name} was trained with were left out, captions read them as plain text: to "
            "go on with them, put Apply LoRA in front of the trainer in place of initial_lora"
        )
    return notes
