import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from sdxl_trainer.trainer.sdxl.sdxl_files import open_checkpoint
from sdxl_trainer.trainer.sdxl.text_encoder import SDXLTextEncoder

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
    return SDXLTextEncoder(*networks)


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
