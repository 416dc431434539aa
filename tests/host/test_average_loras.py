"""Average LoRAs: ComfyUI applies the average as the mean of what it applies for each file."""

import pytest
import torch


@pytest.fixture
def average(kept_loras):
    from sdxl_trainer.nodes.average import AverageLoRAs

    def run(checkpoints="", weights="", name="", **changes):
        fields = {"lora_name": "cat.safetensors", **changes}
        with torch.inference_mode():
            return AverageLoRAs.execute(checkpoints=checkpoints, weights=weights, name=name, **fields).args

    return run


def deltas(stand_in, tensors):
    """Key -> how ComfyUI changes that weight."""
    import comfy.lora
    from sdxl_trainer.nodes.comfy_bridge.lora_patches import apply_lora

    with torch.inference_mode():
        model, _ = apply_lora(*stand_in[:2], dict(tensors), 1.0, 1.0)
        base = model.model.state_dict()
        return {
            key: comfy.lora.calculate_weight(patches, torch.zeros_like(base[key]), key).clone()
            for key, patches in model.patches.items()
        }


def test_the_applied_change_is_the_weighted_mean_of_the_checkpoints(average, stand_in, kept_loras):
    from safetensors.torch import load_file

    lora, name, report = average("2, final", "1, 3", "mix")
    parts = [deltas(stand_in, load_file(kept_loras / f"{f}.safetensors")) for f in ("cat-step000002", "cat")]
    made = deltas(stand_in, load_file(kept_loras / name))
    assert made.keys() == parts[0].keys()
    for key, delta in made.items():
        expected = 0.25 * parts[0][key] + 0.75 * parts[1][key]
        assert ((delta - expected).norm() / expected.norm()).item() < 1e-3, key
    assert name == "mix.safetensors"
    assert lora.path == kept_loras / name
    assert report == "mix.safetensors written: 25% cat-step000002.safetensors + 75% cat.safetensors"


def test_all_kept_checkpoints_count_alike_where_nothing_is_said(average):
    _, name, report = average()
    assert name == "cat_average.safetensors"
    assert report.count("33%") == 3


def test_nothing_is_overwritten_and_the_same_average_is_written_once(average, kept_loras):
    first = average("2, 4")[1]
    content = (kept_loras / first).read_bytes()
    second = average("2, final")[1]
    assert (first, second) == ("cat_average.safetensors", "cat_average-2.safetensors")
    assert (kept_loras / first).read_bytes() == content
    assert average("2, final")[1:] == (
        second,
        f"{second} held this very average already: 50% cat-step000002.safetensors + 50% cat.safetensors",
    )


def test_the_file_says_where_it_comes_from_and_is_no_run_of_its_own(average, kept_loras):
    from safetensors import safe_open
    from sdxl_trainer.trainer.files.metadata import SETTINGS_KEY

    with safe_open(kept_loras / average("4, final", "1, 2", "mix")[1], "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_training_comment"] == "average of cat-step000004.safetensors x 1, cat.safetensors x 2"
    assert metadata["ss_output_name"] == "mix"
    assert metadata["ss_network_dim"] == "8"
    assert SETTINGS_KEY not in metadata
    assert "sshs_model_hash" in metadata


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoints": "final"}, "only cat.safetensors to average"),
        ({"checkpoints": "2, 4", "weights": "1"}, "weights holds 1 numbers for 2 files"),
        ({"checkpoints": "2, 4", "weights": "1, x"}, "weights holds 'x'"),
        ({"checkpoints": "2, 4", "weights": "1, -1"}, "not sum to 0"),
        ({"checkpoints": "3, 4"}, "there are steps 2, 4"),
        ({"name": "../x"}, "names a folder"),
        ({"lora_name": "none"}, "no LoRA: wire one"),
    ],
)
def test_what_cannot_be_averaged_is_said(average, changes, message):
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match=message):
        average(**changes)
