import pytest
import torch
from sdxl_trainer.trainer.sdxl.token_windows import CaptionTokenizer
from transformers import CLIPTokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return CaptionTokenizer()


@pytest.fixture(scope="module")
def clip(stand_in_folder):
    return CLIPTokenizer.from_pretrained(stand_in_folder / "tokenizer")


@pytest.mark.parametrize("caption", ["", "a photo of a cat", "ein Mädchen, 少女, 🙂!", "word " * 75])
def test_captions_of_one_window_equal_plain_clip_tokenisation(tokenizer, clip, caption):
    windows = tokenizer.tokenize(caption)

    expected = clip(caption, padding="max_length", max_length=77, return_tensors="pt").input_ids
    assert torch.equal(windows.clip_l, expected)
    words = len(clip(caption).input_ids)
    assert torch.equal(windows.clip_g[:, :words], expected[:, :words])
    assert not windows.clip_g[:, words:].any()


@pytest.mark.parametrize(("words", "windows"), [(75, 1), (76, 2), (150, 2), (151, 3)])
def test_long_captions_are_cut_after_every_75_tokens(tokenizer, words, windows):
    found = tokenizer.tokenize("cat " * words)

    assert found.clip_l.shape == found.clip_g.shape == (windows, 77)
    assert (found.clip_l[:, 0] == 49406).all()
    assert int((found.clip_l == 2368).sum()) == words
    last = words - 75 * (windows - 1)
    assert found.clip_l[-1, last + 1 :].tolist() == [49407] * (76 - last)
    assert found.clip_g[-1, last + 1 :].tolist() == [49407] + [0] * (75 - last)


@pytest.mark.parametrize("caption", ["a (red:1.3) ((cat))", "a embedding:cat, BREAK", "{a|b} <lora:x:1>"])
def test_captions_are_literal_text(tokenizer, clip, caption):
    expected = clip(caption).input_ids
    assert tokenizer.tokenize(caption).clip_l[0, : len(expected)].tolist() == expected


def test_escaped_parentheses_read_as_plain_ones(tokenizer):
    escaped = tokenizer.tokenize(r"a cat \(animal\) \n").clip_l
    assert torch.equal(escaped, tokenizer.tokenize(r"a cat (animal) \n").clip_l)


def test_a_caption_of_200_kilobytes_does_not_hang(tokenizer):
    assert len(tokenizer.tokenize("tag, " * 40_000).clip_l) == 1067
