import pytest
import torch
from diffusers.optimization import get_scheduler
from sdxl_trainer.trainer.config import OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig
from sdxl_trainer.trainer.optimization.lr_schedule import (
    learning_rate_at,
    num_warmup_steps,
    peak_learning_rate,
)

NUM_STEPS = 200
PEAK = 1e-2
SCHEDULES = ["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]


def theirs(schedule, warmup_steps=0, num_cycles=1, power=1.0):
    """The rates of a run by diffusers' scheduler of that name."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = get_scheduler(
        schedule,
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=NUM_STEPS,
        num_cycles=num_cycles,
        power=power,
    )
    rates = []
    for _ in range(NUM_STEPS):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def a_config(schedule, warmup_steps=0, num_steps=NUM_STEPS, **settings):
    optimizer = OptimizerConfig(learning_rate=PEAK, lr_schedule=schedule, warmup_steps=warmup_steps)
    return TrainConfig(name="run", steps=num_steps, optimizer=optimizer, schedule=ScheduleConfig(**settings))


def ours(schedule, warmup_steps=0, num_steps=NUM_STEPS, **settings):
    config = a_config(schedule, warmup_steps, num_steps, **settings)
    return [learning_rate_at(step, num_steps, config) for step in range(num_steps)]


@pytest.mark.parametrize("warmup_steps", [1, 7, 50])
@pytest.mark.parametrize(
    ("schedule", "settings"),
    [
        ("constant_with_warmup", {}),
        ("linear", {}),
        ("cosine", {}),
        ("cosine_with_restarts", {"num_cycles": 1}),
        ("cosine_with_restarts", {"num_cycles": 3}),
        ("polynomial", {"power": 1.0}),
        ("polynomial", {"power": 2.0}),
        ("polynomial", {"power": 0.5}),
    ],
)
def test_after_the_warm_up_the_rates_are_diffusers(schedule, settings, warmup_steps):
    expected = theirs(schedule, warmup_steps, **settings)
    rates = ours(schedule, warmup_steps, **settings)
    assert rates[warmup_steps:] == pytest.approx(expected[warmup_steps:], rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warm_up_is_diffusers_without_its_first_step_at_rate_zero(schedule):
    expected = theirs("constant_with_warmup", 8)
    assert ours(schedule, 7)[:7] == pytest.approx(expected[1:8])


@pytest.mark.parametrize("warmup_steps", [0, 7])
def test_constant_is_constant_and_warms_up_only_when_asked(warmup_steps):
    assert ours("constant", warmup_steps)[warmup_steps:] == pytest.approx([PEAK] * (NUM_STEPS - warmup_steps))
    assert num_warmup_steps(NUM_STEPS, a_config("constant", warmup_steps, warmup_share=0.5)) == warmup_steps


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "constant"])
def test_zero_warm_up_steps_mean_a_share_of_the_run(schedule):
    assert ours(schedule) == ours(schedule, 10)
    assert ours(schedule, warmup_share=0.25) == ours(schedule, 50)
    assert ours(schedule, warmup_share=0.0)[0] == pytest.approx(PEAK)
    assert ours(schedule, 10, warmup_share=0.25) == ours(schedule, 10)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("setting", "value"), [("num_cycles", 4), ("power", 2.0)])
def test_cycles_and_power_shape_only_their_own_schedule(schedule, setting, value):
    changes = ours(schedule, **{setting: value}) != ours(schedule)
    owner = {"num_cycles": "cosine_with_restarts", "power": "polynomial"}[setting]
    assert changes == (schedule == owner)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("num_steps", "warmup_steps"), [(1, 0), (1, 100), (3, 100), (10, 0), (200, 0)])
def test_no_step_is_wasted_on_rate_zero(schedule, num_steps, warmup_steps):
    assert all(0 < rate <= PEAK for rate in ours(schedule, warmup_steps, num_steps, num_cycles=3))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_scale_lr_multiplies_by_batch_and_accumulation(schedule):
    settings = {"learning_rate": PEAK, "lr_schedule": schedule}
    plain = TrainConfig(name="run", steps=NUM_STEPS, optimizer=OptimizerConfig(**settings))
    scaled = TrainConfig(
        name="run",
        steps=NUM_STEPS,
        batch_size=3,
        optimizer=OptimizerConfig(**settings, scale_lr=True),
        run=RunConfig(gradient_accumulation=2),
    )
    for step in (0, 5, 50, 150):
        rates = [learning_rate_at(step, NUM_STEPS, config) for config in (scaled, plain)]
        assert rates[0] == pytest.approx(6 * rates[1], rel=1e-4)  # polynomial's end is not scaled
    assert peak_learning_rate(plain) == PEAK


def test_rate_zero_means_the_usual_for_the_optimizer():
    rates = {
        name: peak_learning_rate(TrainConfig(name="run", steps=9, optimizer=OptimizerConfig(optimizer=name)))
        for name in ("adamw", "prodigy", "prodigy_plus_schedule_free", "lion")
    }
    assert rates == {"adamw": 1e-4, "prodigy": 1.0, "prodigy_plus_schedule_free": 1.0, "lion": 2e-5}
