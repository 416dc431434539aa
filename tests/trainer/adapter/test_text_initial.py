"""Starting from a file with layers of text encoders, and with words."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from sdxl_trainer.trainer.adapter.lora import attach_adapter, attach_text_adapter
from sdxl_trainer.trainer.adapter.lora_initial import load_initial, load_initial_text
from sdxl_trainer.trainer.config import LoRAConfig
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.embedding_file import bundle
from sdxl_trainer.trainer.files.lora_file import LoRAFile
from sdxl_trainer.trainer.files.lora_layout import to_kohya
from sdxl_trainer.trainer.files.lora_merge import merge_text_lora
from sdxl_trainer.trainer.text.new_tokens import NewTokens
from transformers import CLIPTextModel, CLIPTextModelWithProjection

KINDS = ("lora", "dora", "loha", "lokr")
CLASSES = {"clip_l": CLIPTextModel, "clip_g": CLIPTextModelWithProjection}
FOLDERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
TITLES = {"clip_l": "text encoder CLIP-L", "clip_g": "text encoder CLIP-G"}
NUM_LAYERS = 3 * 6


@pytest.fixture(scope="module")
def encoders(stand_in_folder):
    found = {name: kind.from_pretrained(stand_in_folder / FOLDERS[name]) for name, kind in CLASSES.items()}
    return {name: encoder.float().requires_grad_(False).eval() for name, encoder in found.items()}


@pytest.fixture(scope="module")
def stand_in_unet(stand_in_folder):
    return UNet2DConditionModel.from_pretrained(stand_in_folder / "unet").requires_grad_(False).eval()


@pytest.fixture
def make(encoders, stand_in_unet):
    """A function: network, rank, settings -> an adapter on a copy of its own."""

    def attach(name, rank=4, **settings):
        config = LoRAConfig(**{"rank": rank, **settings})
        if name == "unet":
            return attach_adapter(copy.deepcopy(stand_in_unet), config, seed=1)
        return attach_text_adapter(copy.deepcopy(encoders[name]), name, config, rank, seed=1)

    return attach


def trained_file(*adapters, seed=2):
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for adapter in adapters:
        state = adapter.state_dict()
        for key, tensor in state.items():
            noise = torch.randn(tensor.shape, generator=draw) * 0.2
            state[key] = tensor * (1 + noise) if key.endswith("dora_scale") else noise
        tensors |= to_kohya(state, adapter.config, 1)
    return LoRAFile(tensors, {})


@pytest.mark.parametrize("settings", [{"alpha": 3.0}, {"rank": 5, "alpha": 1.0}, {"rank": 5}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CLASSES)
def test_the_adapter_changes_the_weights_as_the_file_does(make, encoders, name, kind, settings):
    file = trained_file(
        make("clip_l", adapter=kind, alpha=6.0, lokr_factor=2),
        make("clip_g", adapter=kind, alpha=6.0, lokr_factor=2),
    )
    merged = copy.deepcopy(encoders[name])
    merge_text_lora(merged, name, file)
    adapter = make(name, adapter=kind, lokr_factor=2, **settings)
    assert load_initial_text(adapter, file, "old") == [
        f"started from old: {NUM_LAYERS} layers of the {TITLES[name]}"
    ]
    modules = {id(x): path for path, x in adapter.network.named_modules()}
    for path in adapter.paths:
        inner = modules[id(adapter.layers[path].base)]
        expected, before = (x.get_submodule(inner).weight for x in (merged, encoders[name]))
        update = (expected - before).norm()
        assert update > 0
        assert (adapter.weight_with_update(path) - expected).norm() < 1e-5 * update, path
    assert adapter.num_still() == 0


def test_an_encoder_that_the_file_lacks_starts_fresh_with_a_note(make):
    file = trained_file(make("unet"), make("clip_l"))
    adapter = make("clip_g")
    before = adapter.state_dict()
    assert load_initial_text(adapter, file, "old") == [
        "old has no layer of the text encoder CLIP-G, which starts fresh"
    ]
    assert all(torch.equal(x, before[key]) for key, x in adapter.state_dict().items())


def test_layers_that_the_file_lacks_start_fresh(make):
    file = trained_file(make("clip_l"))
    tensors = {key: x for key, x in file.tensors.items() if "_mlp_" in key}
    adapter = make("clip_l")
    assert load_initial_text(adapter, LoRAFile(tensors, {}), "old") == [
        "started from old: 6 layers of the text encoder CLIP-L",
        "12 layers of the text encoder CLIP-L that old does not have started fresh",
    ]


@pytest.mark.parametrize(
    ("trained", "note"),
    [
        ((), "36 layers of old outside the UNet were left out: only the UNet is trained"),
        (
            ("clip_g",),
            "18 layers of old outside the UNet were left out: only the UNet and the text encoder CLIP-G are "
            "trained",
        ),
        (("clip_l", "clip_g"), None),
    ],
)
def test_what_is_left_out_is_told(make, trained, note):
    file = trained_file(make("unet"), make("clip_l"), make("clip_g"))
    notes = load_initial(make("unet"), file, "old", trained)
    assert notes[1:] == ([note] if note else [])


def test_a_file_of_text_layers_alone_is_enough_where_they_are_trained(make):
    file = trained_file(make("clip_l"))
    adapter = make("unet")
    assert load_initial(adapter, file, "old", ("clip_l", "clip_g")) == [
        "old has no layer of the UNet, which starts fresh"
    ]
    assert adapter.num_still() == len(adapter.paths)
    with pytest.raises(InputError, match="old holds no layer of the UNet, which is what is trained"):
        load_initial(adapter, file, "old")
    with pytest.raises(InputError, match="no layer of the UNet or text encoder CLIP-G, which are what is"):
        load_initial(adapter, file, "old", ("clip_g",))


def test_words_of_the_file_are_left_out_with_a_note(make):
    file = trained_file(make("unet"))
    vectors = {"clip_l": torch.ones(2, 16), "clip_g": torch.ones(2, 24)}
    words = bundle("old_emb", vectors, NewTokens((("TOK", 2),)))
    adapter = make("unet")
    told = (
        "the new words that old was trained with were left out, captions read them as plain text: to go on "
        "with them, put Apply LoRA in front of the trainer in place of initial_lora"
    )
    for lora in (LoRAFile(file.tensors | words, {}), LoRAFile(file.tensors, {"sdxl_trainer_words": "[]"})):
        assert load_initial(adapter, lora, "old")[1:] == [told]
        assert adapter.num_still() == 0


def test_words_alone_are_nothing_to_start_from(make):
    words = bundle(
        "old_emb", {"clip_l": torch.ones(2, 16), "clip_g": torch.ones(2, 24)}, NewTokens((("TOK", 2),))
    )
    with pytest.raises(InputError, match=r"old holds new words and no layers.* put Apply LoRA in front"):
        load_initial(make("unet"), LoRAFile(words, {}), "old")


def test_a_larger_rank_names_the_setting_of_the_text_encoders(make):
    file = trained_file(make("clip_l", rank=8))
    with pytest.raises(
        InputError, match=r"lora_te1_\w+: its rank 8 is larger than 4: set text_encoder_rank to it"
    ):
        load_initial_text(make("clip_l"), file, "old")


def test_another_kind_or_a_damaged_file_is_refused_by_name(make):
    with pytest.raises(InputError, match="old is of kind loha, but adapter is lora"):
        load_initial_text(make("clip_l"), trained_file(make("clip_l", adapter="loha")), "old")
    file = trained_file(make("clip_l"))
    file.tensors.pop("lora_te1_text_model_encoder_layers_1_mlp_fc1.lora_up.weight")
    with pytest.raises(InputError, match=r"initial LoRA: old is damaged: lora_te1_\w+ has no lora_up"):
        load_initial_text(make("clip_l"), file, "old")


def test_layers_of_a_larger_encoder_are_refused(make):
    name = "lora_te1_text_model_encoder_layers_11_mlp_fc1"
    tensors = {f"{name}.lora_down.weight": torch.ones(2, 768), f"{name}.lora_up.weight": torch.ones(3072, 2)}
    with pytest.raises(
        InputError, match=r"has 1 layers that are not trained here \(lora_te1_\w+\): use the model family"
    ):
        load_initial_text(make("clip_l"), LoRAFile(tensors, {}), "old")
