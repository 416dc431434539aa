"""Every kind of update against its formula written out, with plain autograd, and against LyCORIS."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from lycoris.functional import loha as lycoris_loha
from lycoris.functional import lokr as lycoris_lokr
from lycoris.functional.general import factorization, weight_decompose
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from sdxl_trainer.trainer.adapter.adapter_parts import factorize, kind_of, part_shapes, update_of, updated
from sdxl_trainer.trainer.adapter.lora import attach_adapter
from sdxl_trainer.trainer.config import LoRAConfig

KINDS = ("lora", "dora", "loha", "lokr")
CONV = "attention+ff+conv"
LYCORIS = {"lora": LoConModule, "dora": LoConModule, "loha": LohaModule, "lokr": LokrModule}


@pytest.fixture(scope="module")
def stand_in_unet(stand_in_folder):
    return UNet2DConditionModel.from_pretrained(stand_in_folder / "unet").requires_grad_(False).eval()


@pytest.fixture
def make_unet(stand_in_unet):
    def make(dtype=torch.float32):
        unet = copy.deepcopy(stand_in_unet)
        for parameter in unet.parameters():
            parameter.data = parameter.data.to(dtype)
        return unet

    return make


def predict(unet, weights=None):
    draw = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=draw).to(unet.dtype)

    inputs = (normal(2, 4, 8, 8), torch.tensor([5, 900]), normal(2, 6, 40))
    added = {"text_embeds": normal(2, 24), "time_ids": torch.full((2, 6), 128.0, dtype=unet.dtype)}
    keywords = {"added_cond_kwargs": added}
    return torch.func.functional_call(unet, weights or {}, inputs, keywords).sample


def fill(adapter, seed=5, size=0.2):
    """Weights as after some training, so that every gradient is something."""
    draw = torch.Generator().manual_seed(seed)
    state = adapter.state_dict()
    for key, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=draw) * size
        state[key] = tensor * (1 + noise) if key.endswith("dora_scale") else noise
    adapter.load_state_dict(state)
    return state


def written_out(weight, parts, scale):
    """W' by the formulas of the papers, in another form than the code under test."""
    if "hada_w1_a" in parts:
        first = torch.einsum("or,ri->oi", parts["hada_w1_a"], parts["hada_w1_b"])
        second = torch.einsum("or,ri->oi", parts["hada_w2_a"], parts["hada_w2_b"])
        return weight + scale * (first * second).reshape(weight.shape)
    if "lokr_w1" in parts:
        w2 = parts.get("lokr_w2")
        is_whole = w2 is not None
        if not is_whole:
            w2 = torch.einsum("br,rd->bd", parts["lokr_w2_a"], parts["lokr_w2_b"])
        blocks = torch.einsum("ac,bd->abcd", parts["lokr_w1"], w2.flatten(1))
        return weight + (1.0 if is_whole else scale) * blocks.reshape(weight.shape)
    update = torch.einsum("or,ri->oi", parts["lora_up"].flatten(1), parts["lora_down"].flatten(1))
    changed = weight + scale * update.reshape(weight.shape)
    if "dora_scale" not in parts:
        return changed
    axes = [0, *range(2, weight.ndim)]
    return parts["dora_scale"] * changed / changed.detach().square().sum(axes, keepdim=True).sqrt()


def reference(unet, state, scale):
    """(weights by path for a functional call, leaves by name)."""
    leaves = {key: x.to(unet.dtype).requires_grad_() for key, x in state.items()}
    parts = {}
    for key, leaf in leaves.items():
        path, _, part = key.rpartition(".")
        parts.setdefault(path, {})[part] = leaf
    frozen = {path: unet.get_submodule(path).weight.detach() for path in parts}
    return {f"{p}.weight": written_out(frozen[p], parts[p], scale) for p in parts}, leaves


@pytest.mark.parametrize(("rank", "rank_stabilized"), [(2, False), (8, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradients_are_those_of_the_formula(make_unet, kind, rank, rank_stabilized):
    config = LoRAConfig(
        adapter=kind, rank=rank, alpha=3.0, targets=CONV, rank_stabilized=rank_stabilized, lokr_factor=4
    )
    scale = 3.0 / (rank**0.5 if rank_stabilized else rank)
    unet = make_unet(torch.float64)
    adapter = attach_adapter(copy_of := copy.deepcopy(unet), config, seed=1)
    weights, leaves = reference(unet, fill(adapter), scale)

    expected, got = predict(unet, weights), predict(copy_of)
    assert (got - expected).norm() < 1e-6 * expected.norm()
    assert (got - predict(unet)).norm() > 1e-3 * expected.norm(), "the update must do something"

    expected.square().mean().backward()
    got.square().mean().backward()
    adapter.weights.collect_gradients()
    for name, leaf in leaves.items():
        gradient = adapter.weights.view(adapter.weights.gradient, name)
        assert (gradient - leaf.grad).norm() < 1e-5 * leaf.grad.norm(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_adapter_changes_no_output(make_unet, kind, dtype):
    unet = make_unet(dtype)
    before = predict(unet)
    adapter = attach_adapter(unet, LoRAConfig(adapter=kind, rank=2, targets=CONV), seed=1)
    after = predict(unet)
    limit = 0.0 if kind != "dora" else 1e-5 if dtype == torch.float32 else 1e-2
    assert (after - before).norm() <= limit * before.norm()
    assert adapter.num_still() == len(adapter.paths)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_a_given_answer(make_unet, kind, dtype):
    unet = make_unet(dtype)
    target = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    adapter = attach_adapter(unet, LoRAConfig(adapter=kind, rank=4), seed=1)
    optimizer = torch.optim.AdamW(adapter.weights.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        adapter.weights.zero_gradients()
        loss = (predict(unet).float() - target).square().mean()
        loss.backward()
        adapter.weights.collect_gradients()
        optimizer.step()
        adapter.weights.publish()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], losses
    assert adapter.num_still() == 0


@pytest.mark.parametrize(
    ("kind", "parts"),
    [("lora", {"lora_up"}), ("dora", {"lora_up"}), ("loha", {"hada_w2_a"}), ("lokr", {"lokr_w1"})],
)
def test_lora_plus_speeds_up_what_kohya_speeds_up(make_unet, kind, parts):
    """`is_up` of the LoRA+ code in kohya's network modules: lora_up, hada_w2_a, lokr_w1."""
    adapter = attach_adapter(make_unet(), LoRAConfig(adapter=kind, rank=2), seed=1)
    assert {name.rsplit(".", 1)[1] for name in adapter.weights.names if adapter.is_up(name)} == parts


@pytest.mark.parametrize("kind", KINDS)
def test_one_layer_that_moved_is_no_longer_still(make_unet, kind):
    adapter = attach_adapter(make_unet(), LoRAConfig(adapter=kind, rank=2), seed=1)
    state = adapter.state_dict()
    name = next(key for key in state if key.endswith(("lora_up", "hada_w2_a", "lokr_w2", "lokr_w2_b")))
    state[name][0, 0] = 1e-6
    adapter.load_state_dict(state)
    assert adapter.num_still() == len(adapter.paths) - 1


def test_a_dora_whose_lengths_alone_moved_is_not_still(make_unet):
    adapter = attach_adapter(make_unet(), LoRAConfig(adapter="dora", rank=2), seed=1)
    state = adapter.state_dict()
    state[f"{adapter.paths[0]}.dora_scale"] *= 1.001
    adapter.load_state_dict(state)
    assert adapter.num_still() == len(adapter.paths) - 1


@pytest.mark.parametrize("targets", ["attention", CONV])
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_layers_act_as_the_merged_weight(make_unet, kind, targets):
    """Half a percent of the layer's output, of which bfloat16's rounding is the most."""
    unet = make_unet(torch.bfloat16)
    adapter = attach_adapter(unet, LoRAConfig(adapter=kind, rank=2, alpha=1.0, targets=targets), seed=1)
    fill(adapter)
    draw = torch.Generator().manual_seed(1)
    for path, layer in adapter.layers.items():
        shape = (
            (2, layer.base.weight.shape[1], 8, 8)
            if layer.base.weight.ndim == 4
            else (5, layer.base.in_features)
        )
        x = torch.randn(shape, generator=draw).bfloat16()
        merged = copy.deepcopy(layer.base).float()
        vars(merged).pop("forward", None)
        merged.weight.data = adapter.weight_with_update(path)
        expected = merged(x.float())
        assert (layer(x).float() - expected).norm() < 5e-3 * expected.norm(), path


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
def test_updates_that_bfloat16_would_round_away_in_the_weight_still_act(make_unet, kind):
    unet = make_unet(torch.bfloat16)
    base = unet.mid_block.attentions[0].proj_in
    base.weight.data.fill_(1.0)
    base.bias.data.zero_()
    adapter = attach_adapter(unet, LoRAConfig(adapter=kind, rank=2), seed=1)
    state = fill(adapter, size=0.1 if kind == "loha" else 0.01)
    path = "mid_block.attentions.0.proj_in"
    parts = {part: state[f"{path}.{part}"].double() for part in adapter.layers[path].parts}
    update = update_of(parts, tuple(base.weight.shape), adapter.config.scale)
    assert ((1.0 + update).bfloat16() == base.weight).double().mean() > 0.99
    x = torch.tensor([1.0, -1.0]).repeat(len(base.weight) // 2)  # the frozen weight makes nothing of it
    expected = update @ x.double()
    assert (base(x.bfloat16()).double() - expected).norm() < 2e-2 * expected.norm()


@pytest.mark.parametrize("factor", [-1, 1, 2, 4, 8, 16, 7])
@pytest.mark.parametrize("number", [1, 127, 128, 250, 320, 360, 640, 1280, 2048, 2816, 10240])
def test_factors_are_those_of_lycoris(number, factor):
    assert factorize(number, factor) == factorization(number, factor)


def lycoris_module(base, kind, rank, factor):
    extra = {"factor": factor} if kind == "lokr" else {}
    extra |= {"weight_decompose": True, "wd_on_out": False} if kind == "dora" else {}
    return LYCORIS[kind]("x", base, lora_dim=rank, alpha=3.0, **extra)


BASES = {
    "linear": lambda: torch.nn.Linear(48, 64),
    "wide": lambda: torch.nn.Linear(64, 32, bias=False),
    "conv": lambda: torch.nn.Conv2d(24, 32, 3, padding=1),
    "pointwise": lambda: torch.nn.Conv2d(24, 32, 1),
}


@pytest.mark.parametrize("rank", [2, 16])
@pytest.mark.parametrize("factor", [4, -1])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", KINDS)
def test_parts_and_alpha_are_those_of_lycoris(kind, base, factor, rank):
    layer = BASES[base]()
    config = LoRAConfig(adapter=kind, rank=rank, alpha=3.0, lokr_factor=factor)
    module = lycoris_module(layer, kind, rank, factor)
    theirs = {key.removesuffix(".weight"): tuple(x.shape) for key, x in module.custom_state_dict().items()}
    theirs.pop("alpha")
    assert part_shapes(config, tuple(layer.weight.shape), rank) == theirs
    if "lokr_w2" not in theirs:
        assert config.file_alpha(rank) == module.alpha.item()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_changed_weight_is_the_one_of_lycoris(kind, base):
    layer = BASES[base]().requires_grad_(False)
    config = LoRAConfig(adapter=kind, rank=3, alpha=2.0, lokr_factor=4)
    draw = torch.Generator().manual_seed(0)
    shapes = part_shapes(config, tuple(layer.weight.shape), 3)
    parts = {part: torch.randn(shape, generator=draw) for part, shape in shapes.items()}
    assert kind_of(parts) == kind

    def get(*names):
        return [parts.get(name) for name in names]

    if kind == "loha":
        names = get("hada_w1_b", "hada_w1_a", "hada_w2_b", "hada_w2_a")
        update = lycoris_loha.diff_weight(*names, None, None, gamma=torch.tensor(2 / 3), backend="torch")
    elif kind == "lokr":
        names = get("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
        scale = 1.0 if "lokr_w2" in parts else 2 / 3
        update = lycoris_lokr.kron_weight(*names, scale=scale, backend="torch")
    else:
        update = parts["lora_up"].flatten(1) @ parts["lora_down"].flatten(1) * (2 / 3)
    expected = layer.weight + update.reshape(layer.weight.shape)
    if kind == "dora":
        expected = weight_decompose(expected, parts["dora_scale"], 1, wd_on_out=False, backend="torch")
    torch.testing.assert_close(updated(layer.weight, parts, 2 / 3), expected)


def test_dora_starts_with_the_lengths_lycoris_starts_with(make_unet):
    unet = make_unet()
    adapter = attach_adapter(unet, LoRAConfig(adapter="dora", rank=2, targets=CONV), seed=1)
    state = adapter.state_dict()
    for path, layer in adapter.layers.items():
        base = copy.deepcopy(layer.base)
        vars(base).pop("forward", None)
        theirs = lycoris_module(base, "dora", 2, -1).dora_scale
        torch.testing.assert_close(state[f"{path}.dora_scale"], theirs.detach())
