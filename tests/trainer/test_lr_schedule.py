import pytest
import torch
from diffusers import optimization
from sdxl_trainer.trainer.config import OptimizerConfig
from sdxl_trainer.trainer.lr_schedule import learning_rate_at, num_warmup_steps

NUM_STEPS = 200


def theirs(build, **settings):
    """The rates of a run by one of diffusers' schedulers, peak rate 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build(optimizer, **settings)
    rates = []
    for _ in range(NUM_STEPS):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def ours(schedule, warmup_steps=0, num_steps=NUM_STEPS):
    config = OptimizerConfig(learning_rate=1e-2, lr_schedule=schedule, warmup_steps=warmup_steps)
    return [learning_rate_at(step, num_steps, config) * 100 for step in range(num_steps)]


@pytest.mark.parametrize("warmup_steps", [1, 7, 50])
def test_cosine_after_the_warm_up_is_diffusers(warmup_steps):
    expected = theirs(
        optimization.get_cosine_schedule_with_warmup,
        num_warmup_steps=warmup_steps,
        num_training_steps=NUM_STEPS,
    )
    assert ours("cosine", warmup_steps)[warmup_steps:] == pytest.approx(expected[warmup_steps:])


@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup", "cosine"])
def test_warm_up_is_diffusers_without_its_first_step_at_rate_zero(schedule):
    expected = theirs(optimization.get_constant_schedule_with_warmup, num_warmup_steps=8)
    assert ours(schedule, 7)[:7] == pytest.approx(expected[1:8])
    if schedule != "cosine":
        assert ours(schedule, 7)[7:] == pytest.approx([1.0] * (NUM_STEPS - 7))


def test_zero_warm_up_steps_mean_five_percent_where_the_schedule_warms_up():
    assert ours("constant") == pytest.approx([1.0] * NUM_STEPS)
    assert ours("constant_with_warmup") == pytest.approx(ours("constant_with_warmup", 10))
    assert ours("cosine") == pytest.approx(ours("cosine", 10))
    assert num_warmup_steps(NUM_STEPS, OptimizerConfig(lr_schedule="constant")) == 0


@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup", "cosine"])
@pytest.mark.parametrize(("num_steps", "warmup_steps"), [(1, 0), (1, 100), (3, 100), (10, 0), (200, 0)])
def test_no_step_is_wasted_on_rate_zero(schedule, num_steps, warmup_steps):
    rates = ours(schedule, warmup_steps, num_steps)
    assert all(0 < rate <= 1 for rate in rates)
