"""Text layers of every kind through ComfyUI's own loader: it changes the weights as training did."""

import pytest
import torch

pytestmark = pytest.mark.host

KINDS = ("lora", "dora", "loha", "lokr")
SIZES = {"lora": 0.1, "dora": 0.1, "loha": 0.5, "lokr": 0.3}
FOLDERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}


@pytest.fixture(scope="module")
def host_clip(loading):
    with torch.inference_mode():
        return loading.load_clip()


@pytest.fixture(autouse=True)
def _no_inference_mode():
    with torch.inference_mode(False):
        yield


def trained_adapter(stand_in_folder, name, **settings):
    from sdxl_trainer.trainer.adapter.lora import attach_text_adapter
    from sdxl_trainer.trainer.config import LoRAConfig
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModel if name == "clip_l" else CLIPTextModelWithProjection
    encoder = kind.from_pretrained(stand_in_folder / FOLDERS[name]).float().requires_grad_(False)
    config = LoRAConfig(rank=8, alpha=6.0, lokr_factor=4, **settings)
    adapter = attach_text_adapter(encoder, name, config, rank=2, seed=1)
    draw = torch.Generator().manual_seed(2)
    state = adapter.state_dict()
    for key, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=draw) * SIZES[config.adapter]
        state[key] = tensor * (1 + noise) if key.endswith("dora_scale") else noise
    adapter.load_state_dict(state)
    return adapter


@pytest.mark.parametrize("has_bundle", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_comfyui_changes_the_weights_as_training_did(host_clip, stand_in_folder, tmp_path, kind, has_bundle):
    import comfy.lora
    import comfy.lora_convert
    import comfy.utils
    from sdxl_trainer.trainer.files.embedding_file import bundle
    from sdxl_trainer.trainer.files.lora_file import write_lora
    from sdxl_trainer.trainer.files.lora_names import to_kohya_names
    from sdxl_trainer.trainer.text.new_tokens import NewTokens

    adapters = [trained_adapter(stand_in_folder, name, adapter=kind) for name in FOLDERS]
    state = {key: x for adapter in adapters for key, x in adapter.state_dict().items()}
    vectors = {"clip_l": torch.ones(2, 16), "clip_g": torch.ones(2, 24)}
    bundled = bundle("cat_emb", vectors, NewTokens((("TOK", 2),))) if has_bundle else {}
    file = tmp_path / "a.safetensors"
    write_lora(file, state, adapters[0].config, {}, precision="fp32", bundled=bundled)

    places = comfy.lora.model_lora_keys_clip(host_clip.cond_stage_model, {})
    patches = comfy.lora.load_lora(
        comfy.lora_convert.convert_lora(comfy.utils.load_torch_file(str(file))), places
    )
    stored = host_clip.cond_stage_model.state_dict()
    for adapter, encoder in zip(adapters, FOLDERS, strict=True):
        for path, name in to_kohya_names(adapter.paths).items():
            key = places[name]
            assert key.startswith(f"{encoder}.transformer.text_model.encoder.layers.")
            weight = adapter.layers[path].base.weight.float().clone()
            assert torch.equal(stored[key].float(), weight), "the place must hold the very layer"
            changed = comfy.lora.calculate_weight(
                [(1.0, patches.pop(key), 1.0, None, None)], weight.clone(), key
            )
            expected = adapter.weight_with_update(path)
            assert (changed - expected).norm() < 1e-5 * (expected - weight).norm(), path
    assert not patches, "ComfyUI patches layers that were not trained"
