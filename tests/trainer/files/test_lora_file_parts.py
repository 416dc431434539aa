"""A LoRA file with all it can hold: layers of three networks, of every kind, and embeddings."""

import itertools

import pytest
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel
from sdxl_trainer.trainer.adapter.lora import attach_adapter, attach_text_adapter
from sdxl_trainer.trainer.config import LoRAConfig
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.embedding_file import bundle, read_words, word_metadata
from sdxl_trainer.trainer.files.lora_file import LoRAFile, read_lora, to_kohya, write_lora
from sdxl_trainer.trainer.files.lora_merge import merge_lora, merge_text_lora
from sdxl_trainer.trainer.files.lora_names import to_diffusers_paths
from sdxl_trainer.trainer.text.new_tokens import NewTokens
from transformers import CLIPTextModel, CLIPTextModelWithProjection

KINDS = ("lora", "dora", "loha", "lokr")
SIZES = ((1, 0.5, 3), (4, 6.0, 4), (8, 2.0, 2))
NETWORKS = ("unet", "text", "unet+text", "words")
WORDS = NewTokens((("TOK", 2), ("STY", 1)))
STAND_IN_LAYERS = 1


@pytest.fixture(scope="module")
def networks(stand_in_folder):
    def load(kind, folder):
        return kind.from_pretrained(stand_in_folder / folder).float().requires_grad_(False).eval()

    return {
        "unet": load(UNet2DConditionModel, "unet"),
        "clip_l": load(CLIPTextModel, "text_encoder"),
        "clip_g": load(CLIPTextModelWithProjection, "text_encoder_2"),
    }


def attached(networks, config, text_rank, which):
    adapters = [attach_adapter(networks["unet"], config, seed=1)] if "unet" in which else []
    if "text" in which:
        adapters += [
            attach_text_adapter(networks[name], name, config, text_rank, 1) for name in ("clip_l", "clip_g")
        ]
    return adapters


def trained_state(adapters):
    draw = torch.Generator().manual_seed(2)
    state = {}
    for adapter in adapters:
        for key, x in adapter.state_dict().items():
            noise = torch.randn(x.shape, generator=draw) * 0.1
            state[key] = x * (1 + noise) if key.endswith("dora_scale") else noise
    return state


def vectors():
    draw = torch.Generator().manual_seed(3)
    return {"clip_l": torch.randn(3, 16, generator=draw), "clip_g": torch.randn(3, 24, generator=draw)}


@pytest.mark.parametrize(
    ("kind", "size", "which", "has_bundle"),
    [x for x in itertools.product(KINDS, SIZES, NETWORKS, (False, True)) if x[3] or x[2] != "words"],
)
def test_what_is_written_is_read_back(networks, tmp_path, kind, size, which, has_bundle):
    rank, alpha, text_rank = size
    config = LoRAConfig(adapter=kind, rank=rank, alpha=alpha, lokr_factor=2)
    adapters = attached(networks, config, text_rank, which)
    state = trained_state(adapters)
    for adapter in adapters:
        adapter.detach()
    bundled = bundle("cat_emb", vectors(), WORDS) if has_bundle else {}
    metadata = word_metadata("cat_emb", WORDS) if has_bundle else {}
    path = tmp_path / "a.safetensors"
    write_lora(path, state, config, metadata, STAND_IN_LAYERS, "fp32", bundled)

    lora = read_lora(path)
    back = {
        f"{layer}.{part}": x
        for name, layer in to_diffusers_paths(lora.names, STAND_IN_LAYERS).items()
        for part, x in lora.parts[name].items()
    }
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], x) for key, x in state.items())
    scales = [lora.scale_of(name) for name in lora.names if lora.rank_of(name)]
    assert scales == pytest.approx([alpha / rank] * len(scales))
    found = {lora.rank_of(name) for name in lora.names if name.startswith("lora_te")}
    assert found <= {text_rank, 0}
    assert bool(found) == ("text" in which)
    assert lora.kinds == ({kind} if adapters else set())
    words = read_words(lora, lambda stem: None)
    assert (words is not None) == has_bundle
    if words is not None:
        joined = {
            key: torch.cat([own[key] for own in words.vectors.values()]) for key in ("clip_l", "clip_g")
        }
        assert all(torch.equal(joined[key], x) for key, x in vectors().items())


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_embeddings_are_never_rounded_and_round_nothing_else(networks, tmp_path, precision):
    """A vector's number that fp16 cannot hold would otherwise make the whole file fp32."""
    config = LoRAConfig(rank=2)
    adapters = attached(networks, config, 2, "text")
    state = trained_state(adapters)
    for adapter in adapters:
        adapter.detach()
    own = {key: x * 1e6 for key, x in vectors().items()}
    write_lora(tmp_path / "a", state, config, {}, STAND_IN_LAYERS, precision, bundle("cat_emb", own, WORDS))
    write_lora(tmp_path / "b", state, config, {}, STAND_IN_LAYERS, precision)
    got, expected = read_lora(tmp_path / "a").tensors, read_lora(tmp_path / "b").tensors
    layers = {key: x for key, x in got.items() if not key.startswith("bundle_emb.")}
    assert layers.keys() == expected.keys()
    assert all(torch.equal(x, expected[key]) and x.dtype == expected[key].dtype for key, x in layers.items())
    assert torch.equal(got["bundle_emb.cat_emb_sty.clip_l"], own["clip_l"][2:])


@pytest.mark.parametrize("kind", KINDS)
def test_merging_changes_each_network_as_its_adapter_does(networks, kind):
    config = LoRAConfig(adapter=kind, rank=4, alpha=6.0, lokr_factor=2)
    adapters = attached(networks, config, 2, "unet+text")
    state = trained_state(adapters)
    expected = {}
    for adapter in adapters:
        adapter.load_state_dict({key: state[key] for key in adapter.weights.names})
        expected |= {path: adapter.weight_with_update(path) for path in adapter.paths}
        adapter.detach()
    lora = LoRAFile(to_kohya(state, config, STAND_IN_LAYERS), {})
    before = {name: {k: x.clone() for k, x in n.state_dict().items()} for name, n in networks.items()}
    try:
        num = [merge_lora(networks["unet"], lora)]
        num += [merge_text_lora(networks[name], name, lora) for name in ("clip_l", "clip_g")]
        assert num == [len(adapter.paths) for adapter in adapters]
        for path, weight in expected.items():
            base = adapters[["mid", "text_encoder", "text_encoder_2"].index(first(path))].layers[path].base
            torch.testing.assert_close(base.weight, weight, rtol=1e-5, atol=1e-5)
    finally:
        for name, network in networks.items():
            network.load_state_dict(before[name])


def first(path):
    return path.split(".")[0] if path.startswith("text_encoder") else "mid"


def test_a_text_layer_of_another_size_or_place_is_refused(networks):
    for layer, words in (
        ("layers_0_mlp_fc1", "another size"),
        ("layers_77_mlp_fc1", "not in this text encoder"),
    ):
        name = f"lora_te1_text_model_encoder_{layer}"
        tensors = {f"{name}.lora_down.weight": torch.ones(2, 8), f"{name}.lora_up.weight": torch.ones(8, 2)}
        with pytest.raises(InputError, match=words):
            merge_text_lora(networks["clip_l"], "clip_l", LoRAFile(tensors, {}))
        assert merge_text_lora(networks["clip_g"], "clip_g", LoRAFile(tensors, {})) == 0


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"bundle_emb.cat.clip_l": (2, 16)}, "embedding 'cat' that holds clip_l, but one for SDXL holds"),
        (
            {"bundle_emb.cat.clip_l": (2, 16), "bundle_emb.cat.clip_g": (1, 24)},
            "'cat' that is damaged: it has 2",
        ),
        ({"bundle_emb.cat.clip_l": (2, 24), "bundle_emb.cat.clip_g": (2, 16)}, "'cat' that is not for SDXL"),
        ({"bundle_emb.cat.emb_params": (2, 768)}, "that holds emb_params"),
        ({"bundle_emb.clip_l": (2, 768)}, "embedding '' that holds clip_l"),
        (
            {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (2, 768)},
            "LoRA for SD 1.x or 2.x",
        ),
    ],
)
def test_damaged_embeddings_are_named(tmp_path, tensors, words):
    file = tmp_path / "a.safetensors"
    safetensors.torch.save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, file)
    with pytest.raises(InputError, match=words):
        read_lora(file)


def test_a_file_of_nothing_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="needs layers or embeddings"):
        write_lora(tmp_path / "a.safetensors", {}, LoRAConfig(), {})
    assert not list(tmp_path.iterdir())
