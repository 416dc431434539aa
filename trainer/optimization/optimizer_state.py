"""All that an optimizer must remember in order to go on as if it had never stopped: tensors and numbers.

Not through `Optimizer.state_dict`: its loading casts every tensor to the weight's type (Prodigy plus
schedule-free keeps some in bfloat16), and it carries the settings over, which belong to the run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Group = dict[str, Any]
GROUP = "group"
NO_COUNTERS = ("params", "lr")
"""Entries of a group that are no memory of it: the rate is set anew each step."""


def group_defaults(optimizer: Optimizer) -> list[Group]:
    """The groups' settings and counters at the start, to tell later what has moved."""
    return [
        {k: v for k, v in group.items() if k not in NO_COUNTERS and not isinstance(v, Tensor)}
        for group in optimizer.param_groups
    ]


def optimizer_state(
    optimizer: Optimizer, names: Mapping[nn.Parameter, str], defaults: Sequence[Group]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The memory of an optimizer.

    Args:
        optimizer: of any kind whose state is tensors and plain values by parameter.
        names: of its parameters, without "/".
        defaults: from `group_defaults`, when it was new.

    Returns:
        Tensors on the CPU by "<name>/<key>" and "group/<number>/<key>", and JSON values: those of each
        parameter, and of each group those that are no longer what they were.
    """
    tensors: dict[str, Tensor] = {}
    figures: dict[str, Any] = {"weights": {}, "groups": []}
    for parameter, name in names.items():
        values = optimizer.state.get(parameter, {})
        tensors |= {f"{name}/{k}": _saved(v) for k, v in values.items() if isinstance(v, Tensor)}
        plain = {k: v for k, v in values.items() if not isinstance(v, Tensor)}
        if plain:
            figures["weights"][name] = plain
    for number, (group, old) in enumerate(zip(optimizer.param_groups, defaults, strict=True)):
        known = {k: v for k, v in group.items() if k not in NO_COUNTERS}
        tensors |= {f"{GROUP}/{number}/{k}": _saved(v) for k, v in known.items() if isinstance(v, Tensor)}
        figures["groups"].append(
            {k: v for k, v in known.items() if not isinstance(v, Tensor) and (k not in old or old[k] != v)}
        )
    return tensors, figures


def load_optimizer_state(
    optimizer: Optimizer,
    names: Mapping[nn.Parameter, str],
    tensors: Mapping[str, Tensor],
    figures: Mapping[str, Any],
) -> None:
    """The inverse of `optimizer_state`, for a new optimizer of the same kind and groups.

    Raises:
        ValueError: it is the memory of other weights or groups.
    """
    parameters = {name: parameter for parameter, name in names.items()}
    groups = optimizer.param_groups
    owners = {p: group for group in groups for p in group["params"]}
    states: dict[str, dict[str, Any]] = {name: _tuples(plain) for name, plain in figures["weights"].items()}
    group_tensors: list[Group] = [{} for _ in groups]
    for key, value in tensors.items():
        owner, _, entry = key.rpartition("/")
        if owner.startswith(f"{GROUP}/"):
            number = int(owner.removeprefix(f"{GROUP}/"))
            if number < len(groups):
                group_tensors[number][entry] = value.to(groups[number]["params"][0].device, copy=True)
        else:
            states.setdefault(owner, {})[entry] = value
    unknown = sorted(set(states) - set(parameters))
    if unknown or len(figures["groups"]) != len(groups):
        raise ValueError(
            f"the optimizer's state has {len(figures['groups'])} groups and unknown weights {unknown[:3]}, "
            f"but there are {len(groups)} groups over {len(parameters)} weights"
        )
    for name, values in states.items():
        parameter = parameters[name]
        device = parameter.device
        optimizer.state[parameter] = {
            k: v.to(_place(k, owners[parameter], device), copy=True) if isinstance(v, Tensor) else v
            for k, v in values.items()
        }
    for group, plain, moved in zip(groups, figures["groups"], group_tensors, strict=True):
        group.update(_tuples(plain) | moved)


def _saved(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()


def _place(key: str, group: Group, device: torch.device) -> torch.device:
    """Torch keeps its step counters on the CPU, but for a fused kernel beside the weights."""
    return torch.device("cpu") if key == "step" and not group.get("fused") else device


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON makes lists of tuples, and no optimizer keeps lists."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
