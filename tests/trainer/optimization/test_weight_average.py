import pytest
import torch
from diffusers.training_utils import EMAModel
from sdxl_trainer.trainer.optimization.weight_average import WeightAverage, preserved

from .adapter_steps import new_weights


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("num_updates", [1, 2, 12, 40])
def test_the_mean_is_diffusers(decay, num_updates):
    weights = new_weights()
    average = WeightAverage(weights, decay)
    reference = EMAModel([torch.nn.Parameter(weights.master.clone())], decay=decay)
    for number in range(num_updates):
        weights.master.add_(
            torch.randn(weights.master.shape, generator=torch.Generator().manual_seed(number))
        )
        average.update()
        reference.step([torch.nn.Parameter(weights.master.clone())])
    torch.testing.assert_close(average.state()["average"], reference.shadow_params[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_evaluation_swaps_in_and_back_bit_for_bit(dtype):
    weights = new_weights(dtype)
    average = WeightAverage(weights, 0.9)
    for _ in range(3):
        weights.master.mul_(1.1)
        weights.publish()
        average.update()
    trained, published = weights.master.clone(), weights.compute.clone()
    with average.evaluation():
        assert torch.equal(weights.master, average.state()["average"])
        assert torch.equal(weights.compute, weights.master.to(dtype))
        assert not torch.equal(weights.master, trained)
    assert torch.equal(weights.master, trained)
    assert torch.equal(weights.compute, published)


def test_weights_come_back_after_an_error_too():
    weights = new_weights(torch.bfloat16)
    trained, published = weights.master.clone(), weights.compute.clone()
    with pytest.raises(KeyError), preserved(weights):
        weights.master.zero_()
        weights.publish()
        raise KeyError("preview failed")
    assert torch.equal(weights.master, trained)
    assert torch.equal(weights.compute, published)


def test_the_first_update_forgets_the_start():
    weights = new_weights()
    average = WeightAverage(weights, 0.999)
    weights.master.fill_(7)
    average.update()
    assert torch.equal(average.state()["average"], weights.master)


def test_an_average_of_another_adapter_is_refused():
    average = WeightAverage(new_weights(), 0.9)
    with pytest.raises(ValueError, match="an average of 3 weights"):
        average.load_state({"average": torch.zeros(3), "num_updates": torch.tensor(1)})
