"""ComfyUI's CLIP pair inside transformers' classes: the same weights, the same numbers."""

import pytest
import torch

LITERAL = "a cat (sitting) by [the door], naïve café 🙂"
WEIGHTED = [
    "a photo of a circle",
    "a (red:1.3) circle, ((very round)), (dull:0.5)",
    r"a \(literal\) paren, an open ( one) and \\(two\\)",
    "(all of it:0.8)",
    "",
    "({long}:1.2), and (more:0.7) after",
]
LAYERS = [None, -1, -2, -3]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
HELD = [torch.float32, torch.float16]  # what ComfyUI holds a checkpoint's encoders in
NUM_SDXL_PARAMETERS = [123_060_480, 694_659_840]


def parameters_of(clip):
    """Where every weight of CLIP lies that the encoders use."""
    unused = "clip_l.transformer.text_projection.weight"
    named = clip.cond_stage_model.named_parameters()
    return {p.data_ptr() for name, p in named if ".transformer." in name and name != unused}


def with_lora(clip):
    """CLIP behind a LoRA node: one matrix of each encoder is another."""
    patched, state = clip.clone(), clip.cond_stage_model.state_dict()
    key = "transformer.text_model.encoder.layers.1.mlp.fc1.weight"
    generator = torch.Generator().manual_seed(1)
    keys = [f"{name}.{key}" for name in ("clip_l", "clip_g")]
    changes = {k: ("diff", (torch.randn(state[k].shape, generator=generator),)) for k in keys}
    assert set(patched.add_patches(changes, 0.5)) == set(keys)
    return patched


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("text", ["short", "long", "literal"])
def test_captions_are_encoded_as_comfyui_does_it(open_host, load_clip, conditions, dtype, text):
    from sdxl_trainer.trainer.data.captions import literal_prompt

    caption = {"short": conditions.SHORT, "long": conditions.LONG, "literal": LITERAL}[text]
    clip = load_clip(dtype)
    expected = conditions.comfy_condition(clip, literal_prompt(caption))
    with torch.inference_mode(), open_host(clip).open_text_encoders() as encoders:
        (condition,) = conditions.encoder_of(encoders).encode([caption])
    conditions.assert_equal_conditions(condition, expected)
    assert not condition.prompt_embeds.is_inference()
    assert len(condition.prompt_embeds) == (4 * 77 if text == "long" else 77)


@pytest.mark.parametrize("dtype", HELD)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_layer_of_clip_set_last_layer_is_given_out(open_host, load_clip, conditions, dtype, layer):
    clip = load_clip(dtype)
    if layer is not None:
        clip.clip_layer(layer)
    expected = conditions.comfy_condition(clip, conditions.LONG)
    with torch.inference_mode(), open_host(clip).open_text_encoders() as encoders:
        assert encoders.layer == (layer or -2)
        (condition,) = conditions.encoder_of(encoders).encode([conditions.LONG])
    conditions.assert_equal_conditions(condition, expected)


@pytest.mark.parametrize("dtype", HELD)
def test_what_a_lora_in_front_changed_is_what_is_trained_on(open_host, load_clip, conditions, dtype):
    clip, caption = load_clip(dtype), conditions.SHORT
    plain = conditions.comfy_condition(clip, caption)
    patched = with_lora(clip)
    expected = conditions.comfy_condition(patched, caption)
    conditions.comfy_condition(clip, caption)  # the host holds the plain weights when the run begins
    host = open_host(patched)
    with torch.inference_mode(), host.open_text_encoders() as encoders:
        (condition,) = conditions.encoder_of(encoders).encode([caption])
    conditions.assert_equal_conditions(condition, expected)
    assert conditions.distance(condition.prompt_embeds, plain[0]) > 1e-2
    assert not any("copied" in note for note in host.notes)
    assert torch.equal(conditions.comfy_condition(clip, caption)[0], plain[0])


@pytest.mark.parametrize("dtype", HELD)
@pytest.mark.parametrize("prompt", WEIGHTED)
def test_preview_prompts_are_encoded_in_comfyuis_syntax(open_host, load_clip, conditions, dtype, prompt):
    prompts, negative = [prompt.replace("{long}", conditions.LONG)], "(bad:1.4) quality"
    host = open_host(load_clip(dtype))
    expected = host.encode_prompts(prompts, negative)
    with torch.inference_mode(), host.open_text_encoders() as encoders:
        encoded = host.encode_prompts(prompts, negative, conditions.encoder_of(encoders))
    conditions.assert_equal_conditioning(encoded.positives[0], expected.positives[0])
    conditions.assert_equal_conditioning(encoded.negative, expected.negative)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_weight_is_copied(open_host, load_clip, dtype):
    clip = load_clip(dtype)
    host = open_host(clip)
    hosts = parameters_of(clip)
    with torch.inference_mode(), host.open_text_encoders() as encoders:
        parts = [*encoders.clip_l.parameters(), *encoders.clip_g.parameters()]
        own = [p for p in parts if p.data_ptr() not in hosts]
        assert len(parts) == len(hosts)
        # of weights in half precision the few numbers of norms are float32 copies
        assert all(p.ndim == 1 for p in own)
        assert bool(own) == (dtype != torch.float32)
        assert not any(p.requires_grad or p.is_inference() for p in parts)
    assert host.notes == []
    assert all(p.is_meta for e in (encoders.clip_l, encoders.clip_g) for p in e.parameters())


def test_fp8_encoders_are_a_private_copy_with_the_same_numbers(open_host, load_clip, conditions):
    clip = load_clip(torch.float8_e4m3fn)
    expected = conditions.comfy_condition(clip, conditions.SHORT)
    host = open_host(clip)
    with torch.inference_mode(), host.open_text_encoders() as encoders:
        (condition,) = conditions.encoder_of(encoders).encode([conditions.SHORT])
        held = {p.dtype for p in encoders.clip_g.parameters() if p.ndim == 2}
    conditions.assert_equal_conditions(condition, expected)
    assert held == {torch.float16}
    (note,) = host.notes
    assert "text encoders had to be copied" in note


@pytest.mark.parametrize("can_reload", [True, False])
def test_paged_encoders_are_read_with_their_patches(open_host, load_clip, conditions, paged, can_reload):
    import inspect

    clip = load_clip(torch.float16)
    if "return_weight" not in inspect.signature(clip.patcher.patch_weight_to_device).parameters:
        pytest.skip("this ComfyUI has no paged weights")
    patched = with_lora(clip)
    expected = conditions.comfy_condition(patched, conditions.SHORT)
    plain = conditions.comfy_condition(clip, conditions.SHORT)
    patched.patcher = paged(patched.patcher, can_reload)
    host = open_host(patched)
    with torch.inference_mode(), host.open_text_encoders() as encoders:
        (condition,) = conditions.encoder_of(encoders).encode([conditions.SHORT])
    conditions.assert_equal_conditions(condition, expected)
    assert any("copied" in note for note in host.notes) != can_reload
    assert torch.equal(conditions.comfy_condition(clip, conditions.SHORT)[0], plain[0])


def test_sizes_and_activations_are_those_of_comfyuis_modules(open_host):
    with torch.inference_mode(), open_host().open_text_encoders() as encoders:
        small, large = encoders.clip_l.config, encoders.clip_g.config
    assert (small.hidden_act, large.hidden_act) == ("quick_gelu", "gelu")
    assert (small.hidden_size, large.hidden_size, large.projection_dim) == (16, 24, 24)
    assert (small.num_hidden_layers, large.num_hidden_layers) == (3, 3)


def test_full_size_encoders_have_the_published_number_of_parameters():
    from comfy.sdxl_clip import SDXLClipModel
    from sdxl_trainer.nodes.comfy_bridge.text_view import transformers_config
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    pair = SDXLClipModel(device="meta", dtype=torch.float16)
    counts = []
    for part, kind in ((pair.clip_l, CLIPTextModel), (pair.clip_g, CLIPTextModelWithProjection)):
        config = transformers_config(part.transformer, dict(part.transformer.named_parameters()))
        with torch.device("meta"):
            encoder = kind(CLIPTextConfig(**config))
        counts.append(sum(p.numel() for p in encoder.parameters()))
    assert counts == NUM_SDXL_PARAMETERS


def test_encoders_that_are_not_sdxls_are_refused_before_anything_is_loaded(open_host, load_clip):
    from sdxl_trainer.trainer.errors import InputError

    clip = load_clip()
    embeddings = clip.cond_stage_model.clip_l.transformer.text_model.embeddings
    embeddings.position_embedding = torch.nn.Embedding(248, 16)
    refusal = pytest.raises(InputError, match=r"CLIP-L reads 248 tokens at once, but .* SDXL's 77")
    with refusal, open_host(clip).open_text_encoders():
        pass
    clip.cond_stage_model.clip_g.transformer = torch.nn.Linear(1, 1)
    clip.cond_stage_model.clip_l = load_clip().cond_stage_model.clip_l
    refusal = pytest.raises(InputError, match=r"CLIP-G is a Linear, but only SDXL's own")
    with refusal, open_host(clip).open_text_encoders():
        pass


@pytest.mark.parametrize("layer", [-4, -20])
def test_a_layer_that_an_encoder_does_not_have_is_refused(open_host, load_clip, layer):
    from sdxl_trainer.trainer.errors import InputError

    clip = load_clip()
    clip.clip_layer(layer)
    refusal = pytest.raises(InputError, match=rf"stops at layer {layer}, but CLIP-L has 3: .* to -3 up to -1")
    with refusal, open_host(clip).open_text_encoders():
        pass
