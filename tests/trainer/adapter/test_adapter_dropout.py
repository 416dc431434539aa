import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from sdxl_trainer.trainer.adapter.adapter_dropout import AdapterMode, LayerDropout
from sdxl_trainer.trainer.adapter.lora import attach_adapter
from sdxl_trainer.trainer.config import LoRAConfig
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.memory_plan import LEVELS, checkpoint_modules

CONV = "attention+ff+conv"
KINDS = ("lora", "dora", "loha", "lokr")
RATES = {"dropout": 0.3, "rank_dropout": 0.4, "module_dropout": 0.3}
WITH_KINDS = [(kind, rate) for kind in KINDS for rate in RATES if kind == "lora" or rate != "dropout"]


@pytest.fixture(scope="module")
def stand_in_unet(stand_in_folder):
    return UNet2DConditionModel.from_pretrained(stand_in_folder / "unet").requires_grad_(False).eval()


@pytest.fixture
def unet(stand_in_unet):
    return copy.deepcopy(stand_in_unet)


def attach(unet, **settings):
    adapter = attach_adapter(
        unet, LoRAConfig(**{"rank": 4, "alpha": 8.0, "targets": CONV, **settings}), seed=1
    )
    draw = torch.Generator().manual_seed(2)
    state = adapter.state_dict()
    for key, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=draw) * 0.2
        state[key] = tensor * (1 + noise) if key.endswith("dora_scale") else noise
    adapter.load_state_dict(state)
    return adapter


def predict(unet):
    draw = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=draw).to(unet.dtype)

    added = {"text_embeds": normal(2, 24), "time_ids": torch.full((2, 6), 128.0, dtype=unet.dtype)}
    return unet(normal(2, 4, 8, 8), torch.tensor([5, 900]), normal(2, 6, 40), added_cond_kwargs=added).sample


def gradients(unet, adapter):
    adapter.weights.zero_gradients()
    predict(unet).square().mean().backward()
    adapter.weights.collect_gradients()
    return adapter.weights.gradient.clone()


@pytest.mark.parametrize(("kind", "rate"), WITH_KINDS)
def test_masks_are_a_function_of_seed_and_index(unet, kind, rate):
    adapter = attach(unet, adapter=kind, **{rate: RATES[rate]})
    outputs = {}
    for seed, index in [(1, 0), (1, 1), (2, 0), (1, 0)]:
        adapter.begin_micro_step(seed, index)
        output = predict(unet).detach()
        assert torch.equal(outputs.setdefault((seed, index), output), output)
    assert len({output.sum().item() for output in outputs.values()}) == 3


@pytest.mark.parametrize(("kind", "rate"), WITH_KINDS)
def test_evaluating_is_as_without_dropout(unet, stand_in_unet, kind, rate):
    adapter = attach(unet, adapter=kind, **{rate: RATES[rate]})
    other = copy.deepcopy(stand_in_unet)
    attach(other, adapter=kind)
    without = predict(other)
    with adapter.evaluating():
        # to_q, to_k, to_v of a plain LoRA run as one where nothing is dropped
        torch.testing.assert_close(predict(unet), without, rtol=1e-4, atol=1e-4)
    assert (predict(unet) - without).norm() > 1e-3 * without.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_disabled_is_the_frozen_unet_bit_for_bit(unet, stand_in_unet, kind):
    adapter = attach(unet, adapter=kind, module_dropout=0.3)
    with adapter.disabled():
        assert torch.equal(predict(unet), predict(stand_in_unet))
        with adapter.evaluating():
            assert torch.equal(predict(unet), predict(stand_in_unet))
    assert not torch.equal(predict(unet), predict(stand_in_unet))


def test_disabled_turns_off_layers_that_run_together(unet, stand_in_unet):
    adapter = attach(unet, targets="attention")
    processors = [p for p in unet.attn_processors.values() if p.query_key_value or p.key_value]
    assert processors
    with adapter.disabled():
        assert torch.equal(predict(unet), predict(stand_in_unet))


@pytest.mark.parametrize(("kind", "rate"), WITH_KINDS)
def test_checkpointing_gives_the_same_gradients(unet, kind, rate):
    adapter = attach(unet, adapter=kind, **{rate: RATES[rate]})
    adapter.begin_micro_step(7, 3)
    plain = gradients(unet, adapter)
    checkpoint_modules(unet, LEVELS[-1])
    assert torch.equal(gradients(unet, adapter), plain)
    adapter.begin_micro_step(7, 4)
    assert not torch.equal(gradients(unet, adapter), plain)


@pytest.mark.parametrize(("kind", "rate"), [pair for pair in WITH_KINDS if pair[0] != "dora"])
def test_gradients_are_those_of_what_was_computed(unet, kind, rate):
    """Against differences in float64, along one direction; not for DoRA, whose norm counts as constant."""
    unet = unet.double()
    adapter = attach(unet, adapter=kind, targets="attention", **{rate: RATES[rate]})
    adapter.begin_micro_step(5, 5)
    compute, step = adapter.weights.compute, 1e-6
    direction = torch.randn(compute.shape, generator=torch.Generator().manual_seed(1), dtype=compute.dtype)
    expected = (gradients(unet, adapter).double() @ direction).item()

    def loss_at(shift):
        with torch.no_grad():
            compute.add_(direction, alpha=shift)
            loss = predict(unet).square().mean().item()
            compute.sub_(direction, alpha=shift)
        return loss

    assert (loss_at(step) - loss_at(-step)) / (2 * step) == pytest.approx(expected, rel=1e-4)


def one_layer(values=0.0, ranks=0.0, modules=0.0):
    mode = AdapterMode()
    return mode, LayerDropout(values, ranks, modules, mode, "layer")


@pytest.mark.parametrize("shape", [(4, 16, 8), (4, 8), (4, 8, 5, 5)])
def test_what_is_kept_makes_up_for_what_is_dropped(shape):
    axis = 1 if len(shape) == 4 else -1
    mode, dropout = one_layer(values=0.25, ranks=0.5)
    total = torch.zeros(shape)
    for mode.index in range(4000):
        mask = dropout.inner_mask(torch.empty(shape), axis).expand(shape)
        assert {round(x, 4) for x in mask.unique().tolist()} <= {0.0, round(1 / 0.75 / 0.5, 4)}
        total += mask
    assert (total / 4000).mean().item() == pytest.approx(1.0, abs=0.02)
    assert (total / 4000 - 1).abs().max() < 0.15


def test_ranks_are_dropped_whole_and_for_each_sample():
    _, dropout = one_layer(ranks=0.5)
    mask = dropout.inner_mask(torch.empty(64, 10, 16), -1).expand(64, 10, 16)
    assert torch.equal(mask, mask[:, :1].expand_as(mask))
    assert not torch.equal(mask[0], mask[1])
    convolution = dropout.inner_mask(torch.empty(64, 16, 3, 3), 1)
    assert convolution.shape == (64, 16, 1, 1)


def test_layers_are_left_out_as_often_as_asked():
    mode, dropout = one_layer(modules=0.3)
    count = 0
    for mode.index in range(5000):
        count += dropout.is_left_out()
    assert count / 5000 == pytest.approx(0.3, abs=0.03)


def test_masks_of_different_layers_differ(unet):
    adapter = attach(unet, rank_dropout=0.5)
    layers = list(adapter.layers.values())
    masks = [tuple(layer.dropout.rank_mask(32, torch.empty(0)).tolist()) for layer in layers]
    assert len(set(masks)) == len(layers)


def test_a_step_without_any_update_still_has_a_gradient_to_take(unet):
    adapter = attach(unet, module_dropout=0.9, blocks="style", targets="attention")
    still = [layer for layer in adapter.layers.values()]
    adapter.begin_micro_step(0, next(i for i in range(10**5) if all_left_out(adapter, still, i)))
    assert not gradients(unet, adapter).any()


def all_left_out(adapter, layers, index):
    adapter.begin_micro_step(0, index)
    return all(layer.dropout.is_left_out() for layer in layers)


def test_no_dropout_draws_nothing_and_keeps_the_layers_together(unet):
    adapter = attach(unet, targets="attention")
    assert all(layer.dropout is None for layer in adapter.layers.values())
    before = predict(unet)
    adapter.begin_micro_step(123, 45)
    assert torch.equal(predict(unet), before)


def test_the_global_generator_is_left_alone(unet):
    adapter = attach(unet, **RATES)
    before = torch.get_rng_state()
    adapter.begin_micro_step(1, 1)
    predict(unet)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr"])
def test_dropout_of_inner_values_is_refused_where_there_are_none(kind):
    with pytest.raises(InputError, match=f"dropout is 0.1, but adapter {kind} has no inner values"):
        LoRAConfig(adapter=kind, dropout=0.1)
