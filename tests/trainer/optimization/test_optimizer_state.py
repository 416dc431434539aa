import json

import pytest
import safetensors.torch
import torch
from sdxl_trainer.trainer.config import OptimizerConfig, ProdigyConfig, TrainConfig
from sdxl_trainer.trainer.optimization.lr_schedule import learning_rate_at
from sdxl_trainer.trainer.optimization.weight_average import WeightAverage

from .adapter_steps import KIND_NAMES, PLUS, SOON, new_optimizer, new_weights, same_state, take_step

NUM_STEPS = 6
SCHEDULES = ["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]


class Stepped:
    """A run at this level: weights, optimizer and average."""

    def __init__(self, kind, schedule="constant", dtype=torch.float32, **settings):
        optimizer = OptimizerConfig(optimizer=kind, lr_schedule=schedule, warmup_steps=2, **settings)
        self.config = TrainConfig(name="run", steps=NUM_STEPS, optimizer=optimizer)
        self.weights = new_weights(dtype)
        prodigy = ProdigyConfig(**SOON, use_bias_correction=False)
        self.optimizer = new_optimizer(
            self.weights, kind, prodigy, lr_schedule=schedule, warmup_steps=2, **settings
        )
        self.average = WeightAverage(self.weights, 0.9)
        self.num_done = 0

    def steps(self, last, look=False):
        while self.num_done < last:
            rate = learning_rate_at(self.num_done, NUM_STEPS, self.config)
            take_step(self.weights, self.optimizer, self.num_done, rate)
            self.average.update()
            if look:
                with self.optimizer.evaluation(), self.average.evaluation():
                    pass
            self.num_done += 1

    def saved(self):
        """As bytes of safetensors and JSON text, which is all that a checkpoint can hold."""
        tensors, figures = self.optimizer.state()
        parts = {"optimizer": tensors, "average": self.average.state(), "master": {"m": self.weights.master}}
        return {k: safetensors.torch.save(v) for k, v in parts.items()}, json.dumps(figures)

    def load(self, saved, num_done):
        parts, figures = saved
        tensors = {k: safetensors.torch.load(v) for k, v in parts.items()}
        self.weights.restore(tensors["master"]["m"])
        self.optimizer.load_state(tensors["optimizer"], json.loads(figures))
        self.average.load_state(tensors["average"])
        self.num_done = num_done

    def equals(self, other):
        averages = self.average.state(), other.average.state()
        return (
            torch.equal(self.weights.master, other.weights.master)
            and torch.equal(self.weights.compute, other.weights.compute)
            and same_state(self.optimizer.state(), other.optimizer.state())
            and all(torch.equal(averages[0][k], averages[1][k]) for k in averages[0])
        )


def resumed_at_every_step(**settings):
    """Pairs of an uninterrupted run and one that was saved and loaded into new objects at a step."""
    whole, saved = Stepped(**settings), []
    for number in range(NUM_STEPS):
        saved.append(whole.saved())
        whole.steps(number + 1)
    for number, state in enumerate(saved):
        resumed = Stepped(**settings)
        resumed.load(state, number)
        resumed.steps(NUM_STEPS)
        yield whole, resumed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_resumed_at_any_step_equals_uninterrupted_bit_for_bit(kind, schedule, dtype):
    for whole, resumed in resumed_at_every_step(kind=kind, schedule=schedule, dtype=dtype):
        assert whole.equals(resumed)


@pytest.mark.parametrize("kind", [kind for kind in KIND_NAMES if kind != "prodigy"])
def test_resumed_with_lora_plus_groups_equals_uninterrupted(kind):
    for whole, resumed in resumed_at_every_step(kind=kind, lora_plus_ratio=8.0):
        assert whole.equals(resumed)


@pytest.mark.parametrize("kind", ["prodigy", PLUS])
def test_the_estimate_of_a_prodigy_moves_in_so_few_steps(kind):
    run = Stepped(kind)
    run.steps(NUM_STEPS)
    assert run.optimizer.rate_factor > 1.5e-3


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_without_its_state_an_optimizer_goes_elsewhere(kind):
    """So the test above can fail: no optimizer here is without memory."""
    whole, forgetful = Stepped(kind), Stepped(kind)
    whole.steps(3)
    forgetful.weights.restore(whole.weights.snapshot())
    forgetful.num_done = 3
    whole.steps(NUM_STEPS)
    forgetful.steps(NUM_STEPS)
    assert not torch.equal(whole.weights.master, forgetful.weights.master)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_looking_at_the_weights_to_save_changes_nothing(kind):
    plain, looked_at = Stepped(kind, dtype=torch.bfloat16), Stepped(kind, dtype=torch.bfloat16)
    plain.steps(NUM_STEPS)
    looked_at.steps(NUM_STEPS, look=True)
    assert plain.equals(looked_at)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_moments_take_no_more_than_stated(kind):
    run = Stepped(kind)
    run.steps(1)
    tensors, _ = run.optimizer.state()
    taken = sum(values.nbytes for name, values in tensors.items() if "qmap" not in name)
    num_weights = run.weights.master.numel()
    assert taken <= run.optimizer.bytes_per_weight * num_weights + 64 * len(tensors)


def test_eight_bit_moments_stay_eight_bit():
    run = Stepped("adamw8bit")
    run.steps(2)
    fresh = Stepped("adamw8bit")
    fresh.load(run.saved(), 2)
    tensors, _ = fresh.optimizer.state()
    assert tensors["large.lora_down/state1"].dtype == torch.uint8
    assert tensors["small.lora_down/state1"].dtype == torch.float32


def test_a_changed_setting_is_the_new_runs_not_the_states():
    run, fresh = Stepped("adamw"), Stepped("adamw", weight_decay=0.5, beta1=0.5)
    run.steps(2)
    fresh.load(run.saved(), 2)
    assert fresh.optimizer.groups[0]["weight_decay"] == 0.5
    assert fresh.optimizer.groups[0]["betas"] == (0.5, 0.999)


def test_state_of_other_weights_or_groups_is_refused():
    run = Stepped("adafactor")
    run.steps(1)
    tensors, figures = run.optimizer.state()
    renamed = {name.replace("large", "huge"): values for name, values in tensors.items()}
    with pytest.raises(ValueError, match=r"unknown weights \['huge.lora_down'"):
        Stepped("adafactor").optimizer.load_state(renamed, figures)
    with pytest.raises(ValueError, match=r"1 groups .* there are 2 groups"):
        Stepped("adafactor", lora_plus_ratio=4.0).optimizer.load_state(tensors, figures)


def test_state_within_evaluation_is_refused():
    run = Stepped(PLUS)
    run.steps(2)
    with run.optimizer.evaluation():
        with pytest.raises(RuntimeError, match=r"state\(\) within evaluation"):
            run.optimizer.state()
        with pytest.raises(RuntimeError, match=r"step\(\) within evaluation"):
            take_step(run.weights, run.optimizer, 3, 1.0)
    assert run.optimizer.state()
