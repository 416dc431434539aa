"""Captions through ComfyUI's CLIP: literal text, and the numbers that the headless encoder gives."""

import pytest
import torch

PLAIN = [
    "",
    "a photo of a zorp on a red table",
    "naïve café, 3 o'clock; 日本 and emoji 🙂",
    "a very long caption " + ", ".join(f"word{i} thing" for i in range(80)),
]
LITERAL = [
    "a cat (sitting:1.4) by (the door)",
    "an open ( and a closed ) and ((two))",
    r"escaped \(sitting\) cat",
    "a backslash \\ here",
    "look embedding:secret here",
]


def token_ids(clip, prompt):
    return [
        [[token for token, _ in window] for window in windows] for windows in clip.tokenize(prompt).values()
    ]


def weights(clip, prompt):
    return {
        weight for windows in clip.tokenize(prompt).values() for window in windows for _, weight in window
    }


@pytest.fixture
def literal_prompt():
    from sdxl_trainer.trainer.data.captions import literal_prompt

    return literal_prompt


@pytest.mark.parametrize("caption", PLAIN)
def test_plain_captions_are_tokenized_as_clip_text_encode_does(stand_in, literal_prompt, caption):
    assert token_ids(stand_in[1], literal_prompt(caption)) == token_ids(stand_in[1], caption)


@pytest.mark.parametrize("caption", LITERAL)
def test_no_caption_carries_weights_or_loses_words(stand_in, literal_prompt, caption):
    clip = stand_in[1]
    words = caption.replace("\\(", "(").replace("\\)", ")")
    (tokens,) = [clip.tokenizer.clip_l.tokenizer(words)["input_ids"][1:-1]]
    window = token_ids(clip, literal_prompt(caption))[1][0]
    assert weights(clip, literal_prompt(caption)) == {1.0}
    assert window[1 : 1 + len(tokens)] == tokens


def test_an_embedding_named_in_a_caption_is_not_looked_up(stand_in, literal_prompt, tmp_path):
    from safetensors.torch import save_file

    clip = stand_in[1]
    save_file({"clip_l": torch.ones(1, 16), "clip_g": torch.ones(1, 24)}, tmp_path / "secret.safetensors")
    for tokenizer, width in ((clip.tokenizer.clip_l, 16), (clip.tokenizer.clip_g, 24)):
        tokenizer.embedding_directory, tokenizer.embedding_size = str(tmp_path), width
    caption = "look embedding:secret here"
    assert any(isinstance(t, torch.Tensor) for t, _ in clip.tokenize(caption)["l"][0])
    assert not any(isinstance(t, torch.Tensor) for t, _ in clip.tokenize(literal_prompt(caption))["l"][0])


@pytest.mark.parametrize("caption", [*PLAIN, *LITERAL])
def test_conditions_equal_those_of_the_headless_encoder(stand_in, stand_in_folder, caption):
    from sdxl_trainer.nodes.comfy_bridge.host_model import HostModel
    from sdxl_trainer.trainer.sdxl.sdxl_model import HeadlessSDXL

    (ours,) = HeadlessSDXL.load(stand_in_folder, "cpu", torch.float32).encode_captions([caption])
    (hosts,) = HostModel(*stand_in, "stand-in").encode_captions([caption])
    assert ours.prompt_embeds.shape == hosts.prompt_embeds.shape
    assert ((ours.prompt_embeds - hosts.prompt_embeds).norm() / hosts.prompt_embeds.norm()).item() < 1e-5
    assert ((ours.pooled - hosts.pooled).norm() / hosts.pooled.norm()).item() < 1e-5


def test_conditions_equal_clip_text_encode_and_are_ordinary_tensors(stand_in):
    from sdxl_trainer.nodes.comfy_bridge.host_model import HostModel

    caption = PLAIN[1]
    with torch.inference_mode():
        (entry,) = stand_in[1].encode_from_tokens_scheduled(stand_in[1].tokenize(caption))
        (condition,) = HostModel(*stand_in, "stand-in").encode_captions([caption])
    assert torch.equal(condition.prompt_embeds, entry[0][0])
    assert torch.equal(condition.pooled, entry[1]["pooled_output"][0])
    assert not condition.prompt_embeds.is_inference()


def test_clip_of_another_width_is_refused(stand_in):
    from sdxl_trainer.nodes.comfy_bridge.captions import encode_captions
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match="40 and 24 channels, but the model expects 2048 and 1280"):
        encode_captions(stand_in[1], ["a cat"], (2048, 1280))
