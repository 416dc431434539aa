import pytest
import torch
from diffusers import UNet2DConditionModel
from sdxl_trainer.trainer.config import LoRAConfig
from sdxl_trainer.trainer.memory_plan import (
    GIB,
    LEVELS,
    activation_bytes,
    checkpoint_modules,
    free_bytes,
    plan_memory,
    total_bytes,
)

OFF, BLOCKS, ALL = LEVELS
ATTENTION = LoRAConfig(targets="attention")


def sdxl_needs(samples, side):
    return lambda level: activation_bytes(level, LoRAConfig(), (samples, side, side), None, 2)


@pytest.mark.parametrize(
    ("gib", "title"), [(24, "off"), (8, "off"), (6, "transformer blocks"), (1.3, "all blocks")]
)
def test_checkpoints_only_as_much_as_the_free_memory_asks(gib, title):
    assert plan_memory(int(gib * GIB), "auto", sdxl_needs(1, 1024)).level.title == title


def test_the_setting_leaves_no_choice():
    assert plan_memory(0, "off", sdxl_needs(1, 1024)).level is OFF
    assert plan_memory(100 * GIB, "on", sdxl_needs(1, 1024)).level is BLOCKS


def test_title_says_what_was_compared():
    title = plan_memory(24 * GIB, "auto", sdxl_needs(1, 1024)).title
    assert title == "off (6.4 GiB of activations fits into 24.0 GiB free)"


def test_estimate_is_the_counted_figure_and_grows_with_batch_and_area():
    assert sdxl_needs(1, 1024)(OFF) == pytest.approx(6.42 * GIB)
    assert activation_bytes(BLOCKS, ATTENTION, (1, 1024, 1024), None, 2) == pytest.approx(0.54 * GIB)
    assert sdxl_needs(4, 1024)(OFF) == 4 * sdxl_needs(1, 1024)(OFF)
    assert sdxl_needs(1, 512)(OFF) == sdxl_needs(1, 1024)(OFF) // 4
    assert activation_bytes(OFF, ATTENTION, (1, 1024, 1024), None, 4) == pytest.approx(10.62 * GIB)


def test_estimate_of_a_narrow_unet_is_small_and_of_sdxl_itself_unchanged(stand_in_folder):
    tiny = UNet2DConditionModel.load_config(stand_in_folder / "unet")
    config = type("Config", (), dict(tiny))
    sdxl = type(
        "Config",
        (),
        {
            "block_out_channels": (320, 640, 1280),
            "transformer_layers_per_block": (1, 2, 10),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        },
    )
    batch = (1, 1024, 1024)
    assert activation_bytes(OFF, ATTENTION, batch, sdxl, 2) == activation_bytes(
        OFF, ATTENTION, batch, None, 2
    )
    assert (
        activation_bytes(OFF, ATTENTION, batch, config, 2)
        < activation_bytes(OFF, ATTENTION, batch, sdxl, 2) / 8
    )


@pytest.mark.parametrize(("kind", "extra"), [("dora", 0.0), ("loha", 0.2), ("lokr", 0.2)])
def test_kinds_that_build_matrices_ask_for_room_for_them(kind, extra):
    batch = (1, 1024, 1024)
    plain = activation_bytes(ALL, LoRAConfig(), batch, None, 2)
    other = activation_bytes(ALL, LoRAConfig(adapter=kind), batch, None, 2)
    assert other - plain == pytest.approx(extra * GIB, abs=0.02 * GIB)


def test_free_memory_of_this_machine_is_read():
    cpu = torch.device("cpu")
    assert 0 < free_bytes(cpu) <= total_bytes(cpu)


@pytest.mark.parametrize("level", [BLOCKS, ALL])
def test_checkpointed_modules_run_twice_and_give_the_same_gradients(level, tiny_run):
    def gradients(checkpointed):
        unet, calls = tiny_run.tiny_unet(), []
        unet.conv_in.weight.requires_grad_(True)
        block = unet.down_blocks[1].attentions[0].transformer_blocks[0]
        block.norm1.register_forward_hook(lambda *_: calls.append(1))
        if checkpointed:
            checkpoint_modules(unet, level)
            checkpoint_modules(unet, level)
        text, pooled = torch.ones(1, 4, tiny_run.TEXT_WIDTH), torch.ones(1, tiny_run.POOLED_WIDTH)
        added = {"text_embeds": pooled, "time_ids": torch.ones(1, 6)}
        unet(torch.ones(1, 4, 8, 8), 5, text, added_cond_kwargs=added).sample.sum().backward()
        return unet.conv_in.weight.grad, len(calls)

    plain, once = gradients(False)
    checkpointed, twice = gradients(True)
    assert torch.equal(plain, checkpointed)
    assert (once, twice) == (1, 2)
