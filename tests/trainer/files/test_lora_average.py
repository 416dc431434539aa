import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from sdxl_trainer.trainer.adapter.lora import attach_adapter
from sdxl_trainer.trainer.config import LoRAConfig
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.lora_average import average_loras
from sdxl_trainer.trainer.files.lora_file import LoRAFile, to_kohya
from sdxl_trainer.trainer.files.lora_layout import layout_problem
from sdxl_trainer.trainer.files.lora_merge import merge_lora

CONV = "attention+ff+conv"


@pytest.fixture(scope="module")
def unet(stand_in_folder):
    return UNet2DConditionModel.from_pretrained(stand_in_folder / "unet").requires_grad_(False).eval()


def trained(unet, seed, **settings):
    config = LoRAConfig(**{"rank": 2, "targets": CONV, **settings})
    adapter = attach_adapter(unet, config, seed)
    state = {
        key: torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) * 0.1
        for key, x in adapter.state_dict().items()
    }
    adapter.detach()
    return LoRAFile(to_kohya(state, config, 1), {})


def updates(unet, lora):
    merged = copy.deepcopy(unet)
    merge_lora(merged, lora)
    before = unet.state_dict()
    return {key: weight - before[key] for key, weight in merged.state_dict().items()}


@pytest.mark.parametrize("weights", [(0.2, 0.3, 0.5), (6.0, -2.0, 0.0)])
def test_the_change_of_the_weights_is_the_mean_of_theirs(unet, weights):
    files = [
        trained(unet, 1, alpha=5.0),
        trained(unet, 2, rank=4, targets="attention"),
        trained(unet, 3, alpha=1.0, rank=3, rank_stabilized=True),
    ]
    mean = LoRAFile(average_loras(files, weights), {})
    assert layout_problem(mean.tensors) == ""
    got, each = updates(unet, mean), [updates(unet, file) for file in files]
    for key, update in got.items():
        expected = sum(w / sum(weights) * own[key] for w, own in zip(weights, each, strict=True))
        torch.testing.assert_close(update, expected, rtol=1e-4, atol=1e-5)
    assert any(update.any() for update in got.values())


def test_the_mean_of_a_lora_and_itself_is_itself(unet):
    file = trained(unet, 1, alpha=5.0)
    got, expected = updates(unet, LoRAFile(average_loras([file, file], [1, 3]), {})), updates(unet, file)
    for key, update in got.items():
        torch.testing.assert_close(update, expected[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr"])
def test_other_kinds_are_refused_by_name(unet, kind):
    with pytest.raises(InputError, match=f"averaging: one of the files is a {kind}"):
        average_loras([trained(unet, 1), trained(unet, 2, adapter=kind)], [1, 1])


def test_weights_and_files_that_do_not_fit_are_refused(unet):
    file = trained(unet, 1, targets="attention")
    with pytest.raises(InputError, match="there is no LoRA"):
        average_loras([], [])
    with pytest.raises(InputError, match="1 weights for 2 LoRAs"):
        average_loras([file, file], [1])
    for weights in ([1, -1], [0, 0], [float("nan"), 1]):
        with pytest.raises(InputError, match="must be finite and not sum to 0"):
            average_loras([file, file], weights)
    other = LoRAFile({key: x[..., :1] if "down" in key else x for key, x in file.tensors.items()}, {})
    with pytest.raises(InputError, match="the same model family"):
        average_loras([file, other], [1, 1])
