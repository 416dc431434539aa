import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from sdxl_trainer.trainer.adapter.lora import attach_adapter
from sdxl_trainer.trainer.adapter.lora_initial import load_initial
from sdxl_trainer.trainer.config import LoRAConfig
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.lora_file import LoRAFile, read_lora, to_kohya, write_lora
from sdxl_trainer.trainer.files.lora_merge import merge_lora

KINDS = ("lora", "dora", "loha", "lokr")
CONV = "attention+ff+conv"


@pytest.fixture(scope="module")
def stand_in_unet(stand_in_folder):
    return UNet2DConditionModel.from_pretrained(stand_in_folder / "unet").requires_grad_(False).eval()


@pytest.fixture
def make(stand_in_unet):
    """A function: settings -> an adapter on a UNet of its own."""

    def attach(**settings):
        config = LoRAConfig(**{"rank": 4, "targets": CONV, **settings})
        return attach_adapter(copy.deepcopy(stand_in_unet), config, seed=1)

    return attach


def trained_file(adapter, seed=2):
    draw = torch.Generator().manual_seed(seed)
    state = adapter.state_dict()
    for key, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=draw) * 0.2
        state[key] = tensor * (1 + noise) if key.endswith("dora_scale") else noise
    return LoRAFile(to_kohya(state, adapter.config, 1), {})


@pytest.mark.parametrize(
    "settings",
    [{"alpha": 3.0}, {"rank": 8, "alpha": 1.0}, {"rank": 9, "rank_stabilized": True}],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_changes_the_weights_as_the_file_does(make, stand_in_unet, kind, settings):
    file = trained_file(make(adapter=kind, rank=4, alpha=6.0, lokr_factor=2))
    merged = copy.deepcopy(stand_in_unet)
    merge_lora(merged, file)
    adapter = make(adapter=kind, lokr_factor=2, **settings)
    assert load_initial(adapter, file, "old") == [f"started from old: {len(adapter.paths)} layers"]
    for path in adapter.paths:
        expected = merged.get_submodule(path).weight
        update = (expected - stand_in_unet.get_submodule(path).weight).norm()
        assert update > 0
        assert (adapter.weight_with_update(path) - expected).norm() < 1e-5 * update, path
    assert adapter.num_still() == 0


def test_a_split_lokr_does_not_fit_a_whole_one(make):
    settings = {"adapter": "lokr", "lokr_factor": 2, "targets": "attention"}
    file = trained_file(make(rank=4, **settings))
    adapter = make(rank=64, **settings)
    assert all("lokr_w2" in layer.parts for layer in adapter.layers.values())
    with pytest.raises(InputError, match=r"has lokr_w1, lokr_w2_a, lokr_w2_b, but .* check rank"):
        load_initial(adapter, file, "old")


@pytest.mark.parametrize("kind", ["lora", "loha", "dora"])
def test_new_ranks_can_learn(make, kind):
    """They add nothing, but not everything in them may be 0, or they would stay so."""
    adapter = make(adapter=kind, rank=8)
    load_initial(adapter, trained_file(make(adapter=kind, rank=4)), "old")
    state = adapter.state_dict()
    path = adapter.paths[0]
    fresh = {
        "lora": ["lora_down"],
        "dora": ["lora_down"],
        "loha": ["hada_w1_b", "hada_w2_b"],
    }
    assert all(state[f"{path}.{part}"][4:].all() for part in fresh[kind])


def test_a_file_on_disk_and_half_precision_do_as_well(make, tmp_path):
    source = make(rank=4, alpha=2.0)
    write_lora(tmp_path / "a.safetensors", source.state_dict(), source.config, {}, 1)
    adapter = make(rank=4, alpha=2.0)
    load_initial(adapter, read_lora(tmp_path / "a.safetensors"), "a.safetensors")
    for name, tensor in source.state_dict().items():
        torch.testing.assert_close(adapter.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


def test_tensors_without_a_file_do_as_well(make):
    adapter = make()
    file = trained_file(make())
    load_initial(adapter, file.tensors, "the wired LoRA")
    assert adapter.num_still() == 0


def test_layers_that_the_file_lacks_start_fresh(make):
    adapter = make(targets="attention+ff")
    notes = load_initial(adapter, trained_file(make(targets="attention")), "old")
    attention = len(make(targets="attention").paths)
    assert notes == [
        f"started from old: {attention} layers",
        f"{len(adapter.paths) - attention} layers that old does not have started fresh",
    ]
    assert adapter.num_still() == len(adapter.paths) - attention


def test_text_encoders_are_left_out_with_a_note(make):
    file = trained_file(make())
    name = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    tensors = {f"{name}.lora_down.weight": torch.ones(2, 8), f"{name}.lora_up.weight": torch.ones(8, 2)}
    notes = load_initial(make(), LoRAFile({**file.tensors, **tensors}, {}), "old")
    assert notes[1] == "1 layers of old outside the UNet were left out: only the UNet is trained"


@pytest.mark.parametrize("kind", ["lora", "dora", "loha"])
def test_a_larger_rank_is_refused_by_name(make, kind):
    file = trained_file(make(adapter=kind, rank=8))
    with pytest.raises(InputError, match=r"old does not fit at lora_unet_\w+: its rank 8 is larger than 4"):
        load_initial(make(adapter=kind, rank=4), file, "old")


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_is_refused_by_name(make, kind):
    other = KINDS[KINDS.index(kind) - 1]
    file = trained_file(make(adapter=other, targets="attention"))
    with pytest.raises(InputError, match=f"old is of kind {other}, but adapter is {kind}"):
        load_initial(make(adapter=kind, targets="attention"), file, "old")


def test_layers_that_are_not_trained_here_are_refused_by_name(make):
    file = trained_file(make(targets="attention+ff"))
    with pytest.raises(InputError, match=r"layers that are not trained here \(lora_unet_input_blocks_\w+"):
        load_initial(make(targets="attention"), file, "old")


def test_another_lokr_factor_is_refused_by_name(make):
    file = trained_file(make(adapter="lokr", rank=2, lokr_factor=4, targets="attention"))
    with pytest.raises(InputError, match="check lokr_factor"):
        load_initial(make(adapter="lokr", rank=2, lokr_factor=2, targets="attention"), file, "old")


def test_what_is_no_lora_or_damaged_is_refused(make):
    with pytest.raises(InputError, match="initial LoRA: old holds no LoRA in kohya's layout"):
        load_initial(make(), {"x": torch.zeros(1)}, "old")
    file = trained_file(make())
    key = next(key for key in file.tensors if key.endswith("lora_up.weight"))
    file.tensors[key][0] = float("nan")
    with pytest.raises(InputError, match=r"initial LoRA: old is damaged: .* not finite"):
        load_initial(make(), file, "old")


def test_a_layer_of_another_size_is_refused_by_name(make):
    file = trained_file(make(targets="attention"))
    key = next(key for key in file.tensors if key.endswith("attn2_to_k.lora_down.weight"))
    file.tensors[key] = torch.zeros(4, 44)
    with pytest.raises(InputError, match=r"attn2_to_k: lora_down is \(4, 44\), but must be \(4, 40\)"):
        load_initial(make(targets="attention"), file, "old")
