import pytest
import torch
from sdxl_trainer.trainer.config import OptimizerConfig
from sdxl_trainer.trainer.optimizers import build_optimizer, set_learning_rate, step_if_finite


def trained(config, num_steps=3, gradient=0.5):
    """A weight after some steps, by the optimizer of `config`."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = build_optimizer([weight], config)
    for step in range(num_steps):
        weight.grad = torch.tensor([gradient, -1.0, 1e-3]) * (step + 1)
        optimizer.step()
    return weight.detach(), optimizer


def adamw_by_hand(config, num_steps=3):
    """arXiv 1711.05101, algorithm 2, with the rate multiplied onto the decay as torch does."""
    weight = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, num_steps + 1):
        gradient = torch.tensor([0.5, -1.0, 1e-3], dtype=torch.float64) * step
        mean = config.beta1 * mean + (1 - config.beta1) * gradient
        square = config.beta2 * square + (1 - config.beta2) * gradient**2
        update = (mean / (1 - config.beta1**step)) / ((square / (1 - config.beta2**step)).sqrt() + config.eps)
        weight = weight - config.learning_rate * (config.weight_decay * weight + update)
    return weight


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"learning_rate": 0.5},
        {"weight_decay": 0.9},
        {"beta1": 0.1},
        {"beta2": 0.5},
        {"eps": 1e-2},
    ],
)
def test_every_setting_moves_adamw_as_the_paper_says(changes):
    base = OptimizerConfig(learning_rate=0.1)
    config = OptimizerConfig(**{"learning_rate": 0.1, **changes})
    weight, _ = trained(config)
    assert torch.allclose(weight.double(), adamw_by_hand(config), atol=1e-5)
    if changes:
        assert not torch.allclose(weight, trained(base)[0], atol=1e-6)


def test_the_rate_set_for_a_step_is_the_one_used():
    weight, optimizer = trained(OptimizerConfig(learning_rate=0.1))
    set_learning_rate(optimizer, 0.0)
    before = weight.clone()
    optimizer.step()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_with_a_gradient_that_is_not_finite_moves_nothing(fused, bad):
    def run(with_bad_step):
        weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        optimizer = build_optimizer([weight], OptimizerConfig(learning_rate=0.1))
        optimizer.param_groups[0]["fused"] = fused or None
        gradients = [[1.0, 2.0, 3.0], *([[bad, 1.0, 1.0]] if with_bad_step else []), [0.5, 0.1, -1.0]]
        for gradient in gradients:
            weight.grad = torch.tensor(gradient)
            step_if_finite(optimizer, torch.linalg.vector_norm(weight.grad).isfinite())
        return weight.detach(), optimizer.state[weight]

    weight, state = run(with_bad_step=True)
    expected_weight, expected_state = run(with_bad_step=False)
    assert torch.equal(weight, expected_weight)
    assert all(torch.equal(state[key], expected_state[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_the_first_step_may_be_the_bad_one():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = build_optimizer([weight], OptimizerConfig())
    weight.grad = torch.tensor([float("nan"), 1.0])
    step_if_finite(optimizer, torch.tensor(False))
    assert torch.equal(weight.detach(), torch.ones(2))
    assert not optimizer.state[weight]["exp_avg"].any()
    assert optimizer.state[weight]["step"] == 0


def test_flag_does_not_stay_on_the_optimizer():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = build_optimizer([weight], OptimizerConfig())
    weight.grad = torch.ones(2)
    step_if_finite(optimizer, torch.tensor(False))
    optimizer.step()
    assert not torch.equal(weight.detach(), torch.ones(2))
