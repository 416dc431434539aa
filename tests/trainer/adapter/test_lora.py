import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from sdxl_trainer.trainer.adapter.lora import TARGET_NAMES, attach_adapter
from sdxl_trainer.trainer.config import LoRAConfig

TARGETS = tuple(TARGET_NAMES)


@pytest.fixture(scope="module")
def unet(stand_in_folder):
    model = UNet2DConditionModel.from_pretrained(stand_in_folder / "unet", torch_dtype=torch.float32)
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def sample():
    """Inputs of two samples, and a target."""
    draw = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    return {
        "latents": normal(2, 4, 16, 16),
        "timesteps": torch.tensor([100, 700]),
        "prompt_embeds": normal(2, 77, 40),
        "pooled": normal(2, 24),
        "time_ids": torch.tensor([[128.0, 128, 0, 0, 128, 128]] * 2),
        "target": normal(2, 4, 16, 16),
    }


def predict(unet, sample, rows=slice(None)):
    conditions = {"text_embeds": sample["pooled"][rows], "time_ids": sample["time_ids"][rows]}
    return unet(
        sample["latents"][rows].to(unet.dtype),
        sample["timesteps"][rows],
        sample["prompt_embeds"][rows].to(unet.dtype),
        added_cond_kwargs={key: value.to(unet.dtype) for key, value in conditions.items()},
    ).sample


def loss_of(unet, sample, rows=slice(None)):
    model_pred = predict(unet, sample, rows)
    error = model_pred.to(torch.promote_types(model_pred.dtype, torch.float32)) - sample["target"][rows]
    return error.square().mean()


def fill(adapter, seed=5):
    """Weights as after some training, so that every gradient is something."""
    draw = torch.Generator().manual_seed(seed)
    state = {key: torch.randn(x.shape, generator=draw) * 0.05 for key, x in adapter.state_dict().items()}
    adapter.load_state_dict(state)
    return state


def plain_peft_gradients(unet, sample, config, state):
    """Loss and gradients by diffusers and peft alone, by the names of `state`."""
    reference = copy.deepcopy(unet)
    peft_config = LoraConfig(
        r=config.rank,
        lora_alpha=config.effective_alpha,
        target_modules=list(TARGET_NAMES[config.targets]),
    )
    inject_adapter_in_model(peft_config, reference)
    weights = {}
    for name, parameter in reference.named_parameters():
        if ".lora_" not in name:
            continue
        path, which = name.removesuffix(".default.weight").rsplit(".", 1)
        key = f"{path}.{'lora_down' if which == 'lora_A' else 'lora_up'}"
        parameter.data.copy_(state[key])
        weights[key] = parameter
    loss = loss_of(reference, sample)
    loss.backward()
    return loss.item(), {key: parameter.grad for key, parameter in weights.items()}


def relative_error(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("targets", TARGETS)
def test_one_step_equals_plain_diffusers_and_peft(unet, sample, targets, checkpointing):
    config = LoRAConfig(rank=4, alpha=6.0, targets=targets)
    ours = copy.deepcopy(unet)
    adapter = attach_adapter(ours, config, seed=1)
    state = fill(adapter)
    if checkpointing:
        ours.train()
        ours.enable_gradient_checkpointing()
    loss = loss_of(ours, sample)
    loss.backward()
    adapter.weights.collect_gradients()

    expected_loss, expected = plain_peft_gradients(unet, sample, config, state)

    assert loss.item() == pytest.approx(expected_loss, rel=1e-5)
    assert set(expected) == set(adapter.weights.names)
    for name, gradient in expected.items():
        assert relative_error(adapter.weights.view(adapter.weights.gradient, name), gradient) < 1e-5, name


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fresh_lora_leaves_the_output_bit_identical(unet, sample, targets, dtype):
    model = copy.deepcopy(unet).to(dtype)
    with torch.no_grad():
        before = predict(model, sample)
    attach_adapter(model, LoRAConfig(rank=4, targets=targets), seed=1)
    assert torch.equal(predict(model, sample), before)


@pytest.mark.parametrize("targets", TARGETS)
def test_detach_restores_every_module_and_attribute(unet, sample, targets):
    modules_before = dict(unet.named_modules())
    attributes_before = {path: dict(vars(module)) for path, module in modules_before.items()}
    processors_before = unet.attn_processors
    attach_adapter(unet, LoRAConfig(rank=2, targets=targets), seed=1).detach()
    modules_after = dict(unet.named_modules())
    assert list(modules_after) == list(modules_before)
    assert all(modules_after[path] is module for path, module in modules_before.items())
    for path, module in modules_after.items():
        assert vars(module).keys() == attributes_before[path].keys(), path
    after = unet.attn_processors
    assert all(after[path] is processor for path, processor in processors_before.items())
    assert not any(parameter.requires_grad for parameter in unet.parameters())


def test_only_the_lora_gets_gradients(unet, sample):
    model = copy.deepcopy(unet)
    adapter = attach_adapter(model, LoRAConfig(rank=2, targets="attention+ff+conv"), seed=1)
    fill(adapter)
    loss_of(model, sample).backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert adapter.weights.grad_norm() > 0


def test_same_seed_gives_the_same_bytes_and_another_seed_others(unet):
    def drawn(seed):
        adapter = attach_adapter(unet, LoRAConfig(rank=4), seed)
        state = adapter.state_dict()
        adapter.detach()
        return state

    first, again, other = drawn(2**64 - 1), drawn(2**64 - 1), drawn(0)
    assert all(torch.equal(first[key], again[key]) for key in first)
    downs = [key for key in first if key.endswith(".lora_down")]
    assert not any(torch.equal(first[key], other[key]) for key in downs)
    assert all(not first[key].any() for key in first if key.endswith(".lora_up"))


def test_attaching_draws_nothing_from_the_global_generator(unet):
    before = torch.get_rng_state()
    attach_adapter(unet, LoRAConfig(rank=4), seed=1).detach()
    assert torch.equal(torch.get_rng_state(), before)


def test_down_weights_lie_within_kaiming_bounds(unet):
    adapter = attach_adapter(unet, LoRAConfig(rank=8, targets="attention+ff+conv"), seed=1)
    state = adapter.state_dict()
    adapter.detach()
    key = "mid_block.resnets.0.conv1.lora_down"  # (8, 128, 3, 3)
    bound = (128 * 9) ** -0.5
    assert bound * 0.99 < state[key].abs().max() <= bound
    assert state[key].std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_rank_alpha_and_targets_all_move_something(unet, sample):
    def outcome(**changes):
        model = copy.deepcopy(unet)
        adapter = attach_adapter(
            model, LoRAConfig(**{"rank": 4, "alpha": 2.0, "targets": "attention", **changes}), 1
        )
        fill(adapter)
        return len(adapter.layers), adapter.weights.master.numel(), predict(model, sample).sum().item()

    base = outcome()
    assert outcome(rank=8)[1] == 2 * base[1]
    assert outcome(alpha=4.0)[2] != base[2]
    assert outcome(alpha=0.0)[2] == outcome(alpha=4.0)[2], "alpha 0 means rank"
    assert base[0] < outcome(targets="attention+ff")[0] < outcome(targets="attention+ff+conv")[0]


def test_four_micro_steps_of_one_equal_one_of_four(unet, sample):
    four = {key: torch.cat([value, value.flip(0) * 0.5]) for key, value in sample.items()}
    four["timesteps"] = torch.tensor([100, 700, 5, 999])
    # in float64, because a batch of four already rounds otherwise than four of one in the frozen layers
    model = copy.deepcopy(unet).double()
    adapter = attach_adapter(model, LoRAConfig(rank=4, targets="attention+ff+conv"), seed=1)
    weights = adapter.weights
    fill(adapter)
    loss_of(model, four).backward()
    weights.collect_gradients()
    whole = weights.gradient.clone()
    weights.zero_gradients()
    for index in range(4):
        (loss_of(model, four, slice(index, index + 1)) / 4).backward()
        weights.collect_gradients()
    assert relative_error(weights.gradient, whole) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_gradients_point_where_float32_ones_do(unet, sample, dtype):
    gradients = {}
    for kind in (torch.float32, dtype):
        model = copy.deepcopy(unet).to(kind)
        adapter = attach_adapter(model, LoRAConfig(rank=4, targets="attention+ff+conv"), seed=1)
        fill(adapter)
        loss_scale = 1.0 if kind == torch.float32 else 64.0
        (loss_of(model, sample) * loss_scale).backward()
        adapter.weights.collect_gradients(1 / loss_scale)
        gradients[kind] = adapter.weights.gradient
        assert adapter.weights.gradient.dtype == torch.float32
    assert torch.cosine_similarity(gradients[dtype], gradients[torch.float32], dim=0) > 0.99
    assert gradients[dtype].norm() == pytest.approx(gradients[torch.float32].norm().item(), rel=0.05)


def test_state_of_another_lora_is_refused(unet):
    adapter = attach_adapter(unet, LoRAConfig(rank=4), seed=1)
    state = adapter.state_dict()
    key = next(iter(state))
    with pytest.raises(ValueError, match="weights are not the ones"):
        adapter.load_state_dict({key: state[key]})
    with pytest.raises(ValueError, match="but must be"):
        adapter.load_state_dict({**state, key: state[key][:1]})
    with pytest.raises(ValueError, match="already"):
        attach_adapter(unet, LoRAConfig(rank=4), seed=1)
    adapter.detach()
