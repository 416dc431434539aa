"""What a training step costs, counted on meta tensors: real SDXL, 1024 px, batch 1, rank 16, attention.

Counted are operations that reach a device: views, metadata and empty tensors are left out. Counting is the
same for plain diffusers + peft and for ours; on meta tensors attention is the many-operation version in both.
"""

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from sdxl_trainer.trainer.adapter.lora import attach_adapter
from sdxl_trainer.trainer.config import LoRAConfig
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
SDXL = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "transformer_layers_per_block": (1, 2, 10),
}
NO_WORK = {
    "detach",
    "empty",
    "empty_like",
    "new_empty",
    "new_empty_strided",
    "empty_strided",
    "_local_scalar_dense",
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "alias",
}


def addmm_flops(_sum_shape, a_shape, b_shape, **_rest):
    """FlopCounterMode knows this only as `addmm`, and would not count what is added in place."""
    return 2 * a_shape[0] * a_shape[1] * b_shape[1]


class CountOperations(TorchDispatchMode):
    num_operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        returns = func._schema.returns
        is_view = any(x.alias_info is not None and not x.alias_info.is_write for x in returns)
        if not is_view and func.name().split("::")[1].split(".")[0] not in NO_WORK:
            self.num_operations += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def unet():
    with torch.device("meta"):
        return UNet2DConditionModel(**SDXL).to(torch.bfloat16).requires_grad_(False).train()


@pytest.fixture
def ours(unet):
    adapter = attach_adapter(unet, LoRAConfig(rank=16, targets="attention"), seed=1)
    yield unet
    adapter.detach()
    unet.disable_gradient_checkpointing()


def add_plain_peft(unet):
    with torch.device("meta"):
        unet.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=ATTENTION))
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)


def training_step(unet):
    with torch.device("meta"):
        latents = torch.empty(1, 4, 128, 128, dtype=torch.bfloat16)
        prompt_embeds = torch.empty(1, 77, 2048, dtype=torch.bfloat16)
        conditions = {
            "text_embeds": torch.empty(1, 1280, dtype=torch.bfloat16),
            "time_ids": torch.empty(1, 6),
        }
        timesteps = torch.empty(1, dtype=torch.long)
    model_pred = unet(latents, timesteps, prompt_embeds, added_cond_kwargs=conditions).sample
    model_pred.float().pow(2).mean().backward()


def count_operations(unet):
    with CountOperations() as counter:
        training_step(unet)
    return counter.num_operations


def test_step_takes_at_most_9100_operations(ours):
    assert count_operations(ours) <= 9_100, "aim: 10,500 at most"


def test_checkpointed_step_takes_at_most_12800_operations(ours):
    ours.enable_gradient_checkpointing()
    assert count_operations(ours) <= 12_800, "plain peft takes 17,260"


def test_step_takes_no_more_arithmetic_than_plain_peft(ours):
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: addmm_flops}) as flops:
        training_step(ours)
    assert 14.1 < flops.get_total_flops() / 1e12 < 14.2, "plain peft takes 14.19"


def test_sdxl_has_as_many_layers_as_kohya_counts(unet):
    for targets, num_layers in (("attention", 560), ("attention+ff", 722), ("attention+ff+conv", 788)):
        adapter = attach_adapter(unet, LoRAConfig(rank=16, targets=targets), seed=1)
        assert len(adapter.layers) == num_layers
        adapter.detach()


def test_plain_peft_still_takes_what_ours_is_compared_with(unet):
    add_plain_peft(unet)
    assert 12_000 < count_operations(unet) < 12_200
    unet.delete_adapters("default")
