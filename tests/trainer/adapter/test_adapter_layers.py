import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from sdxl_trainer.trainer.adapter.adapter_layers import TARGET_NAMES, choose_layers
from sdxl_trainer.trainer.adapter.lora import attach_adapter
from sdxl_trainer.trainer.config import LoRAConfig
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.lora_layout import to_kohya
from sdxl_trainer.trainer.files.lora_names import to_sgm_paths
from sdxl_trainer.trainer.settings.lora_config import parse_block_ranks

SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (32, 64, 128),
    "cross_attention_dim": 8,
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2, 10),
}


@pytest.fixture(scope="module")
def sdxl():
    """As many layers as SDXL, without weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(**SDXL)


@pytest.fixture(scope="module")
def stand_in_unet(stand_in_folder):
    return UNet2DConditionModel.from_pretrained(stand_in_folder / "unet").requires_grad_(False).eval()


@pytest.mark.parametrize(
    ("targets", "num"), [("attention", 560), ("attention+ff", 722), ("attention+ff+conv", 788)]
)
def test_targets_choose_as_many_layers_as_kohya(sdxl, targets, num):
    ranks = choose_layers(sdxl, LoRAConfig(rank=4, targets=targets))
    assert len(ranks) == num
    assert set(ranks.values()) == {4}


@pytest.mark.parametrize(
    ("blocks", "prefixes"),
    [
        ("content", ("up_blocks.0.attentions.0.",)),
        ("style", ("up_blocks.0.attentions.1.",)),
        ("style+content", ("up_blocks.0.attentions.0.", "up_blocks.0.attentions.1.")),
    ],
)
def test_blocks_are_those_of_b_lora(sdxl, blocks, prefixes):
    """`get_target_modules` of B-LoRA's blora_utils.py: four matrices in each attention of these blocks."""
    attentions = [name.rsplit(".", 1)[0] for name in sdxl.attn_processors if name.startswith(prefixes)]
    expected = {f"{name}.{matrix}" for name in attentions for matrix in ("to_k", "to_q", "to_v", "to_out.0")}
    assert set(choose_layers(sdxl, LoRAConfig(targets="attention", blocks=blocks))) == expected
    assert len(expected) == 80 * len(prefixes)


def test_the_longest_prefix_decides_and_ends_at_a_dot(sdxl):
    text = "input_blocks.4=8, middle_block=0\noutput_blocks.0.1=32, input_blocks.4.1.proj_in=2,,\n"
    text += " input_blocks = 5"
    ranks = choose_layers(sdxl, LoRAConfig(rank=16, block_ranks=text))
    for path, place in to_sgm_paths([p for p, _ in sdxl.named_modules() if p in ranks]).items():
        expected = 16
        if place.startswith("input_blocks."):
            expected = 5
        if place.startswith("input_blocks.4."):
            expected = 2 if place == "input_blocks.4.1.proj_in" else 8
        if place.startswith("output_blocks.0.1."):
            expected = 32
        assert ranks[path] == expected, place
    assert not any(path.startswith("mid_block") for path in ranks)
    assert len(ranks) == 722 - 10 * 10 - 2


def test_input_blocks_1_is_not_input_blocks_10(sdxl):
    with pytest.raises(InputError, match=r"names input_blocks\.1, where no layer is trained"):
        choose_layers(sdxl, LoRAConfig(block_ranks="input_blocks.1=4", targets="attention"))
    config = LoRAConfig(rank=16, block_ranks="output_blocks.1=4")
    ranks = choose_layers(sdxl, config)
    assert sum(rank == 4 for rank in ranks.values()) == 102


def test_an_unknown_block_is_refused_with_those_there_are(sdxl):
    with pytest.raises(InputError) as caught:
        choose_layers(sdxl, LoRAConfig(block_ranks="up_blocks.0=4, middle_block=8"))
    message = str(caught.value)
    assert "names up_blocks.0, where no layer" in message
    assert "input_blocks.4, input_blocks.5, input_blocks.7, input_blocks.8, " in message
    assert message.endswith("output_blocks.4, output_blocks.5, middle_block.1")


@pytest.mark.parametrize(
    "text", ["middle_block", "=4", "middle_block=", "middle_block=1.5", "middle_block=-1"]
)
def test_what_is_no_entry_is_refused_by_its_own_words(text):
    with pytest.raises(InputError, match=f"block_ranks has '{text}'"):
        LoRAConfig(block_ranks=f"input_blocks.4=4, {text}")


def test_too_large_and_repeated_ranks_are_refused():
    with pytest.raises(InputError, match="middle_block=1025"):
        LoRAConfig(block_ranks="middle_block=1025")
    with pytest.raises(InputError, match="names middle_block twice"):
        LoRAConfig(block_ranks="middle_block=4, middle_block=8")
    assert parse_block_ranks(" a.b = 4 ,\n\n c=0") == {"a.b": 4, "c": 0}


def test_nothing_left_to_train_is_refused(sdxl):
    text = "input_blocks=0, middle_block=0, output_blocks=0"
    with pytest.raises(InputError, match="no layer is left to train: targets attention, blocks all"):
        choose_layers(sdxl, LoRAConfig(targets="attention", block_ranks=text))
    with pytest.raises(InputError, match="blocks style"):
        choose_layers(sdxl, LoRAConfig(blocks="style", block_ranks="output_blocks=0"))


@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr"])
def test_ranks_of_blocks_reach_the_weights_and_leave_the_scale(stand_in_unet, kind):
    unet = copy.deepcopy(stand_in_unet)
    config = LoRAConfig(adapter=kind, rank=4, alpha=2.0, block_ranks="middle_block=2, output_blocks.1=0")
    adapter = attach_adapter(unet, config, seed=1)
    layers = to_kohya(adapter.state_dict(), config, layers_per_block=1)
    assert not any("output_blocks_1_" in key for key in layers)
    down = {"lora": "lora_down.weight", "dora": "lora_down.weight", "loha": "hada_w1_b", "lokr": "lokr_w2_b"}
    found = set()
    for key in layers:
        if key.endswith(down[kind]):
            name = key.removesuffix(f".{down[kind]}")
            found.add(len(layers[key]))
            assert len(layers[key]) == (2 if "middle_block" in name else 4)
            assert layers[f"{name}.alpha"].item() / len(layers[key]) == config.scale == 0.5
    assert found == {2, 4}


def test_layers_of_one_input_with_other_ranks_still_give_their_gradients(stand_in_unet):
    """to_q, to_k and to_v normally run as one."""
    unet = copy.deepcopy(stand_in_unet)
    config = LoRAConfig(rank=4, block_ranks="middle_block.1.transformer_blocks.0.attn1.to_q=2")
    adapter = attach_adapter(unet, config, seed=1)
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    assert attention.processor.query_key_value is None
    assert unet.mid_block.attentions[0].transformer_blocks[0].attn2.processor.key_value is not None
    adapter.load_state_dict({key: x + 0.01 for key, x in adapter.state_dict().items()})
    attention(torch.randn(1, 4, 128, generator=torch.Generator().manual_seed(0))).square().mean().backward()
    adapter.weights.collect_gradients()
    for name in ("to_q", "to_v"):
        key = f"mid_block.attentions.0.transformer_blocks.0.attn1.{name}.lora_up"
        assert adapter.weights.view(adapter.weights.gradient, key).any()


def test_every_setting_of_the_lora_reaches_the_adapter(stand_in_unet):
    """What each setting alone changes: the layers, the shapes, the scale, the file's alpha or the dropout."""

    def outcome(**changes):
        config = LoRAConfig(**{"rank": 4, "alpha": 2.0, "targets": "attention", **changes})
        adapter = attach_adapter(copy.deepcopy(stand_in_unet), config, seed=1)
        file = to_kohya(adapter.state_dict(), config, 1)
        state = adapter.state_dict()
        return {
            "layers": tuple(adapter.paths),
            "shapes": tuple((name.rsplit(".", 1)[1], tuple(x.shape)) for name, x in state.items()),
            "scale": config.scale,
            "alphas": {x.item() for key, x in file.items() if key.endswith(".alpha")},
            "dropout": {
                (x.dropout.values, x.dropout.ranks, x.dropout.modules) if x.dropout else None
                for x in adapter.layers.values()
            },
        }

    base = outcome()

    def changed_by(**changes):
        new = outcome(**changes)
        return {key for key in base if new[key] != base[key]}

    assert changed_by(rank=2) == {"shapes", "scale"}
    assert changed_by(alpha=3.0) == {"scale", "alphas"}
    assert changed_by(targets="attention+ff") == {"layers", "shapes"}
    assert changed_by(adapter="dora") == {"shapes"}
    assert changed_by(adapter="loha") == {"shapes"}
    assert changed_by(adapter="lokr") == {"shapes", "alphas"}, "some layers are whole: no scale"
    assert changed_by(rank_stabilized=True) == {"scale", "alphas"}
    assert changed_by(dropout=0.1) == {"dropout"}
    assert changed_by(rank_dropout=0.1) == {"dropout"}
    assert changed_by(module_dropout=0.1) == {"dropout"}
    assert changed_by(blocks="style") == {"layers", "shapes"}
    assert changed_by(block_ranks="middle_block=2") == {"shapes", "alphas"}
    assert changed_by(lokr_factor=4) == set()
    base = outcome(adapter="lokr")
    assert changed_by(adapter="lokr", lokr_factor=4) == {"shapes", "alphas"}


def test_the_target_names_are_endings_of_sdxl(sdxl):
    paths = [path for path, _ in sdxl.named_modules()]
    for names in TARGET_NAMES.values():
        assert all(any(path.endswith(f".{name}") for path in paths) for name in names)
