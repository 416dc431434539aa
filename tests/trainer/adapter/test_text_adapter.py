"""The LoRA on text encoders against peft, against autograd on changed weights, and off again."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from sdxl_trainer.trainer.adapter.adapter_parts import updated
from sdxl_trainer.trainer.adapter.lora import attach_text_adapter
from sdxl_trainer.trainer.config import LoRAConfig
from sdxl_trainer.trainer.sdxl.half_linear import hold_in_half
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

MATRICES = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
FOLDERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
NAMES = tuple(FOLDERS)
KINDS = ("lora", "dora", "loha", "lokr")
NUM_LAYERS = 4


def small_encoder(name, **changes):
    """A random CLIP text encoder of four layers."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "projection_dim": 16}
    config = CLIPTextConfig(
        **{
            "vocab_size": 60,
            "num_hidden_layers": NUM_LAYERS,
            "max_position_embeddings": 12,
            **sizes,
            **changes,
        },
        eos_token_id=59,
    )
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = (CLIPTextModel if name == "clip_l" else CLIPTextModelWithProjection)(config)
        for parameter in model.parameters():
            parameter.data.normal_(std=0.3)
    return model.requires_grad_(False).eval()


def what_sdxl_takes(encoder, name, layer=-2):
    """A hidden state and, of CLIP-G, the pooled vector, as one tensor."""
    draw = torch.Generator().manual_seed(6)
    ids = torch.randint(1, 58, (3, 12), generator=draw)
    ids[:, -2] = 59
    out = encoder(ids, output_hidden_states=True)
    taken = out.hidden_states[layer].flatten(1)
    return taken if name == "clip_l" else torch.cat([taken, out.text_embeds], dim=1)


def loss_of(encoder, name):
    return what_sdxl_takes(encoder, name).square().mean()


def fill(adapter):
    """Weights as after some training, so that every gradient is something."""
    draw = torch.Generator().manual_seed(5)
    state = adapter.state_dict()
    for key, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=draw) * 0.1
        state[key] = tensor * (1 + noise) if key.endswith("dora_scale") else tensor + noise
    adapter.load_state_dict(state)
    return state


def gradients_of(adapter):
    adapter.weights.collect_gradients()
    return {name: adapter.weights.view(adapter.weights.gradient, name) for name in adapter.weights.names}


def module_path(encoder, path):
    """The module that a canonical path means, whichever prefix transformers gives it."""
    inner = path.split(".", 1)[1]
    known = dict(encoder.named_modules())
    return inner if inner in known else inner.removeprefix("text_model.")


def relative_error(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("name", NAMES)
def test_one_step_equals_plain_peft(name):
    base = small_encoder(name)
    ours, config = copy.deepcopy(base), LoRAConfig(rank=8, alpha=6.0)
    adapter = attach_text_adapter(ours, name, config, rank=4, seed=1)
    state = fill(adapter)
    loss = loss_of(ours, name)
    loss.backward()
    found = gradients_of(adapter)

    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=3, target_modules=list(MATRICES)), base)
    theirs = {}
    for path in adapter.paths:
        layer = base.get_submodule(module_path(base, path))
        for part, weight in (("lora_down", layer.lora_A), ("lora_up", layer.lora_B)):
            weight["default"].weight.data.copy_(state[f"{path}.{part}"])
            theirs[f"{path}.{part}"] = weight["default"].weight
    expected_loss = loss_of(base, name)
    expected_loss.backward()

    assert config.scale == 3 / 4
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    assert found.keys() == theirs.keys()
    assert len(found) == 2 * len(MATRICES) * NUM_LAYERS
    moving = [key for key, weight in theirs.items() if weight.grad is not None and weight.grad.any()]
    assert len(moving) == 2 * len(MATRICES) * (NUM_LAYERS - (name == "clip_l"))
    for key, gradient in found.items():
        if key in moving:
            assert relative_error(gradient, theirs[key].grad) < 1e-5, key
        else:
            assert not gradient.any(), key


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_kind_learns_as_autograd_on_changed_weights_says(name, kind, dtype):
    """Also where the encoder is stored in half precision: it computes in float32."""
    stored = small_encoder(name).to(dtype)
    expected_encoder = copy.deepcopy(stored).float()
    encoder = hold_in_half(copy.deepcopy(stored))
    config = LoRAConfig(adapter=kind, rank=4, alpha=2.0, lokr_factor=4)
    adapter = attach_text_adapter(encoder, name, config, rank=3, seed=1)
    state = {key: x.requires_grad_() for key, x in fill(adapter).items()}
    loss_of(encoder, name).backward()
    found = gradients_of(adapter)
    assert adapter.weights.compute.dtype == torch.float32

    changed = {}
    for path in adapter.paths:
        inner = module_path(expected_encoder, path)
        parts = {key.rpartition(".")[2]: x for key, x in state.items() if key.startswith(f"{path}.")}
        # arXiv 2402.09353, sec. 4.3: the length of the changed weight counts as constant
        weight = expected_encoder.get_submodule(inner).weight
        changed[f"{inner}.weight"] = dora(weight, parts) if kind == "dora" else updated(weight, parts, 0.5)
    taken = torch.func.functional_call(
        Taken(expected_encoder, name), {f"encoder.{k}": v for k, v in changed.items()}
    )
    taken.square().mean().backward()
    for key, gradient in found.items():
        expected = state[key].grad
        if expected is not None and expected.any():
            assert relative_error(gradient, expected) < 2e-5, key
        else:
            assert key.rpartition(".")[0] in adapter.idle


class Taken(torch.nn.Module):
    def __init__(self, encoder, name):
        super().__init__()
        self.encoder, self.name = encoder, name

    def forward(self):
        return what_sdxl_takes(self.encoder, self.name)


def dora(weight, parts):
    changed = weight + 0.5 * parts["lora_up"] @ parts["lora_down"]
    return changed * (parts["dora_scale"] / changed.detach().norm(dim=0, keepdim=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_fresh_or_switched_off_it_changes_nothing(name, kind):
    encoder = small_encoder(name)
    before = what_sdxl_takes(encoder, name)
    adapter = attach_text_adapter(encoder, name, LoRAConfig(adapter=kind), rank=4, seed=1)
    fresh = what_sdxl_takes(encoder, name)
    if kind == "dora":
        torch.testing.assert_close(fresh, before, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(fresh, before)
    fill(adapter)
    assert not torch.allclose(what_sdxl_takes(encoder, name), before, rtol=1e-3)
    with adapter.disabled():
        assert torch.equal(what_sdxl_takes(encoder, name), before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_detach_leaves_the_encoder_as_it_was(name, dtype):
    encoder = hold_in_half(small_encoder(name).to(dtype))
    before = what_sdxl_takes(encoder, name)
    modules = dict(encoder.named_modules())
    attributes = {path: dict(vars(module)) for path, module in modules.items()}
    weights = {key: x.clone() for key, x in encoder.state_dict().items()}
    adapter = attach_text_adapter(encoder, name, LoRAConfig(), rank=4, seed=1)
    fill(adapter)
    loss_of(encoder, name).backward()
    adapter.detach()
    after = dict(encoder.named_modules())
    assert list(after) == list(modules)
    assert all(after[path] is module for path, module in modules.items())
    for path, module in after.items():
        own = vars(module)
        assert own.keys() == attributes[path].keys(), path
        assert all(own[key] is value for key, value in attributes[path].items()), path
    assert all(torch.equal(x, weights[key]) for key, x in encoder.state_dict().items())
    assert not any(x.requires_grad or x.grad is not None for x in encoder.parameters())
    assert torch.equal(what_sdxl_takes(encoder, name), before)


@pytest.mark.parametrize(("name", "num_layers", "expected"), [("clip_l", 12, 72), ("clip_g", 32, 192)])
def test_sdxl_gets_as_many_layers_as_with_kohya(name, num_layers, expected):
    """`text_encoder1: 72 modules`, `text_encoder2: 192`: what sd-scripts logs for SDXL."""
    with torch.device("meta"):
        kind = CLIPTextModel if name == "clip_l" else CLIPTextModelWithProjection
        encoder = kind(CLIPTextConfig(num_hidden_layers=num_layers, hidden_size=64, intermediate_size=64))
    adapter = attach_text_adapter(encoder, name, LoRAConfig(), rank=2, seed=1)
    assert len(adapter.paths) == expected
    start = f"{FOLDERS[name]}.text_model.encoder.layers."
    assert all(path.startswith(start) for path in adapter.paths)
    assert f"{start}{num_layers - 1}.self_attn.out_proj" in adapter.paths
    assert f"{start}0.mlp.fc2" in adapter.paths


@pytest.mark.parametrize("name", NAMES)
def test_paths_do_not_depend_on_how_transformers_nests_its_modules(name):
    """transformers 4 has `text_model` in front of every layer of CLIPTextModel, 5 has not."""
    plain, nested = small_encoder("clip_l"), torch.nn.Module()
    nested.text_model = copy.deepcopy(plain)
    modules = [path for path, _ in plain.named_modules() if path.endswith("fc1")]
    assert all(path.removeprefix("text_model.") != path or path.startswith("encoder.") for path in modules)
    first = attach_text_adapter(plain, name, LoRAConfig(), rank=2, seed=1)
    second = attach_text_adapter(nested, name, LoRAConfig(), rank=2, seed=1)
    assert first.paths == second.paths
    assert all(torch.equal(x, second.state_dict()[key]) for key, x in first.state_dict().items())


@pytest.mark.parametrize(
    ("name", "layer", "num_idle"), [("clip_l", -1, 0), ("clip_l", -2, 1), ("clip_l", -3, 2)]
)
def test_layers_that_nothing_depends_on_are_known(name, layer, num_idle):
    encoder = small_encoder(name)
    adapter = attach_text_adapter(encoder, name, LoRAConfig(), 2, 1, layer)
    fill(adapter)
    what_sdxl_takes(encoder, name, layer).square().mean().backward()
    unmoved = {
        key.rpartition(".")[0] for key, gradient in gradients_of(adapter).items() if not gradient.any()
    }
    assert unmoved == adapter.idle
    assert len(adapter.idle) == num_idle * len(MATRICES)


def test_clip_g_learns_whole_whichever_layer_is_taken():
    adapter = attach_text_adapter(small_encoder("clip_g"), "clip_g", LoRAConfig(), 2, 1, -3)
    assert adapter.idle == frozenset()


@pytest.mark.parametrize("name", NAMES)
def test_after_a_step_only_idle_layers_are_still(name):
    encoder = small_encoder(name)
    adapter = attach_text_adapter(encoder, name, LoRAConfig(), rank=2, seed=1)
    assert adapter.num_still() == len(adapter.paths)
    loss_of(encoder, name).backward()
    torch.optim.SGD(adapter.weights.parameters(), 0.1).step()
    assert adapter.num_still() == len(adapter.idle) == (len(MATRICES) if name == "clip_l" else 0)


def test_dropout_is_drawn_from_the_step_and_the_layer():
    encoder = small_encoder("clip_l")
    config = LoRAConfig(dropout=0.2, rank_dropout=0.2, module_dropout=0.2)
    adapter = attach_text_adapter(encoder, "clip_l", config, rank=4, seed=1)
    fill(adapter)

    def outcome(seed, index):
        adapter.begin_micro_step(seed, index)
        return what_sdxl_takes(encoder, "clip_l")

    first = outcome(3, 0)
    assert not torch.equal(outcome(3, 1), first)
    assert not torch.equal(outcome(4, 0), first)
    assert torch.equal(outcome(3, 0), first)
    with adapter.evaluating():
        whole = outcome(3, 0)
        assert torch.equal(outcome(3, 1), whole)
    assert not torch.equal(whole, first)


def test_the_two_encoders_start_differently_and_repeatably():
    def drawn(name, seed):
        return attach_text_adapter(small_encoder("clip_l"), name, LoRAConfig(), 4, seed).state_dict()

    first, again, other = drawn("clip_l", 7), drawn("clip_l", 7), drawn("clip_l", 8)
    large = {key.replace("text_encoder_2.", "text_encoder."): x for key, x in drawn("clip_g", 7).items()}
    assert all(torch.equal(x, again[key]) for key, x in first.items())
    downs = [key for key in first if key.endswith("lora_down")]
    assert not any(
        torch.equal(first[key], other[key]) or torch.equal(first[key], large[key]) for key in downs
    )


def test_what_cannot_carry_it_is_refused():
    encoder = small_encoder("clip_l")
    attach_text_adapter(encoder, "clip_l", LoRAConfig(), 2, 1)
    with pytest.raises(ValueError, match="carries a LoRA already"):
        attach_text_adapter(encoder, "clip_l", LoRAConfig(), 2, 1)
    with pytest.raises(ValueError, match="without the layers of a CLIP text encoder"):
        attach_text_adapter(torch.nn.Linear(2, 2), "clip_l", LoRAConfig(), 2, 1)

    class Patched(torch.nn.Linear):
        pass

    encoder = small_encoder("clip_l")
    encoder.encoder.layers[1].mlp.fc1 = Patched(32, 64)
    with pytest.raises(ValueError, match="fc1 is a Patched, no plain layer"):
        attach_text_adapter(encoder, "clip_l", LoRAConfig(), 2, 1)
