import pytest
import torch
from sdxl_trainer.trainer.adapter.flat_weights import FlatWeights

SHAPES = {"a": (3, 4), "b": (2, 4), "c": (5,)}
CPU = torch.device("cpu")


@pytest.fixture
def weights():
    made = FlatWeights(SHAPES, CPU, torch.bfloat16)
    made.master.copy_(torch.arange(25.0))
    return made


def test_parameters_are_views_in_their_own_shapes(weights):
    parameters = weights.parameters()
    assert [tuple(p.shape) for p in parameters] == list(SHAPES.values())
    with torch.no_grad():
        parameters[1].add_(100)
    assert weights.master[12:20].tolist() == [100.0 + i for i in range(12, 20)]
    weights.gradient.fill_(7)
    assert all((p.grad == 7).all() for p in parameters)


def test_publish_rounds_master_into_compute(weights):
    weights.master.mul_(1.001)
    weights.publish()
    assert torch.equal(weights.compute, weights.master.to(torch.bfloat16))


def test_float32_has_no_second_copy():
    weights = FlatWeights(SHAPES, CPU, torch.float32)
    assert weights.compute is weights.master
    assert weights.compute_gradient is weights.gradient
    weights.gradient.fill_(1)
    weights.collect_gradients()
    assert (weights.gradient == 1).all()
    with pytest.raises(ValueError, match=r"scale is 0\.5"):
        weights.collect_gradients(0.5)


def test_collected_gradients_add_up_in_float32_and_are_unscaled(weights):
    for _ in range(3):
        weights.compute_gradient.fill_(1.0)
        weights.collect_gradients(scale=1 / 1024)
    assert torch.allclose(weights.gradient, torch.tensor(3 / 1024))
    assert not weights.compute_gradient.any()
    weights.zero_gradients()
    assert not weights.gradient.any()


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e6])
def test_clipping_equals_torch(weights, max_norm):
    weights.gradient.copy_(torch.linspace(-1, 1, 25))
    reference = [torch.nn.Parameter(p.detach().clone()) for p in weights.parameters()]
    for copy, p in zip(reference, weights.parameters(), strict=True):
        copy.grad = p.grad.clone()
    expected = torch.nn.utils.clip_grad_norm_(reference, max_norm or float("inf"))
    assert weights.clip(max_norm) == pytest.approx(expected.item())
    for copy, p in zip(reference, weights.parameters(), strict=True):
        assert torch.allclose(copy.grad, p.grad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_number_makes_the_gradient_not_finite(weights, bad):
    assert weights.is_finite()
    weights.gradient[3] = bad
    assert not weights.is_finite()


def test_snapshot_survives_training_and_comes_back(weights):
    kept = weights.snapshot()
    weights.master.zero_()
    weights.restore(kept)
    assert torch.equal(weights.master, torch.arange(25.0))
    assert torch.equal(weights.compute, torch.arange(25.0).bfloat16())
    with pytest.raises(ValueError, match="3 weights"):
        weights.restore(torch.zeros(3))


def test_neighbours_join_into_one_matrix_and_others_do_not(weights):
    joined = weights.joined_view(weights.master, ["a", "b"])
    assert joined.shape == (5, 4)
    assert joined.data_ptr() == weights.master.data_ptr()
    with pytest.raises(ValueError, match="side by side"):
        weights.joined_view(weights.master, ["b", "a"])
    with pytest.raises(ValueError, match="side by side"):
        weights.joined_view(weights.master, ["b", "c"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_backward_pass_that_broke_off_leaves_nothing_behind(dtype):
    weights = FlatWeights(SHAPES, CPU, dtype)
    weights.compute_gradient.fill_(3)
    weights.zero_gradients()
    weights.collect_gradients()
    assert not weights.gradient.any()
