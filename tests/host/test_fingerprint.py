"""The fingerprint of the weights changes with them, and with nothing else."""

import pytest
import torch


@pytest.fixture
def fingerprint():
    from sdxl_trainer.nodes.comfy_bridge.fingerprint import weights_fingerprint

    return weights_fingerprint


def diff_patch(model, size=1.0):
    key = next(k for k in model.model.state_dict() if k.endswith("attn1.to_q.weight"))
    patched = model.clone()
    patched.add_patches({key: ("diff", (torch.full_like(model.model.state_dict()[key], size),))}, 0.5)
    return patched


def test_loading_the_same_files_again_gives_the_same_fingerprint(fingerprint, stand_in, loading):
    with torch.inference_mode():
        assert fingerprint(*loading.load_stand_in()) == fingerprint(*stand_in)


def test_merged_patches_of_a_former_run_do_not_count(fingerprint, stand_in):
    import comfy.model_management

    before = fingerprint(*stand_in)
    comfy.model_management.load_models_gpu([diff_patch(stand_in[0])], force_full_load=True)
    assert fingerprint(*stand_in) == before


def test_patches_count_with_their_values_and_strengths(fingerprint, stand_in):
    model, clip, vae = stand_in
    found = {fingerprint(m, clip, vae) for m in (model, diff_patch(model), diff_patch(model, size=2.0))}
    assert len(found) == 3
    assert fingerprint(diff_patch(model), clip, vae) in found


def test_a_changed_weight_counts(fingerprint, stand_in):
    before = fingerprint(*stand_in)
    with torch.inference_mode():
        next(stand_in[2].first_stage_model.parameters()).mul_(1.5)
    assert fingerprint(*stand_in) != before


def test_the_clip_layer_and_the_sampling_count(fingerprint, stand_in):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    model, clip, vae = stand_in
    skipped = clip.clone()
    skipped.clip_layer(-3)
    sampled = ModelSamplingDiscrete().patch(model, "v_prediction", zsnr=False)[0]
    found = {fingerprint(model, clip, vae), fingerprint(model, skipped, vae), fingerprint(sampled, clip, vae)}
    assert len(found) == 3


def test_words_that_the_clip_knows_count_with_their_vectors(fingerprint, stand_in):
    from sdxl_trainer.nodes.comfy_bridge.new_words import clip_with_words
    from sdxl_trainer.trainer.files.embedding_file import WordVectors

    model, clip, vae = stand_in

    def taught(word, last_value):
        vectors = {"clip_l": torch.ones(3, 16), "clip_g": torch.ones(3, 24)}
        vectors["clip_g"][-1, -1] = last_value
        return fingerprint(model, clip_with_words(clip, WordVectors({word: vectors})), vae)

    found = {fingerprint(*stand_in), taught("TOK", 1.0), taught("TOK", 2.0), taught("STY", 1.0)}
    assert len(found) == 4
    assert taught("tok", 1.0) == taught("TOK", 1.0)


def parts(model, clip, vae):
    """What names latents, and what names conditions."""
    from sdxl_trainer.nodes.comfy_bridge.fingerprint import text_fingerprint, vae_fingerprint

    return vae_fingerprint(model, vae), text_fingerprint(clip)


def test_latents_and_text_are_named_by_their_own_part_alone(stand_in, loading):
    import comfy.latent_formats

    model, clip, vae = stand_in
    base = parts(*stand_in)
    with torch.inference_mode():
        assert parts(*loading.load_stand_in()) == base
    assert parts(diff_patch(model), clip, vae) == base
    skipped = clip.clone()
    skipped.clip_layer(-3)
    assert parts(model, skipped, vae)[0] == base[0] != parts(model, skipped, vae)[1] != base[1]
    scaled = model.clone()
    scaled.add_object_patch("latent_format", comfy.latent_formats.SDXL_Playground_2_5())
    assert parts(scaled, clip, vae)[0] != base[0]
    assert parts(scaled, clip, vae)[1] == base[1]
    with torch.inference_mode():
        next(vae.first_stage_model.parameters()).mul_(1.5)
    assert parts(*stand_in)[0] != base[0]
    assert parts(*stand_in)[1] == base[1]


def test_the_type_that_is_computed_in_names_latents_and_text(stand_in, load_clip, monkeypatch):
    model, _, vae = stand_in
    base = parts(*stand_in)
    clips = [load_clip(dtype) for dtype in (None, torch.float16, torch.bfloat16, torch.float32)]
    found = [parts(model, clip, vae)[1] for clip in clips]
    assert len(set(found)) == 3 and found[0] == base[1]
    other = torch.bfloat16 if vae.vae_dtype == torch.float32 else torch.float32
    monkeypatch.setattr(vae, "vae_dtype", other)
    assert parts(*stand_in)[0] != base[0]


def test_a_lora_on_clip_names_its_text_merged_or_not(stand_in):
    import comfy.model_management

    model, clip, vae = stand_in
    key = next(k for k in clip.cond_stage_model.state_dict() if k.endswith("q_proj.weight"))
    patched = clip.clone()
    patched.add_patches({key: ("diff", (torch.ones_like(clip.cond_stage_model.state_dict()[key]),))}, 0.5)
    base, changed = parts(*stand_in), parts(model, patched, vae)
    assert changed[0] == base[0] and changed[1] != base[1]
    comfy.model_management.load_models_gpu([patched.patcher], force_full_load=True)
    assert parts(*stand_in) == base
    assert parts(model, patched, vae) == changed


def test_replaced_code_leaves_what_it_acts_on_without_a_name(stand_in):
    """A seamless VAE has the weights of the plain one."""
    _, clip, vae = stand_in
    pictures, text = parts(*stand_in)
    convolution = next(m for m in vae.first_stage_model.modules() if isinstance(m, torch.nn.Conv2d))
    for part, name, expected in (
        (convolution, "_conv_forward", ("", text)),
        (vae, "encode", ("", text)),
        (clip, "tokenize", (pictures, "")),
    ):
        setattr(part, name, lambda *values: None)
        assert parts(*stand_in) == expected
        delattr(part, name)
    hook = clip.cond_stage_model.register_forward_hook(lambda *values: None)
    assert parts(*stand_in) == (pictures, "")
    hook.remove()
    assert parts(*stand_in) == (pictures, text)


def test_what_no_digest_knows_leaves_text_without_a_name(stand_in):
    import comfy.hooks

    model, clip, vae = stand_in
    hooked = clip.clone()
    hooked.patcher.forced_hooks = comfy.hooks.HookGroup()
    hooked.patcher.forced_hooks.add(comfy.hooks.WeightHook(1.0, 1.0))
    assert parts(model, hooked, vae) == (parts(*stand_in)[0], "")
    assert all(parts(*stand_in))
