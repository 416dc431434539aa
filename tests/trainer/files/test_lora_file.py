import copy

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from sdxl_trainer.trainer.adapter.lora import TARGET_NAMES, attach_adapter
from sdxl_trainer.trainer.config import LoRAConfig
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.lora_file import (
    DTYPES,
    read_lora,
    to_diffusers,
    to_kohya,
    write_diffusers_lora,
    write_lora,
)

TARGETS = tuple(TARGET_NAMES)
STAND_IN_LAYERS = 1
NAME = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
PATH = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.fixture(scope="module")
def unet(stand_in_folder):
    model = UNet2DConditionModel.from_pretrained(stand_in_folder / "unet", torch_dtype=torch.float32)
    return model.requires_grad_(False).eval()


def trained_adapter(unet, config, size=0.05):
    adapter = attach_adapter(unet, config, seed=1)
    draw = torch.Generator().manual_seed(2)
    adapter.load_state_dict(
        {key: torch.randn(x.shape, generator=draw) * size for key, x in adapter.state_dict().items()}
    )
    return adapter


def trained_state(unet, config, size=0.05):
    adapter = trained_adapter(unet, config, size)
    state = adapter.state_dict()
    adapter.detach()
    return state


def small_state(**changes):
    """One layer of real SDXL."""
    draw = torch.Generator().manual_seed(1)
    state = {
        f"{PATH}.lora_down": torch.randn(4, 2048, generator=draw),
        f"{PATH}.lora_up": torch.randn(640, 4, generator=draw),
    }
    return {**state, **changes}


def predict(unet):
    draw = torch.Generator().manual_seed(3)
    return unet(
        torch.randn(1, 4, 16, 16, generator=draw),
        torch.tensor([500]),
        torch.randn(1, 77, 40, generator=draw),
        added_cond_kwargs={
            "text_embeds": torch.randn(1, 24, generator=draw),
            "time_ids": torch.tensor([[128.0, 128, 0, 0, 128, 128]]),
        },
    ).sample.detach()


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize(("rank", "alpha"), [(1, 0.5), (4, 4.0), (8, 12.0)])
@pytest.mark.parametrize("kind", ["lora", "dora", "loha"])
def test_what_is_written_is_read_back(unet, tmp_path, rank, alpha, targets, kind):
    config = LoRAConfig(adapter=kind, rank=rank, alpha=alpha, targets=targets)
    state = trained_state(unet, config)
    write_lora(tmp_path / "a.safetensors", state, config, {"k": "v"}, STAND_IN_LAYERS, "fp32")
    lora = read_lora(tmp_path / "a.safetensors")
    expected = to_kohya(state, config, STAND_IN_LAYERS)
    assert lora.tensors.keys() == expected.keys()
    assert all(torch.equal(lora.tensors[key], tensor) for key, tensor in expected.items())
    assert (lora.ranks, lora.alphas) == ({rank}, {alpha})
    assert lora.kinds == {kind}
    assert {lora.scale_of(name) for name in lora.names} == {alpha / rank}
    assert sum(map(len, lora.parts.values())) == len(state)
    assert lora.metadata["k"] == "v"


def test_a_lokr_has_a_scale_only_where_it_has_a_rank(unet, tmp_path):
    config = LoRAConfig(adapter="lokr", rank=4, alpha=2.0)
    state = trained_state(unet, config)
    write_lora(tmp_path / "a.safetensors", state, config, {}, STAND_IN_LAYERS)
    lora = read_lora(tmp_path / "a.safetensors")
    found = {(lora.rank_of(name), lora.alpha_of(name), lora.scale_of(name)) for name in lora.names}
    assert found == {(4, 2.0, 0.5), (0, 4.0, 1.0)}
    assert lora.kinds == {"lokr"}
    assert sum(map(len, lora.parts.values())) == len(state)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_lengths_of_a_dora_are_never_rounded(unet, tmp_path, precision):
    config = LoRAConfig(adapter="dora", rank=4)
    state = trained_state(unet, config)
    write_lora(tmp_path / "a.safetensors", state, config, {}, STAND_IN_LAYERS, precision)
    tensors = read_lora(tmp_path / "a.safetensors").tensors
    expected = to_kohya(state, config, STAND_IN_LAYERS)
    lengths = [key for key in tensors if key.endswith(".dora_scale")]
    assert lengths
    assert all(torch.equal(tensors[key], expected[key]) for key in lengths)
    assert {x.dtype for key, x in tensors.items() if key.endswith("up.weight")} == {DTYPES[precision]}


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr"])
def test_diffusers_format_has_no_place_for_other_kinds(unet, tmp_path, kind):
    config = LoRAConfig(adapter=kind, rank=4, targets="attention")
    write_lora(tmp_path / "a.safetensors", trained_state(unet, config), config, {}, STAND_IN_LAYERS)
    with pytest.raises(InputError, match=f"holds plain LoRAs only, but this is a {kind}"):
        write_diffusers_lora(
            tmp_path / "b.safetensors", read_lora(tmp_path / "a.safetensors"), STAND_IN_LAYERS
        )
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"rank": 4, "alpha": 1.0, "targets": "attention"},
        {"rank": 2, "alpha": 3.0, "rank_stabilized": True, "block_ranks": "middle_block=4"},
        {"rank": 4, "alpha": 6.0, "targets": "attention+ff+conv"},
    ],
    ids=str,
)
def test_diffusers_loads_its_copy_with_the_same_effect(unet, stand_in_folder, tmp_path, settings):
    config = LoRAConfig(**settings)
    base = predict(unet)
    live = trained_adapter(model := copy.deepcopy(unet), config, size=0.2)
    expected = predict(model)
    kohya_file, diffusers_file = tmp_path / "kohya.safetensors", tmp_path / "diffusers.safetensors"
    write_lora(kohya_file, live.state_dict(), config, {}, STAND_IN_LAYERS, "fp32")
    write_diffusers_lora(diffusers_file, read_lora(kohya_file), STAND_IN_LAYERS)

    pipeline = StableDiffusionXLPipeline.from_pretrained(stand_in_folder, torch_dtype=torch.float32)
    pipeline.load_lora_weights(diffusers_file)

    effect, difference = (expected - base).norm(), (predict(pipeline.unet) - expected).norm()
    assert difference < 1e-4 * effect


def test_diffusers_copy_has_alpha_multiplied_in(tmp_path):
    config = LoRAConfig(rank=4, alpha=6.0)
    state = small_state()
    write_lora(tmp_path / "a.safetensors", state, config, {}, precision="fp32")
    tensors = to_diffusers(read_lora(tmp_path / "a.safetensors"))
    assert tensors.keys() == {f"unet.{PATH}.lora.down.weight", f"unet.{PATH}.lora.up.weight"}
    delta = tensors[f"unet.{PATH}.lora.up.weight"] @ tensors[f"unet.{PATH}.lora.down.weight"]
    assert torch.allclose(delta, 1.5 * state[f"{PATH}.lora_up"] @ state[f"{PATH}.lora_down"], atol=1e-5)


def test_keys_types_and_alpha_are_kohyas(tmp_path):
    write_lora(tmp_path / "a.safetensors", small_state(), LoRAConfig(rank=4, alpha=2.0), {})
    tensors = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert tensors.keys() == {f"{NAME}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha")}
    assert tensors[f"{NAME}.lora_down.weight"].dtype == torch.float16
    assert tensors[f"{NAME}.alpha"].dtype == torch.float32
    assert tensors[f"{NAME}.alpha"].shape == ()
    assert tensors[f"{NAME}.alpha"] == 2.0


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_precision_is_chosen(tmp_path, precision, dtype):
    write_lora(tmp_path / "a.safetensors", small_state(), LoRAConfig(rank=4), {}, precision=precision)
    assert read_lora(tmp_path / "a.safetensors").tensors[f"{NAME}.lora_up.weight"].dtype == dtype


@pytest.mark.parametrize("factor", [1e5, 1e-7])
def test_numbers_that_fp16_cannot_hold_are_kept_in_float32(tmp_path, factor):
    state = small_state()
    state[f"{PATH}.lora_up"] = state[f"{PATH}.lora_up"] * factor
    write_lora(tmp_path / "a.safetensors", state, LoRAConfig(rank=4), {})
    tensors = read_lora(tmp_path / "a.safetensors").tensors
    assert torch.equal(tensors[f"{NAME}.lora_up.weight"], state[f"{PATH}.lora_up"])


def test_untrained_lora_is_fp16_although_up_is_zero(tmp_path):
    state = small_state(**{f"{PATH}.lora_up": torch.zeros(640, 4)})
    write_lora(tmp_path / "a.safetensors", state, LoRAConfig(rank=4), {})
    assert read_lora(tmp_path / "a.safetensors").tensors[f"{NAME}.lora_up.weight"].dtype == torch.float16


def test_same_input_gives_the_same_bytes(tmp_path):
    metadata = {f"key{index}": str(index) for index in range(50)}
    for name in ("a", "b"):
        write_lora(tmp_path / name, small_state(), LoRAConfig(rank=4), metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_written(tmp_path, bad):
    state = small_state()
    state[f"{PATH}.lora_up"][0, 0] = bad
    with pytest.raises(InputError, match="not finite"):
        write_lora(tmp_path / "a.safetensors", state, LoRAConfig(rank=4), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 768)},
            r"LoRA for SD 1.x or 2.x",
        ),
        (
            {
                "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (
                    4,
                    768,
                )
            },
            "LoRA for SD 1.x",
        ),
        (
            {"lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 1024)},
            "SD 2.x",
        ),
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 3072)}, "LoRA for Flux"),
        ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (4, 3072)}, "LoRA for Flux"),
        ({"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": (4, 1536)}, "LoRA for SD 3"),
        ({"unet.conv_in.weight": (4, 4)}, "holds no LoRA in kohya's layout"),
        ({}, "holds no LoRA in kohya's layout"),
        ({f"{NAME}.lora_down.weight": (4, 2048)}, "other half is missing"),
        ({f"{NAME}.lora_down.weight": (4, 2048), f"{NAME}.lora_up.weight": (640, 8)}, "has down"),
        ({f"{NAME}.lora_down.weight": (4, 2048), f"{NAME}.lora_up.weight": (640, 4, 1, 1)}, "has down"),
        ({f"{NAME}.lora_down.weight": (4, 2048), f"{NAME}.dora_scale": (1, 2048)}, "has no lora_up"),
        (
            {
                f"{NAME}.lora_down.weight": (4, 2048),
                f"{NAME}.lora_up.weight": (640, 4),
                f"{NAME}.dora_scale": (640, 1),
            },
            r"dora_scale \(640, 1\), but only the kind with one number for each of its 2048 inputs",
        ),
        (
            {
                f"{NAME}.lora_down.weight": (4, 2048),
                f"{NAME}.lora_up.weight": (640, 4),
                f"{NAME}.lora_mid.weight": (4, 4),
            },
            "lora_mid.weight, which is no part of a LoRA, DoRA, LoHa or LoKr",
        ),
        ({f"{NAME}.hada_w1_a": (640, 4), f"{NAME}.hada_w1_b": (4, 2048)}, "has no hada_w2_a, hada_w2_b"),
        ({f"{NAME}.hada_w1_a": (320, 4), f"{NAME}.hada_w1_b": (4, 1024)}, "LoRA for SD 2.x"),
        ({f"{NAME}.lokr_w1": (8, 8), f"{NAME}.lokr_w2": (40, 96)}, "LoRA for SD 1.x"),
        (
            {f"{NAME}.lokr_w1": (8, 8), f"{NAME}.lokr_w2_a": (80, 4), f"{NAME}.lokr_w2_b": (5, 256)},
            r"has lokr_w2_a \(80, 4\) and lokr_w2_b \(5, 256\)",
        ),
    ],
)
def test_file_of_another_kind_is_named_for_what_it_is(tmp_path, tensors, words):
    file = tmp_path / "other.safetensors"
    safetensors.torch.save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, file)
    with pytest.raises(InputError, match=words):
        read_lora(file)


def test_lora_with_nan_is_refused(tmp_path):
    tensors = to_kohya(small_state(), LoRAConfig(rank=4))
    tensors[f"{NAME}.lora_up.weight"][3, 2] = float("nan")
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="not finite"):
        read_lora(tmp_path / "a.safetensors")


def test_missing_alpha_means_rank(tmp_path):
    tensors = to_kohya(small_state(), LoRAConfig(rank=4, alpha=1.0))
    del tensors[f"{NAME}.alpha"]
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    assert read_lora(tmp_path / "a.safetensors").alphas == {4.0}
