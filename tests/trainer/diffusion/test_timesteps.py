import math
from itertools import pairwise
from statistics import NormalDist

import pytest
import torch
from sdxl_trainer.trainer.config import NoiseConfig
from sdxl_trainer.trainer.diffusion.timesteps import draw_timesteps

NUM_DRAWS, BINS = 50_000, 10


def drawn(num=NUM_DRAWS, seed=0, num_timesteps=1000, **values):
    generator = torch.Generator().manual_seed(seed)
    return draw_timesteps(num, generator, NoiseConfig(**values), num_timesteps)


def shares(timesteps, low=0, high=1000):
    return (torch.histc(timesteps.double(), BINS, low, high) / len(timesteps)).tolist()


def expected(distribution):
    """Share of each tenth of the range, from the distribution function of the position."""
    edges = [distribution(i / BINS) for i in range(BINS + 1)]
    return [high - low for low, high in pairwise(edges)]


def logit_normal(mean, std):
    def distribution(position):
        if position in (0, 1):
            return position
        return NormalDist(mean, std).cdf(math.log(position / (1 - position)))

    return distribution


DISTRIBUTIONS = {
    "uniform": ({}, lambda p: p),
    "logit_normal": ({}, logit_normal(0, 1)),
    "content": ({}, lambda p: 1 - (1 - p) ** (1 / 3)),
    "style": ({}, lambda p: p ** (1 / 3)),
}


@pytest.mark.parametrize("sampling", DISTRIBUTIONS)
def test_timesteps_are_spread_as_published(sampling):
    values, distribution = DISTRIBUTIONS[sampling]
    timesteps = drawn(timestep_sampling=sampling, **values)
    assert timesteps.dtype == torch.int64
    assert shares(timesteps) == pytest.approx(expected(distribution), abs=0.008)


@pytest.mark.parametrize(("mean", "std"), [(-1, 1), (1, 1), (0, 0.5), (0, 2), (0.5, 0.7)])
def test_logit_mean_and_std_move_and_widen_the_peak(mean, std):
    timesteps = drawn(timestep_sampling="logit_normal", logit_mean=mean, logit_std=std)
    assert shares(timesteps) == pytest.approx(expected(logit_normal(mean, std)), abs=0.008)


@pytest.mark.parametrize("sampling", DISTRIBUTIONS)
def test_the_range_keeps_the_shape_and_both_ends(sampling):
    timesteps = drawn(timestep_sampling=sampling, timestep_min=200, timestep_max=299)
    assert 200 <= timesteps.min() <= 201
    assert 298 <= timesteps.max() <= 299
    assert shares(timesteps, 200, 300) == pytest.approx(expected(DISTRIBUTIONS[sampling][1]), abs=0.008)


@pytest.mark.parametrize("sampling", DISTRIBUTIONS)
@pytest.mark.parametrize("only", [0, 500, 999])
def test_a_range_of_one_timestep_is_that_timestep(sampling, only):
    timesteps = drawn(50, timestep_sampling=sampling, timestep_min=only, timestep_max=only)
    assert timesteps.tolist() == [only] * 50


@pytest.mark.parametrize("sampling", DISTRIBUTIONS)
def test_extreme_widths_and_short_schedules_stay_in_range(sampling):
    timesteps = drawn(5000, num_timesteps=20, timestep_sampling=sampling, logit_std=10, logit_mean=10)
    assert timesteps.min() >= 0
    assert timesteps.max() <= 19


def test_the_same_generator_gives_the_same_timesteps():
    assert torch.equal(drawn(9, timestep_sampling="style"), drawn(9, timestep_sampling="style"))
    assert not torch.equal(drawn(9, timestep_sampling="style"), drawn(9, seed=1, timestep_sampling="style"))
