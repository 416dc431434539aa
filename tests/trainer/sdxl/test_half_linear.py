import pytest
import torch
import torch.nn.functional as F
from sdxl_trainer.trainer.sdxl.half_linear import HalfLinear, hold_in_half
from sdxl_trainer.trainer.sdxl.model import TextEncoders
from sdxl_trainer.trainer.sdxl.sdxl_files import open_checkpoint
from sdxl_trainer.trainer.sdxl.text_encoder import SDXLTextEncoder, transformer_of
from torch import nn

HALVES = [torch.float16, torch.bfloat16]
CAPTIONS = ["a large red circle on a blue background", "", "cat " * 80]


def load_encoders(folder, dtype):
    files = open_checkpoint(folder)
    return TextEncoders(*(part.load(torch.device("cpu"), dtype) for part in (files.clip_l, files.clip_g)))


def rounded_encoders(folder, dtype):
    """float32 encoders that hold the numbers of half-precision ones."""
    encoders = load_encoders(folder, dtype)
    return TextEncoders(encoders.clip_l.float(), encoders.clip_g.float())


def half_encoders(folder, dtype):
    encoders = load_encoders(folder, dtype)
    return TextEncoders(hold_in_half(encoders.clip_l), hold_in_half(encoders.clip_g))


def input_gradients(encoders):
    """Of the embedded tokens of both encoders, and the conditions."""
    caught = []

    def catch(_module, _inputs, output):
        caught.append(output.detach().requires_grad_(True))
        return caught[-1]

    places = [transformer_of(e).embeddings for e in (encoders.clip_l, encoders.clip_g)]
    handles = [place.register_forward_hook(catch) for place in places]
    found = SDXLTextEncoder(encoders).encode_with_gradient(CAPTIONS)
    for handle in handles:
        handle.remove()
    generator = torch.Generator().manual_seed(0)
    weighed = [torch.randn(c.prompt_embeds.shape, generator=generator) for c in found]
    loss = sum((c.prompt_embeds * w).sum() + c.pooled.sum() for c, w in zip(found, weighed, strict=True))
    loss.backward()
    return [c.prompt_embeds.detach() for c in found], [c.grad for c in caught]


@pytest.mark.parametrize("dtype", HALVES)
def test_states_and_gradients_are_those_of_a_float32_model_of_the_same_weights(stand_in_folder, dtype):
    expected_states, expected = input_gradients(rounded_encoders(stand_in_folder, dtype))

    states, gradients = input_gradients(half_encoders(stand_in_folder, dtype))

    for found, wanted in zip(states + gradients, expected_states + expected, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients)


def test_no_float32_copy_of_a_weight_is_kept_for_the_backward_pass():
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    def loss_of(layers):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            return layers(torch.randn(2, 3, 64, requires_grad=True)).sum()

    def half():
        return nn.Sequential(*(nn.Linear(64, 64).half().requires_grad_(False) for _ in range(3)))

    plain = half().float()
    loss_of(plain)
    assert sum(kept) >= 3 * 64 * 64
    loss = loss_of(hold_in_half(half()))
    assert sum(kept) < 64 * 64
    loss.backward()


def test_the_stored_tensors_are_shared_and_stay_as_they_were(stand_in_folder):
    encoders = load_encoders(stand_in_folder, torch.float16)
    before = {name: tensor for name, tensor in encoders.clip_g.named_parameters()}
    values = {name: tensor.clone() for name, tensor in before.items()}

    hold_in_half(encoders.clip_g)
    input_gradients(TextEncoders(hold_in_half(encoders.clip_l), encoders.clip_g))

    assert all(torch.equal(before[name], values[name]) for name in before)
    assert all(tensor.grad is None for tensor in before.values())
    pointers = {tensor.data_ptr() for tensor in before.values()}
    held = {name: p for name, p in encoders.clip_g.named_parameters() if p.dtype == torch.float16}
    assert {p.data_ptr() for p in held.values()} <= pointers
    # all but the norms, which become float32
    widened = [name for name, p in encoders.clip_g.named_parameters() if p.dtype == torch.float32]
    assert len(held) + len(widened) == len(before)
    assert widened
    assert all("norm" in name for name in widened)


@pytest.mark.parametrize("bias", [True, False])
def test_an_adapter_reads_it_like_a_linear_layer(bias):
    linear = nn.Linear(6, 4, bias=bias).half().requires_grad_(False)
    weight, own_bias = linear.weight.float(), linear.bias.float() if bias else None
    parent = nn.ModuleDict({"fc1": linear})

    base = hold_in_half(parent)["fc1"]

    assert isinstance(base, HalfLinear)
    assert (base.in_features, base.out_features) == (6, 4)
    assert base.weight.dtype == torch.float32
    assert not base.weight.requires_grad
    assert torch.equal(base.weight, weight)
    assert base.bias is None if own_bias is None else torch.equal(base.bias, own_bias)
    x = torch.randn(2, 5, 6)
    base.forward = lambda x: type(base).forward(base, x) + 1
    torch.testing.assert_close(base(x), F.linear(x, weight, own_bias) + 1)


def test_float32_models_are_left_alone(stand_in_folder):
    encoders = load_encoders(stand_in_folder, torch.float32)
    before = {name: (type(module), id(module)) for name, module in encoders.clip_l.named_modules()}
    weights = {name: id(weight) for name, weight in encoders.clip_l.named_parameters()}

    assert hold_in_half(encoders.clip_l) is encoders.clip_l

    assert {n: (type(m), id(m)) for n, m in encoders.clip_l.named_modules()} == before
    assert {name: id(weight) for name, weight in encoders.clip_l.named_parameters()} == weights
