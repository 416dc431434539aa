"""Conditions of ComfyUI's CLIP and of the trainer's encoder, and how far apart they are."""

import torch

SHORT = "a photo of a large red circle"
LONG = "a very long caption " + ", ".join(f"word{i} thing" for i in range(55))


def encoder_of(encoders, words=None):
    from sdxl_trainer.trainer.sdxl.text_encoder import SDXLTextEncoder

    return SDXLTextEncoder(encoders, words)


def comfy_condition(clip, prompt):
    """(prompt_embeds, pooled) that core's CLIP Text Encode gives."""
    with torch.inference_mode():
        ((embeds, rest),) = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    return embeds[0], rest["pooled_output"][0]


def distance(ours, theirs):
    """Relative to theirs, over all numbers."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).norm() / theirs.norm()).item()


def assert_equal_conditions(condition, expected, tolerance=1e-5):
    assert distance(condition.prompt_embeds, expected[0]) < tolerance
    assert distance(condition.pooled, expected[1]) < tolerance


def assert_equal_conditioning(ours, theirs, tolerance=1e-5):
    """CONDITIONING as nodes hand it on."""
    ((embeds, rest),), ((their_embeds, their_rest),) = ours, theirs
    assert rest.keys() == their_rest.keys()
    assert distance(embeds, their_embeds) < tolerance
    assert distance(rest["pooled_output"], their_rest["pooled_output"]) < tolerance
