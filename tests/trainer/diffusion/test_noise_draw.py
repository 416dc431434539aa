import pytest
import torch
from sdxl_trainer.trainer.config import NoiseConfig
from sdxl_trainer.trainer.diffusion.noise_draw import NoiseDraw, draw_noise, fixed_draw, pyramid_noise

SHAPE = (3, 4, 8, 6)


def draw(shape=SHAPE, seed=7, index=12, purpose="", **values):
    return draw_noise(shape, seed, index, NoiseConfig(**values), 1000, purpose)


def test_draws_are_a_pure_function_of_seed_and_index():
    first = draw(noise_offset=0.1, pyramid_iterations=4, input_perturbation=0.1, timestep_sampling="style")
    torch.randn(5)
    again = draw(noise_offset=0.1, pyramid_iterations=4, input_perturbation=0.1, timestep_sampling="style")

    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.input_noise, again.input_noise)
    assert torch.equal(first.timesteps, again.timesteps)
    assert first.timesteps.dtype == torch.int64
    assert first.noise.dtype == first.input_noise.dtype == torch.float32


def test_default_draws_are_those_of_every_run_so_far():
    """A finished run that goes on with a later version must see the same numbers."""
    plain = draw((2, 4, 2, 2), seed=42, index=3)
    assert plain.timesteps.tolist() == [239, 849]
    assert plain.noise.flatten()[:3].tolist() == pytest.approx([-0.962844, -0.0471682, -0.941285])
    assert plain.input_noise is plain.noise


def test_draws_leave_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    draw(noise_offset=0.1, pyramid_iterations=4, input_perturbation=0.1, timestep_sampling="content")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("seed", "index", "purpose"), [(7, 13, ""), (8, 12, ""), (2**64 - 1, 12, ""), (7, 12, "class")]
)
def test_another_seed_index_or_purpose_gives_other_noise(seed, index, purpose):
    other = draw(seed=seed, index=index, purpose=purpose)
    assert not torch.equal(draw().noise, other.noise)
    assert abs(torch.corrcoef(torch.stack([draw().noise.flatten(), other.noise.flatten()]))[0, 1]) < 0.2


SETTINGS = {
    "noise_offset": {"noise_offset": 0.1},
    "pyramid": {"pyramid_iterations": 6},
    "input_perturbation": {"input_perturbation": 0.1},
    "timestep_sampling": {"timestep_sampling": "logit_normal"},
    "timestep_min": {"timestep_min": 600},
    "timestep_max": {"timestep_max": 300},
}
CHANGED = {
    "noise_offset": {"noise", "input_noise"},
    "pyramid": {"noise", "input_noise"},
    "input_perturbation": {"input_noise"},
    "timestep_sampling": {"timesteps"},
    "timestep_min": {"timesteps"},
    "timestep_max": {"timesteps"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_changes_its_own_numbers_and_no_others(name):
    plain, changed = draw(), draw(**SETTINGS[name])
    found = {
        field
        for field in ("noise", "input_noise", "timesteps")
        if not torch.equal(getattr(plain, field), getattr(changed, field))
    }
    assert found == CHANGED[name]


@pytest.mark.parametrize("other", [n for n in SETTINGS if n not in ("noise_offset", "pyramid")])
def test_the_offset_is_the_same_whatever_else_is_on(other):
    values = SETTINGS[other]
    alone = draw(noise_offset=0.2).noise - draw().noise
    together = draw(noise_offset=0.2, **values).noise - draw(**values).noise
    assert torch.equal(alone, together)


def test_the_perturbation_is_the_same_whatever_else_is_on():
    plain, offset = draw(input_perturbation=0.2), draw(input_perturbation=0.2, noise_offset=0.3)
    first, second = plain.input_noise - plain.noise, offset.input_noise - offset.noise
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_noise_offset_shifts_whole_channels_by_its_share():
    shift = draw((500, 4, 3, 5), noise_offset=0.0357).noise - draw((500, 4, 3, 5)).noise
    assert (shift - shift[:, :, :1, :1]).abs().max() < 1e-6
    values = shift[:, :, 0, 0]
    assert values.std().item() == pytest.approx(0.0357, rel=0.05)
    assert abs(values.mean().item()) < 0.003
    assert torch.corrcoef(values.T)[0, 1].abs() < 0.15


def test_input_perturbation_has_the_published_strength_and_leaves_the_target_alone():
    drawn = draw((64, 4, 8, 8), input_perturbation=0.1)
    extra = drawn.input_noise - drawn.noise
    assert torch.equal(drawn.noise, draw((64, 4, 8, 8)).noise)
    assert extra.std().item() == pytest.approx(0.1, rel=0.02)
    assert abs(torch.corrcoef(torch.stack([extra.flatten(), drawn.noise.flatten()]))[0, 1]) < 0.02


class Replay:
    """`random.random` and `torch.randn` of kohya's function, answered from our generator."""

    def __init__(self, generator):
        self.generator = generator

    def random(self):
        return float(torch.rand((), generator=self.generator))

    def randn(self, *size):
        return torch.randn(*size, generator=self.generator)


def kohya_pyramid(noise, iterations, discount, chance):
    """sd-scripts 48d368f, library/custom_train_functions.py, pyramid_noise_like."""
    b, c, w, h = noise.shape
    u = torch.nn.Upsample(size=(w, h), mode="bilinear")
    for i in range(iterations):
        r = chance.random() * 2 + 2
        wn, hn = max(1, int(w / (r**i))), max(1, int(h / (r**i)))
        noise = noise + u(chance.randn(b, c, wn, hn)) * discount**i
        if wn == 1 or hn == 1:
            break
    return noise / noise.std()


@pytest.mark.parametrize(
    ("size", "iterations", "discount"), [((16, 24), 6, 0.3), ((64, 64), 3, 0.8), ((4, 9), 10, 0.1)]
)
def test_pyramid_noise_of_one_sample_equals_kohyas(size, iterations, discount):
    noise = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(0))
    expected = kohya_pyramid(noise, iterations, discount, Replay(torch.Generator().manual_seed(5)))
    found = pyramid_noise(noise, torch.Generator().manual_seed(5), iterations, discount)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_pyramid_noise_is_coarse_and_of_unit_spread():
    plain, pyramid = (
        draw((8, 4, 32, 32)).noise,
        draw((8, 4, 32, 32), pyramid_iterations=8, pyramid_discount=0.8).noise,
    )
    assert pyramid.flatten(1).std(1).tolist() == pytest.approx([1.0] * 8, rel=1e-5)

    def likeness_of_neighbours(noise):
        return torch.corrcoef(torch.stack([noise[..., 1:].flatten(), noise[..., :-1].flatten()]))[0, 1].item()

    assert abs(likeness_of_neighbours(plain)) < 0.02
    assert likeness_of_neighbours(pyramid) > 0.2


def test_discount_weakens_the_coarse_sizes():
    means = [
        draw((64, 4, 16, 16), pyramid_iterations=8, pyramid_discount=discount).noise.mean((2, 3)).std().item()
        for discount in (0.1, 0.4, 0.8)
    ]
    assert means == sorted(means)
    assert means[2] > 2 * means[0]


def test_validation_draws_one_timestep_and_plain_noise():
    drawn = fixed_draw(SHAPE, 3, 1, 250)
    assert drawn.timesteps.tolist() == [250] * 3
    assert drawn.input_noise is drawn.noise
    assert torch.equal(drawn.noise, fixed_draw(SHAPE, 3, 1, 750).noise)
    for other in (fixed_draw(SHAPE, 3, 2, 250), fixed_draw(SHAPE, 4, 1, 250), draw(seed=3, index=1)):
        assert not torch.equal(drawn.noise, other.noise)


def test_moving_keeps_one_tensor_one():
    random_draw, perturbed = draw().to("cpu"), draw(input_perturbation=0.1).to("cpu")
    assert random_draw.input_noise is random_draw.noise
    assert perturbed.input_noise is not perturbed.noise
    moved = NoiseDraw(*(torch.zeros(1) for _ in range(2)), torch.zeros(1)).to("meta")
    assert {moved.noise.device.type, moved.input_noise.device.type, moved.timesteps.device.type} == {"meta"}
