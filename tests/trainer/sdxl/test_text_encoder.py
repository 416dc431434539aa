import copy

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from sdxl_trainer.trainer.sdxl.model import TextEncoders
from sdxl_trainer.trainer.sdxl.sdxl_files import open_checkpoint
from sdxl_trainer.trainer.sdxl.text_encoder import SDXLTextEncoder
from sdxl_trainer.trainer.text.new_tokens import NewTokens
from sdxl_trainer.trainer.text.token_vectors import with_vectors

CAPTIONS = ["a large red circle on a blue background", "", "a small green ring", "cat " * 70]


@pytest.fixture(scope="module")
def networks(stand_in_folder):
    # read by our loader: transformers 4 does not know the names that transformers 5 wrote
    files = open_checkpoint(stand_in_folder)
    return [part.load(torch.device("cpu"), torch.float32) for part in (files.clip_l, files.clip_g)]


@pytest.fixture(scope="module")
def pipeline(stand_in_folder, networks):
    return StableDiffusionXLPipeline.from_pretrained(
        stand_in_folder,
        text_encoder=networks[0],
        text_encoder_2=networks[1],
        unet=None,
        vae=None,
        local_files_only=True,
    )


@pytest.fixture(scope="module")
def encoder(networks):
    return SDXLTextEncoder(TextEncoders(*networks))


@pytest.mark.parametrize("caption", CAPTIONS)
def test_short_captions_equal_diffusers_own_pipeline(pipeline, encoder, caption):
    embeds, _, pooled, _ = pipeline.encode_prompt(caption, do_classifier_free_guidance=False)

    (found,) = encoder.encode([caption])

    assert found.prompt_embeds.dtype == torch.float32
    torch.testing.assert_close(found.prompt_embeds, embeds[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.pooled, pooled[0], rtol=1e-5, atol=1e-5)


def test_windows_of_long_captions_follow_each_other_and_the_first_is_pooled(encoder):
    first, second = "cat " * 75, "dog on a mat"

    whole, *parts = encoder.encode([first + second, first, second])

    assert whole.prompt_embeds.shape == (154, 40)
    expected = torch.cat([part.prompt_embeds for part in parts])
    torch.testing.assert_close(whole.prompt_embeds, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole.pooled, parts[0].pooled, rtol=1e-5, atol=1e-5)


def test_many_captions_at_once_equal_one_after_the_other(encoder):
    captions = [f"number {i} " * (i * 3) for i in range(25)]

    together = encoder.encode(captions)

    for caption, found in zip(captions, together, strict=True):
        (alone,) = encoder.encode([caption])
        torch.testing.assert_close(found.prompt_embeds, alone.prompt_embeds, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.pooled, alone.pooled, rtol=1e-5, atol=1e-5)


def test_no_captions_give_no_conditions(encoder):
    assert encoder.encode([]) == []


def test_autocast_of_the_host_does_not_reach_the_encoders(encoder):
    (plain,) = encoder.encode(["a cat"])
    with torch.autocast("cpu", torch.bfloat16):
        (inside,) = encoder.encode(["a cat"])
    assert torch.equal(inside.prompt_embeds, plain.prompt_embeds)
    assert torch.equal(inside.pooled, plain.pooled)


TOKENS = NewTokens((("TOK", 2),))


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(0)
    return {
        "clip_l": torch.randn(2, 16, generator=generator),
        "clip_g": torch.randn(2, 24, generator=generator),
    }


def test_new_tokens_equal_diffusers_own_textual_inversion(stand_in_folder, networks, vectors):
    caption = "a small TOK, on a blue background"
    copies = [copy.deepcopy(network) for network in networks]
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        stand_in_folder,
        text_encoder=copies[0],
        text_encoder_2=copies[1],
        unet=None,
        vae=None,
        local_files_only=True,
    )
    names = ["<s0>", "<s1>"]
    pipeline.load_textual_inversion(vectors["clip_l"], names, pipeline.tokenizer, copies[0])
    pipeline.load_textual_inversion(vectors["clip_g"], names, pipeline.tokenizer_2, copies[1])
    spelled = caption.replace("TOK", "<s0><s1>")
    embeds, _, pooled, _ = pipeline.encode_prompt(spelled, do_classifier_free_guidance=False)

    encoders = TextEncoders(*networks)
    with with_vectors(encoders, vectors):
        (found,) = SDXLTextEncoder(encoders, TOKENS).encode([caption])

    torch.testing.assert_close(found.prompt_embeds, embeds[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.pooled, pooled[0], rtol=1e-5, atol=1e-5)


def test_with_gradient_the_numbers_are_the_same_and_it_reaches_what_asks_for_one(networks, vectors):
    encoders = TextEncoders(*networks)
    rows = {name: tensor.requires_grad_(True) for name, tensor in vectors.items()}
    captions = ["a TOK", "tok " * 90, "a cat"]
    with with_vectors(encoders, rows):
        encoder = SDXLTextEncoder(encoders, TOKENS)
        frozen, found = encoder.encode(captions), encoder.encode_with_gradient(captions)
    for one, other in zip(frozen, found, strict=True):
        assert not one.prompt_embeds.requires_grad
        assert torch.equal(one.prompt_embeds, other.prompt_embeds)
        assert torch.equal(one.pooled, other.pooled)
    assert len(found[1].prompt_embeds) == 77 * 3
    sum(condition.prompt_embeds.sum() + condition.pooled.sum() for condition in found).backward()
    assert all(row.grad.abs().sum() > 0 for row in rows.values())


@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_the_layer_says_which_states_come_out(networks, layer):
    (found,) = SDXLTextEncoder(TextEncoders(*networks, layer)).encode(["a cat"])
    outputs = []
    for network in networks:
        layers = getattr(network, "text_model", network).encoder.layers
        keep = lambda _m, _i, out: outputs.append(out[0] if isinstance(out, tuple) else out)  # noqa: E731
        handle = layers[len(layers) + layer].register_forward_hook(keep)
        windows = SDXLTextEncoder(TextEncoders(*networks)).tokenize("a cat")
        network(windows.clip_l if network is networks[0] else windows.clip_g)
        handle.remove()
    torch.testing.assert_close(found.prompt_embeds, torch.cat(outputs, dim=-1)[0])


def test_weights_move_tokens_away_from_an_empty_window(encoder):
    (plain,), (empty,) = encoder.encode(["a red cat"]), encoder.encode([""])
    found = encoder.encode_weighted([("a ", 1.0), ("red", 1.5), ("cat", 1.0)])
    wanted = plain.prompt_embeds.clone()
    wanted[2] += 0.5 * (plain.prompt_embeds[2] - empty.prompt_embeds[2])
    torch.testing.assert_close(found.prompt_embeds, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.pooled, plain.pooled, rtol=1e-5, atol=1e-5)
    same = encoder.encode_weighted([("a red ", 1.0), ("cat", 1.0)])
    torch.testing.assert_close(same.prompt_embeds, plain.prompt_embeds, rtol=1e-5, atol=1e-5)
