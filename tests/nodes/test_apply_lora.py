"""ApplyLoRA: all of a file or an error, the very inputs at strength 0, checkpoints of the same run."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

HOST = Path(__file__).resolve().parents[1] / "host"


@pytest.fixture(scope="module")
def stand_in():
    spec = importlib.util.spec_from_file_location("apply_loading", HOST / "stand_in_pack" / "loading.py")
    loading = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loading)
    with torch.inference_mode():
        return loading.load_stand_in()


@pytest.fixture
def lora_keys(stand_in):
    """Keys of a LoRA of rank 2 on the first attention layer."""
    state = stand_in[0].model.state_dict()
    key = next(k for k in state if k.endswith("attn1.to_q.weight"))
    name = "lora_unet_" + key.removeprefix("diffusion_model.").removesuffix(".weight").replace(".", "_")
    width = state[key].shape[0]
    return {
        f"{name}.lora_down.weight": torch.ones(2, width),
        f"{name}.lora_up.weight": torch.ones(width, 2),
        f"{name}.alpha": torch.tensor(1.0),
    }


@pytest.fixture
def loras(tmp_path, monkeypatch, lora_keys):
    """A loras folder with cat.safetensors and its checkpoint of step 5."""
    import folder_paths

    registered = {**folder_paths.folder_names_and_paths, "loras": ([str(tmp_path)], {".safetensors"})}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", registered)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for name in ("cat", "cat-step000005"):
        save_file(lora_keys, tmp_path / f"{name}.safetensors", {"modelspec.trigger_phrase": "zorp"})
    return tmp_path


@pytest.fixture
def apply(stand_in, loras):
    from sdxl_trainer.nodes.apply import ApplyLoRA

    def run(lora_name="cat.safetensors", strength_model=1.0, strength_clip=1.0, checkpoint_step=0, lora=None):
        return ApplyLoRA.execute(
            *stand_in[:2], lora_name, strength_model, strength_clip, checkpoint_step, lora
        ).args

    return run


def test_a_chosen_file_is_applied_and_tells_its_trigger_words(apply, stand_in):
    model, _, trigger_words, report = apply()
    assert len(model.patches) == 1
    assert len(stand_in[0].patches) == 0
    assert trigger_words == "zorp"
    assert "cat.safetensors: applied 3 keys to 1 weights of the model and 0 of CLIP" in report


def test_strength_0_gives_out_the_very_inputs(apply, stand_in):
    model, clip, *_ = apply(strength_model=0.0, strength_clip=0.0)
    assert model is stand_in[0]
    assert clip is stand_in[1]


def test_a_name_on_the_socket_goes_before_the_menu(apply):
    assert "cat.safetensors: applied" in apply(lora_name="none", lora="cat.safetensors")[3]


def test_a_lora_on_the_socket_needs_no_file(apply, lora_keys):
    assert "the wired LoRA: applied 3 keys" in apply(lora_name="none", lora=lora_keys)[3]


def test_an_earlier_checkpoint_of_the_same_run_is_found(apply):
    assert "cat-step000005.safetensors: applied" in apply(checkpoint_step=5)[3]


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(apply):
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match=r"cat-step000007\.safetensors does not exist: there are steps 5"):
        apply(checkpoint_step=7)


def test_nothing_wired_and_nothing_chosen_is_said(apply):
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match="no LoRA: wire one"):
        apply(lora_name="none")


@pytest.mark.parametrize("key", ["lora_unet_input_blocks_9_1_nowhere.lora_down.weight", "text_model.weight"])
def test_a_key_without_a_place_fails_by_name(apply, lora_keys, key):
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match=f"1 of 4 keys fit neither model nor CLIP \\({key}\\)"):
        apply(lora={**lora_keys, key: torch.ones(2, 2)})


def test_a_rewritten_file_is_noticed(apply, loras, lora_keys):
    from sdxl_trainer.nodes.apply import ApplyLoRA

    before = ApplyLoRA.fingerprint_inputs(lora_name="cat.safetensors")
    save_file({**lora_keys, "x": torch.ones(3)}, loras / "cat.safetensors")
    assert ApplyLoRA.fingerprint_inputs(lora_name="cat.safetensors") != before
