"""The optimizer of a run, and the step that a gradient which is not finite leaves out."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from .config import OptimizerConfig

FUSED_DEVICES = ("cpu", "cuda", "xpu", "mps", "hpu")
"""Where torch's AdamW updates all weights in one kernel, and skips a step without asking the host."""


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> Optimizer:
    """AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2).

    Its rate is set each step from `lr_schedule.learning_rate_at`, through `set_learning_rate`.

    Args:
        parameters: float32, with their gradients in `.grad`.
        config: learning rate, weight decay, betas and eps are used here.
    """
    parameters = list(parameters)
    on_fused_device = all(p.device.type in FUSED_DEVICES for p in parameters)
    return AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=on_fused_device or None,
    )


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def step_if_finite(optimizer: Optimizer, is_finite: Tensor) -> None:
    """One optimizer step, or none at all: weights, moments and step count stay when `is_finite` is False.

    The fused kernels look at the flag on the device, as they do for `torch.amp.GradScaler`, so that the host
    need not wait; elsewhere the host does.

    Args:
        optimizer: from `build_optimizer`.
        is_finite: scalar bool tensor, on the device of the weights.
    """
    if not optimizer.param_groups[0].get("fused"):
        if bool(is_finite):
            optimizer.step()
        return
    optimizer.grad_scale, optimizer.found_inf = None, is_finite.logical_not().to(torch.float32)
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf
