"""Small weights that an AdapterOptimizer can be stepped on, with gradients that follow from the weights."""

import pytest
import torch
from sdxl_trainer.trainer.adapter.flat_weights import FlatWeights
from sdxl_trainer.trainer.config import OptimizerConfig, ProdigyConfig
from sdxl_trainer.trainer.optimization.optimizer_kinds import KINDS
from sdxl_trainer.trainer.optimization.optimizers import AdapterOptimizer

SHAPES = {
    "large.lora_down": (8, 640),  # 5120 numbers: bitsandbytes keeps 8-bit moments from 4096 on
    "large.lora_up": (48, 8),
    "small.lora_down": (2, 3, 3, 3),
    "small.lora_up": (5, 2, 1, 1),
}
CPU = torch.device("cpu")
FINITE = torch.tensor(True)
KIND_NAMES = list(KINDS)
PLUS = "prodigy_plus_schedule_free"
RATE = {"adafactor": 1e-2, "sgd": 0.1, "prodigy": 1.0, PLUS: 1.0}
SOON = {"d0": 1e-3}
"""A first guess with which Prodigy's estimate moves within a few steps."""


def require_package(kind):
    if KINDS[kind].package:
        pytest.importorskip(KINDS[kind].path.partition(".")[0], reason=f"{KINDS[kind].package} is missing")


def is_up(name):
    return name.endswith("lora_up")


def new_weights(dtype=torch.float32):
    """Down matrices random, up matrices zero, as a run begins."""
    weights = FlatWeights(SHAPES, CPU, dtype)
    generator = torch.Generator().manual_seed(0)
    for name in weights.names:
        if not is_up(name):
            weights.view(weights.master, name).normal_(std=0.1, generator=generator)
    weights.publish()
    return weights


def new_optimizer(weights, kind="adamw", prodigy=None, **settings):
    require_package(kind)
    config = OptimizerConfig(optimizer=kind, **settings)
    return AdapterOptimizer(weights, config, prodigy or ProdigyConfig(), is_up)


def gradient_of(values, number):
    """Of a bowl around a point that moves a little with each step: depends on the weights themselves."""
    noise = torch.randn(values.numel(), generator=torch.Generator().manual_seed(number))
    return values.float().flatten() - 0.5 + 0.1 * noise


def take_step(weights, optimizer, number, rate, is_finite=FINITE):
    weights.zero_gradients()
    gradient = gradient_of(weights.compute, number)
    weights.compute_gradient.copy_(gradient)
    weights.collect_gradients()
    optimizer.step(rate, is_finite)
    weights.publish()


def same_state(one, two):
    tensors, figures = one
    others, other_figures = two
    return (
        tensors.keys() == others.keys()
        and all(torch.equal(tensors[k], others[k]) and tensors[k].dtype == others[k].dtype for k in tensors)
        and figures == other_figures
    )
