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
