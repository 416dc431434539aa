"""Every kind of file through ComfyUI's own loader: the weights change as the live adapter changes them."""

import pytest
import torch

pytestmark = pytest.mark.host

KINDS = ("lora", "dora", "loha", "lokr")
TARGETS = ("attention", "attention+ff", "attention+ff+conv")
# updates about as large as the weights: what is compared is a difference of two float32 weights
SIZES = {"lora": 0.1, "dora": 0.1, "loha": 0.5, "lokr": 0.3}
RANKS = [(2, 0.5), (4, 6.0), (64, 16.0)]
STAND_IN_LAYERS = 1


@pytest.fixture(scope="module")
def stand_in_unet(stand_in_folder):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(stand_in_folder / "unet").requires_grad_(False).eval()


@pytest.fixture(scope="module")
def host_model(loading):
    with torch.inference_mode():
        return loading.load_model()


@pytest.fixture(autouse=True)
def _no_inference_mode():
    with torch.inference_mode(False):
        yield


def trained_adapter(unet, dtype=torch.float32, **settings):
    import copy

    from sdxl_trainer.trainer.adapter.lora import attach_adapter
    from sdxl_trainer.trainer.config import LoRAConfig

    unet = copy.deepcopy(unet)
    for parameter in unet.parameters():
        parameter.data = parameter.data.to(dtype)
    adapter = attach_adapter(unet, LoRAConfig(**settings), seed=1)
    draw = torch.Generator().manual_seed(2)
    state = adapter.state_dict()
    for key, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=draw) * SIZES[settings.get("adapter", "lora")]
        state[key] = tensor * (1 + noise) if key.endswith("dora_scale") else noise
    adapter.load_state_dict(state)
    return adapter


def written(adapter, path, precision):
    from sdxl_trainer.trainer.files.lora_file import write_lora

    write_lora(path, adapter.state_dict(), adapter.config, {}, STAND_IN_LAYERS, precision)
    return path


def changed_by_comfyui(host_model, adapter, file, strength=1.0):
    """Module path -> weight as ComfyUI's loader leaves it, float32."""
    import comfy.lora
    import comfy.lora_convert
    import comfy.utils
    from sdxl_trainer.trainer.files.lora_names import to_kohya_names

    places = comfy.lora.model_lora_keys_unet(host_model.model, {})
    tensors = comfy.lora_convert.convert_lora(comfy.utils.load_torch_file(str(file)))
    patches = comfy.lora.load_lora(tensors, places)
    changed = {}
    for path, name in to_kohya_names(adapter.paths, STAND_IN_LAYERS).items():
        key = places[name]
        weight = adapter.layers[path].base.weight.float().clone()
        changed[path] = comfy.lora.calculate_weight(
            [(strength, patches.pop(key), 1.0, None, None)], weight, key
        )
    assert not patches, "ComfyUI patches layers that were not trained"
    return changed


def relative_error(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


def through_identity(layer):
    """The layer's weight, read off its output: (O, I) or (O, I, k, k); None where it skips pixels."""
    base = layer.base
    if base.weight.ndim == 2:
        zero = torch.zeros(1, base.in_features)
        return (layer(torch.eye(base.in_features)) - layer(zero)).t()
    if base.stride != (1, 1):
        return None
    # a picture for each input channel, with a single 1 in the middle: out comes the kernel, turned round
    channels, reach = range(base.in_channels), base.kernel_size[0] // 2
    pictures = torch.zeros(base.in_channels, base.in_channels, 7, 7)
    pictures[channels, channels, 3, 3] = 1.0
    out = layer(pictures) - layer(torch.zeros_like(pictures))
    return out[:, :, 3 - reach : 4 + reach, 3 - reach : 4 + reach].flip(2, 3).transpose(0, 1)


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize(("rank", "alpha"), RANKS)
@pytest.mark.parametrize("kind", KINDS)
def test_float32_files_change_the_weights_as_the_live_layers_do(
    stand_in_unet, host_model, tmp_path, kind, rank, alpha, targets
):
    adapter = trained_adapter(stand_in_unet, adapter=kind, rank=rank, alpha=alpha, targets=targets)
    changed = changed_by_comfyui(host_model, adapter, written(adapter, tmp_path / "a.safetensors", "fp32"))
    for path, layer in adapter.layers.items():
        frozen = layer.base.weight
        expected = changed[path] - frozen
        assert relative_error(adapter.weight_with_update(path) - frozen, expected) < 1e-5, path
        live = through_identity(layer)
        if live is not None:
            assert relative_error(live - frozen, expected) < 1e-5, path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{"rank_stabilized": True}, {"block_ranks": "middle_block=2"}], ids=str)
def test_other_scales_and_ranks_reach_the_file(stand_in_unet, host_model, tmp_path, kind, settings):
    adapter = trained_adapter(stand_in_unet, adapter=kind, rank=4, alpha=3.0, **settings)
    changed = changed_by_comfyui(host_model, adapter, written(adapter, tmp_path / "a.safetensors", "fp32"))
    for path, layer in adapter.layers.items():
        frozen = layer.base.weight
        assert relative_error(adapter.weight_with_update(path) - frozen, changed[path] - frozen) < 1e-5, path


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_layers_act_as_their_file_says(stand_in_unet, host_model, tmp_path, kind, precision):
    """The file in bfloat16 holds what the layers multiply with; in half precision, what was trained."""
    from sdxl_trainer.trainer.adapter.adapter_parts import updated

    adapter = trained_adapter(
        stand_in_unet, torch.bfloat16, adapter=kind, rank=4, alpha=6.0, targets="attention+ff+conv"
    )
    file = written(adapter, tmp_path / "a.safetensors", precision)
    changed = changed_by_comfyui(host_model, adapter, file)
    draw = torch.Generator().manual_seed(4)
    for path, layer in adapter.layers.items():
        frozen = layer.base.weight.float()
        if precision == "bf16":
            parts = {part: weight.detach().float() for part, weight in layer.parts.items()}
            if kind == "dora":
                parts["dora_scale"] = adapter.state_dict()[f"{path}.dora_scale"]
            live = updated(frozen, parts, adapter.config.scale)
        else:
            live = adapter.weight_with_update(path)
        assert relative_error(changed[path] - frozen, live - frozen) < 1e-3, path

        shape = (2, frozen.shape[1], 8, 8) if frozen.ndim == 4 else (16, frozen.shape[1])
        x = torch.randn(shape, generator=draw).bfloat16()
        layer.base.weight.data, before = changed[path].bfloat16(), layer.base.weight.data
        with adapter.disabled():
            patched = layer(x).float()
        layer.base.weight.data = before
        assert relative_error(layer(x).float(), patched) < 1e-2, path


def predict(unet):
    draw = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    added = {"text_embeds": normal(1, 24), "time_ids": torch.full((1, 6), 128.0)}
    return unet(normal(1, 4, 16, 16), torch.tensor([500]), normal(1, 77, 40), added_cond_kwargs=added).sample


@pytest.mark.parametrize("kind", KINDS)
def test_the_unet_answers_as_the_one_that_comfyui_patched(stand_in_unet, host_model, tmp_path, kind):
    adapter = trained_adapter(stand_in_unet, adapter=kind, rank=4, alpha=2.0, targets="attention+ff+conv")
    live = predict(adapter.network)
    changed = changed_by_comfyui(host_model, adapter, written(adapter, tmp_path / "a.safetensors", "fp32"))
    with adapter.disabled():
        before = predict(adapter.network)
        for path, weight in changed.items():
            adapter.layers[path].base.weight.data = weight
        patched = predict(adapter.network)
    assert (live - patched).norm() < 1e-4 * (live - before).norm()


@pytest.mark.parametrize("strength", [0.5, -0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_merging_here_is_patching_there(stand_in_unet, host_model, tmp_path, kind, strength):
    import copy

    from sdxl_trainer.trainer.files.lora_file import read_lora
    from sdxl_trainer.trainer.files.lora_merge import merge_lora

    adapter = trained_adapter(stand_in_unet, adapter=kind, rank=4, alpha=2.0)
    file = written(adapter, tmp_path / "a.safetensors", "fp16")
    changed = changed_by_comfyui(host_model, adapter, file, strength)
    merged = copy.deepcopy(stand_in_unet)
    assert merge_lora(merged, read_lora(file), strength) == len(changed)
    for path, weight in changed.items():
        torch.testing.assert_close(merged.get_submodule(path).weight, weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bridge_counts_every_key(stand_in, stand_in_unet, tmp_path, kind):
    from sdxl_trainer.nodes.comfy_bridge.lora_patches import check_keys
    from sdxl_trainer.trainer.errors import InputError
    from sdxl_trainer.trainer.files.safetensors_file import read_safetensors

    model, clip, _ = stand_in
    adapter = trained_adapter(stand_in_unet, adapter=kind, rank=4, targets="attention+ff+conv")
    tensors, _ = read_safetensors(written(adapter, tmp_path / "a.safetensors", "fp16"))
    count = check_keys(model, clip, tensors, "a")
    assert (count.model, count.clip) == (len(adapter.paths), 0)
    for key in list(tensors)[:1]:
        with pytest.raises(InputError, match=r"1 of \d+ keys fit neither model nor CLIP"):
            check_keys(
                model, clip, {**tensors, f"lora_unet_nowhere.{key.split('.', 1)[1]}": tensors[key]}, "a"
            )


def test_an_average_patches_as_its_files_do_on_average(stand_in_unet, host_model, tmp_path):
    from sdxl_trainer.trainer.files.lora_average import average_loras
    from sdxl_trainer.trainer.files.lora_file import read_lora
    from sdxl_trainer.trainer.files.safetensors_file import serialize

    adapter = trained_adapter(stand_in_unet, rank=4, alpha=2.0, targets="attention+ff+conv")
    first = written(adapter, tmp_path / "1.safetensors", "fp32")
    adapter.load_state_dict({key: x.flip(0) for key, x in adapter.state_dict().items()})
    second = written(adapter, tmp_path / "2.safetensors", "fp32")
    mean = tmp_path / "mean.safetensors"
    tensors = average_loras([read_lora(first), read_lora(second)], [1.0, 3.0])
    mean.write_bytes(b"".join(serialize(tensors, {})))
    one, two, got = (changed_by_comfyui(host_model, adapter, file) for file in (first, second, mean))
    for path, weight in got.items():
        torch.testing.assert_close(weight, 0.25 * one[path] + 0.75 * two[path], rtol=1e-4, atol=1e-5)
