"""Which library's optimizer each name stands for, and which of our settings it gets."""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..config import OptimizerConfig, ProdigyConfig, TrainConfig
from ..errors import InputError

Arguments = Callable[[OptimizerConfig, ProdigyConfig], dict[str, Any]]

FUSED_DEVICES = ("cpu", "cuda", "xpu", "mps", "hpu")
"""Where torch's AdamW updates all weights in one kernel, and skips a step without asking the host."""

ADAFACTOR_EPS = (1e-15, 1.0)
"""The second switches off the factor max(eps, RMS of the weight), which is 0.001 for an up matrix that starts
at zero: the rate is then the rate, as in the usual `scale_parameter=False, relative_step=False`. The first is
the square root of the 1e-30 of the paper (arXiv 1804.04235, algorithm 4), because torch squares it."""

EIGHT_BIT_TRIAL_SIZE = 4096
"""Numbers in the smallest weight that bitsandbytes keeps 8-bit moments of."""


@dataclass(frozen=True)
class OptimizerKind:
    """One kept library's optimizer.

    `package` is its name on PyPI, empty for torch itself. An element-wise one gives the same result over one
    flat buffer as over many weights, in fewer operations. `bytes_per_weight` is an upper bound for the
    moments: 8-bit AdamW keeps those of small weights in float32, and factored ones save little at rank 1.
    """

    path: str
    arguments: Arguments
    bytes_per_weight: int
    package: str = ""
    is_elementwise: bool = False


def _adam(config: OptimizerConfig, prodigy: ProdigyConfig) -> dict[str, Any]:
    return {
        "weight_decay": config.weight_decay,
        "betas": (config.beta1, config.effective_beta2),
        "eps": config.eps,
    }


def _adafactor(config: OptimizerConfig, prodigy: ProdigyConfig) -> dict[str, Any]:
    return {"weight_decay": config.weight_decay, "eps": ADAFACTOR_EPS}


def _lion(config: OptimizerConfig, prodigy: ProdigyConfig) -> dict[str, Any]:
    return {"weight_decay": config.weight_decay, "betas": (config.beta1, config.effective_beta2)}


def _sgd(config: OptimizerConfig, prodigy: ProdigyConfig) -> dict[str, Any]:
    return {"weight_decay": config.weight_decay, "momentum": config.beta1}


def _adaptive(config: OptimizerConfig, prodigy: ProdigyConfig) -> dict[str, Any]:
    return {
        **_adam(config, prodigy),
        "beta3": prodigy.beta3 or None,
        "d0": prodigy.d0,
        "d_coef": prodigy.d_coef,
        "use_bias_correction": prodigy.use_bias_correction,
    }


def _prodigy(config: OptimizerConfig, prodigy: ProdigyConfig) -> dict[str, Any]:
    return {
        **_adaptive(config, prodigy),
        "decouple": prodigy.decouple,
        "safeguard_warmup": prodigy.safeguard_warmup,
    }


def _prodigy_plus(config: OptimizerConfig, prodigy: ProdigyConfig) -> dict[str, Any]:
    return {
        **_adaptive(config, prodigy),
        # The library multiplies d by at most 2^0.25 * d_coef each step: below 0.84 it would never grow.
        "d_limiter": prodigy.d_coef >= 1,
        # One d for all: LoRA+ asks for a fixed ratio of the rates, which a d of each group would undo.
        "split_groups": False,
    }


KINDS: Mapping[str, OptimizerKind] = {
    "adamw": OptimizerKind("torch.optim.adamw.AdamW", _adam, 8, is_elementwise=True),
    "adamw8bit": OptimizerKind("bitsandbytes.optim.adamw.AdamW8bit", _adam, 8, "bitsandbytes"),
    "prodigy": OptimizerKind("prodigyopt.prodigy.Prodigy", _prodigy, 16, "prodigyopt", is_elementwise=True),
    "prodigy_plus_schedule_free": OptimizerKind(
        "prodigyplus.prodigy_plus_schedulefree.ProdigyPlusScheduleFree",
        _prodigy_plus,
        9,
        "prodigy-plus-schedule-free",
    ),
    "adafactor": OptimizerKind("torch.optim.Adafactor", _adafactor, 8),
    "lion": OptimizerKind("lion_pytorch.lion_pytorch.Lion", _lion, 4, "lion-pytorch", is_elementwise=True),
    "sgd": OptimizerKind("torch.optim.sgd.SGD", _sgd, 4, is_elementwise=True),
}
PRODIGY_KINDS = ("prodigy", "prodigy_plus_schedule_free")


def build_optimizer(
    parameters: Iterable[nn.Parameter] | Sequence[dict[str, Any]],
    config: OptimizerConfig,
    prodigy: ProdigyConfig | None = None,
) -> Optimizer:
    """The optimizer that `config` names, over parameters or groups of them.

    AdamW: decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2). Prodigy: Mishchenko
    and Defazio, arXiv 2306.06101. Prodigy plus schedule-free: with Defazio et al., arXiv 2405.15682.
    Adafactor: Shazeer and Stern, arXiv 1804.04235, with a rate given from outside. Lion: Chen et al.,
    arXiv 2302.06675. SGD: with momentum, its weight decay part of the gradient.

    Args:
        parameters: float32, with their gradients in `.grad`; or torch's groups, `{"params": [...], ...}`.
        config: of the optimizer.
        prodigy: where `config` names a Prodigy; None = recommended values.

    Raises:
        InputError: its package is missing, or does not run on the device of the parameters.
    """
    entries = list(parameters)
    groups = entries if entries and isinstance(entries[0], dict) else [{"params": entries}]
    devices = {p.device for group in groups for p in group["params"]}
    kind = KINDS[config.optimizer]
    for device in devices:
        require_optimizer(config.optimizer, device)
    arguments = kind.arguments(config, prodigy or ProdigyConfig())
    # Prodigy prints a line about its weight decay, but only for the one given to all groups.
    weight_decay = arguments.pop("weight_decay")
    groups = [{"weight_decay": weight_decay, **group} for group in groups]
    if config.optimizer == "adamw":
        arguments["fused"] = all(device.type in FUSED_DEVICES for device in devices) or None
    return _optimizer_class(config.optimizer)(groups, lr=config.effective_learning_rate, **arguments)


def require_optimizer(name: str, device: torch.device) -> None:
    """Check that the optimizer's package is there and runs on a device.

    Raises:
        InputError: it does not; says what to install, or to choose instead.
    """
    optimizer_class = _optimizer_class(name)
    if name != "adamw8bit":
        return
    try:
        trial = nn.Parameter(torch.zeros(EIGHT_BIT_TRIAL_SIZE, device=device))
        trial.grad = torch.zeros_like(trial)
        optimizer_class([trial]).step()
    except (NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"optimizer 'adamw8bit': the installed bitsandbytes cannot run it on the device '{device.type}': "
            "update bitsandbytes, or choose adamw, or adafactor, whose moments are small too"
        ) from error


def _optimizer_class(name: str) -> type[Optimizer]:
    kind = KINDS[name]
    module, _, class_name = kind.path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), class_name)
    except ImportError as error:
        raise InputError(
            f"optimizer '{name}' needs the package {kind.package}, which cannot be imported ({error}): "
            f"install it with 'pip install {kind.package}' into the Python of this program, or choose adamw"
        ) from error


def optimizer_description(config: TrainConfig) -> str:
    """The optimizer and its arguments as kohya writes them into `ss_optimizer`; imports no package."""
    kind = KINDS[config.optimizer.optimizer]
    arguments = kind.arguments(config.optimizer, config.prodigy)
    return f"{kind.path}({','.join(f'{name}={value}' for name, value in arguments.items())})"
