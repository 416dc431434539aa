import math

import pytest
import torch
from sdxl_trainer.trainer.adapter.flat_weights import FlatWeights
from sdxl_trainer.trainer.config import OptimizerConfig, ProdigyConfig
from sdxl_trainer.trainer.optimization.optimizers import AdapterOptimizer

from .adapter_steps import (
    KIND_NAMES,
    PLUS,
    RATE,
    SOON,
    gradient_of,
    is_up,
    new_optimizer,
    new_weights,
    require_package,
    same_state,
    take_step,
)


def library_optimizer(kind, parameters):
    """The optimizer as its own documentation would have one write it, with the values expected of us."""
    require_package(kind)
    rate, adam = RATE.get(kind, 1e-3), {"weight_decay": 0.02, "eps": 1e-6}
    prodigy = {**adam, "betas": (0.8, 0.99), "d0": 1e-3, "d_coef": 0.7, "beta3": 0.98}
    prodigy["use_bias_correction"] = False
    if kind == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, betas=(0.8, 0.95), **adam)
    if kind == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, lr=rate, betas=(0.8, 0.95), **adam)
    if kind == "prodigy":
        from prodigyopt import Prodigy

        return Prodigy(parameters, lr=rate, decouple=False, safeguard_warmup=False, **prodigy)
    if kind == PLUS:
        from prodigyplus import ProdigyPlusScheduleFree

        return ProdigyPlusScheduleFree(parameters, lr=rate, split_groups=False, d_limiter=False, **prodigy)
    if kind == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(parameters, lr=rate, weight_decay=0.02, scale_parameter=False, relative_step=False)
    if kind == "lion":
        from lion_pytorch import Lion

        return Lion(parameters, lr=rate, betas=(0.8, 0.95), weight_decay=0.02)
    return torch.optim.SGD(parameters, lr=rate, momentum=0.8, weight_decay=0.02)


def our_settings(kind):
    settings = {"weight_decay": 0.02, "eps": 1e-6, "beta1": 0.8, "beta2": 0.95}
    if kind in ("prodigy", PLUS):
        settings["beta2"] = 0.0  # its usual value, 0.99
    prodigy = ProdigyConfig(
        d0=1e-3, d_coef=0.7, beta3=0.98, use_bias_correction=False, decouple=False, safeguard_warmup=False
    )
    return settings, prodigy


@pytest.mark.parametrize("num_steps", [1, 2, 30])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_steps_are_those_of_the_library_on_plain_weights(kind, num_steps):
    settings, prodigy = our_settings(kind)
    weights = new_weights()
    optimizer = new_optimizer(weights, kind, prodigy, **settings)
    plain = [torch.nn.Parameter(p.detach().clone()) for p in weights.parameters()]
    library = library_optimizer(kind, plain)

    for number in range(num_steps):
        rate = RATE.get(kind, 1e-3) * (1.0 if number % 3 else 0.5)
        gradient = gradient_of(torch.cat([p.detach().flatten() for p in plain]), number)
        for p, part in zip(plain, gradient.split([p.numel() for p in plain]), strict=True):
            p.grad = part.view(p.shape).clone()
        for group in library.param_groups:
            group["lr"] = rate
        library.step()
        take_step(weights, optimizer, number, rate)

    expected = torch.cat([p.detach().flatten() for p in plain])
    tolerance = {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(weights.master, expected, **tolerance)
    assert not torch.allclose(expected, new_weights().master)
    if kind in ("prodigy", PLUS):
        estimate = library.param_groups[0]["d"]
        assert optimizer.rate_factor == pytest.approx(estimate, rel=1e-4)
        assert num_steps < 30 or estimate > 2e-3
    else:
        assert optimizer.rate_factor == 1


@pytest.mark.parametrize("rate", [0.0, 0.25])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_the_rate_given_to_a_step_is_the_one_used(kind, rate):
    moved = {}
    for factor in (1.0, rate):
        weights = new_weights()
        optimizer = new_optimizer(weights, kind, ProdigyConfig(use_bias_correction=False), weight_decay=0.0)
        before = weights.master.clone()
        take_step(weights, optimizer, 0, 1e-2 * factor)
        assert optimizer.groups[0]["lr"] == 1e-2 * factor
        moved[factor] = (weights.master - before).double()
    # schedule-free and d0 = 1e-6: changes of 1e-8 on weights of 0.1 are lost but for the zero ones
    still = new_weights().master != 0
    for values in moved.values():
        values[still] = 0.0
    torch.testing.assert_close(moved[rate], moved[1.0] * rate, rtol=1e-5, atol=1e-12)
    assert moved[1.0].any()


@pytest.mark.parametrize("bad_step", [0, 3])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_step_that_is_not_finite_leaves_everything_as_it_was(kind, bad, bad_step):
    def run(with_bad_step):
        weights = new_weights(torch.bfloat16)
        optimizer = new_optimizer(weights, kind, ProdigyConfig(**SOON))
        for number in range(5):
            if with_bad_step and number == bad_step:
                before = weights.master.clone()
                weights.gradient.fill_(1.0)[-1] = bad
                optimizer.step(0.5, weights.is_finite())
                assert torch.equal(weights.master, before)
            take_step(weights, optimizer, number, 1e-3)
        return weights.master, optimizer.state()

    master, state = run(with_bad_step=True)
    expected, expected_state = run(with_bad_step=False)
    assert torch.equal(master, expected)
    assert same_state(state, expected_state)


@pytest.mark.parametrize(
    ("kind", "lora_plus_ratio"),
    [(kind, ratio) for kind in KIND_NAMES for ratio in (1.0, 4.0) if kind != "prodigy" or ratio == 1.0],
)
def test_no_optimizer_replaces_the_memory_of_a_weight_or_gradient(kind, lora_plus_ratio):
    weights = new_weights()
    optimizer = new_optimizer(weights, kind, lora_plus_ratio=lora_plus_ratio)

    def places():
        parameters = [p for group in optimizer.groups for p in group["params"]]
        return [(p.data_ptr(), p.grad.data_ptr(), tuple(p.shape)) for p in parameters]

    before = places()
    for number in range(3):
        take_step(weights, optimizer, number, 1e-3)
        with optimizer.evaluation():
            assert places() == before
    optimizer.load_state(*optimizer.state())
    assert places() == before
    assert all(0 <= p - weights.master.data_ptr() == g - weights.gradient.data_ptr() for p, g, _ in before)


@pytest.mark.parametrize("ratio", [0.5, 16.0])
@pytest.mark.parametrize("kind", [kind for kind in KIND_NAMES if kind != "prodigy"])
def test_lora_plus_gives_up_matrices_their_own_rate_and_nothing_else(kind, ratio):
    def moved(**settings):
        weights = new_weights()
        optimizer = new_optimizer(
            weights, kind, ProdigyConfig(d0=1e-3, use_bias_correction=False), **settings
        )
        before = weights.master.clone()
        take_step(weights, optimizer, 0, 1e-2)
        change = weights.master - before
        return {name: weights.view(change, name) for name in weights.names}, optimizer.groups

    plain, _ = moved()
    faster, groups = moved(lora_plus_ratio=ratio)
    assert [group["lr"] for group in groups] == [1e-2, 1e-2 * ratio]
    assert [len(group["params"]) for group in groups] == [2, 2]
    for name, change in plain.items():
        expected = change * ratio if is_up(name) else change
        torch.testing.assert_close(faster[name], expected, rtol=1e-4, atol=1e-7)


def test_lora_plus_groups_of_a_shared_prodigy_keep_one_estimate():
    weights = new_weights()
    optimizer = new_optimizer(weights, PLUS, ProdigyConfig(**SOON), lora_plus_ratio=8.0)
    for number in range(30):
        take_step(weights, optimizer, number, 1.0)
    low, high = optimizer.groups
    assert low["d"] == high["d"] > 1e-3
    assert optimizer.rate_factor == low["d"]


@pytest.mark.parametrize("d_coef", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["prodigy", PLUS])
def test_a_prodigy_finds_a_rate_with_every_usual_d_coef(kind, d_coef):
    weights = new_weights()
    optimizer = new_optimizer(weights, kind, ProdigyConfig(d_coef=d_coef))
    for number in range(120):
        take_step(weights, optimizer, number, 1.0)
    assert 1e-4 < optimizer.rate_factor < 1.0


def test_schedule_free_shows_its_mean_and_goes_back_exactly():
    require_package(PLUS)
    weights = new_weights(torch.bfloat16)
    optimizer = new_optimizer(weights, PLUS, ProdigyConfig(**SOON))
    for number in range(30):
        take_step(weights, optimizer, number, 1.0)
    trained, published = weights.master.clone(), weights.compute.clone()
    tensors, _ = optimizer.state()
    with optimizer.evaluation():
        shown = weights.master.clone()
        assert torch.equal(weights.compute, shown.bfloat16())
        with optimizer.evaluation():
            assert torch.equal(weights.master, shown)
    assert torch.equal(weights.master, trained)
    assert torch.equal(weights.compute, published)
    # Defazio et al., arXiv 2405.15682, eq. 2: y = (1 - beta1) z + beta1 x
    z = torch.cat([tensors[f"{name}/z"].flatten() for name in weights.names])
    torch.testing.assert_close(shown, (trained - 0.1 * z) / 0.9, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(shown, trained, atol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KIND_NAMES if kind != PLUS])
def test_for_the_others_evaluation_is_the_weights_themselves(kind):
    weights = new_weights()
    optimizer = new_optimizer(weights, kind)
    take_step(weights, optimizer, 0, 1e-3)
    before = weights.master.clone()
    with optimizer.evaluation():
        assert torch.equal(weights.master, before)


def adamw_by_hand(config, gradients, weight):
    """arXiv 1711.05101, algorithm 2, with the rate multiplied onto the decay as torch does."""
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, gradient in enumerate(gradients, start=1):
        mean = config.beta1 * mean + (1 - config.beta1) * gradient
        square = config.effective_beta2 * square + (1 - config.effective_beta2) * gradient**2
        direction = mean / (1 - config.beta1**step)
        scale = (square / (1 - config.effective_beta2**step)).sqrt() + config.eps
        weight = weight - config.learning_rate * (config.weight_decay * weight + direction / scale)
    return weight


@pytest.mark.parametrize(
    "changes", [{}, {"weight_decay": 0.9}, {"beta1": 0.1}, {"beta2": 0.5}, {"eps": 1e-2}]
)
def test_adamw_is_the_papers(changes):
    config = OptimizerConfig(**{"learning_rate": 0.1, **changes})
    weights = new_weights()
    optimizer = AdapterOptimizer(weights, config, ProdigyConfig(), is_up)
    start, gradients = weights.master.double(), []
    for number in range(3):
        gradients.append(gradient_of(weights.compute, number).double())
        take_step(weights, optimizer, number, config.learning_rate)
    expected = adamw_by_hand(config, gradients, start)
    torch.testing.assert_close(weights.master.double(), expected, rtol=0, atol=1e-5)


def test_fused_flag_does_not_stay_on_the_optimizer():
    weights = new_weights()
    optimizer = new_optimizer(weights)
    before = weights.master.clone()
    take_step(weights, optimizer, 0, 1e-2, torch.tensor(False))
    assert torch.equal(weights.master, before)
    take_step(weights, optimizer, 0, 1e-2)
    assert not torch.equal(weights.master, before)
    assert optimizer.groups[0]["fused"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_leaves_doras_lengths_alone(optimizer):
    """They multiply the frozen weight: faded to 0, they would take the model with them."""
    shapes = {"x.lora_down": (2, 3), "x.lora_up": (3, 2), "x.dora_scale": (1, 3)}
    weights = FlatWeights(shapes, torch.device("cpu"), torch.float32)
    weights.master.fill_(1.0)
    config = OptimizerConfig(optimizer=optimizer, weight_decay=0.5)
    moving = AdapterOptimizer(weights, config, ProdigyConfig(), lambda name: name.endswith("lora_up"))
    for _ in range(3):
        moving.step(0.1, torch.tensor(True))
    assert torch.equal(weights.view(weights.master, "x.dora_scale"), torch.ones(1, 3))
    assert bool((weights.view(weights.master, "x.lora_down") < 1).all())
