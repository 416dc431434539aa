"""Our token windows and conditions against ComfyUI's own tokenizer and text encoders."""

import importlib.util
import random
import string

import pytest
import torch
from sdxl_trainer.trainer.sdxl.sdxl_model import HeadlessSDXL
from sdxl_trainer.trainer.sdxl.token_windows import CaptionTokenizer

LETTERS = string.ascii_letters + string.digits
# the caption must not hold NUL, which ComfyUI uses inside for escaped parentheses
ODD = "áßøÆñçž少女の🙂👩‍👩‍👧🏽‍♀️½™“”—…\u200b\u00a0\ufeff́<|>{}[]()\\/:;,.!?#@$%^&*~`'\"-_=+\t\n"


def random_word(rng):
    draw = rng.random()
    if draw < 0.6:
        return rng.choice(["a", "photo", "of", "cat", "1girl", "masterpiece", "blue", "(red:1.3)", "it's"])
    if draw < 0.8:
        return "".join(rng.choices(LETTERS, k=rng.randint(1, 14)))
    if draw < 0.95:
        return "".join(rng.choices(ODD + LETTERS, k=rng.randint(1, 8)))
    return "".join(rng.choices(LETTERS, k=rng.randint(30, 200)))


def random_captions(count):
    rng = random.Random(0)
    for index in range(count):
        words = rng.choice([0, 1, 5, 20, 70, 78, 160]) if index % 4 else rng.randint(0, 12)
        yield rng.choice([" ", ", ", "  "]).join(random_word(rng) for _ in range(words))


@pytest.fixture(scope="module")
def comfy_tokenizer(comfyui_folder):
    from comfy.sdxl_clip import SDXLTokenizer

    return SDXLTokenizer()


def ids(windows):
    return [[int(token) for token, _ in window] for window in windows]


def test_thousands_of_random_captions_are_cut_into_the_same_windows(comfy_tokenizer):
    ours = CaptionTokenizer()
    long = 0
    for caption in random_captions(4000):
        expected = comfy_tokenizer.tokenize_with_weights(caption, disable_weights=True)
        found = ours.tokenize(caption)
        assert found.clip_l.tolist() == ids(expected["l"]), repr(caption)
        assert found.clip_g.tolist() == ids(expected["g"]), repr(caption)
        long += len(found.clip_l) > 1
    assert long > 500


def test_captions_without_parentheses_need_no_option_to_be_literal(comfy_tokenizer):
    ours = CaptionTokenizer()
    for caption in random_captions(500):
        plain = caption.translate(str.maketrans("()\\", "   "))
        expected = comfy_tokenizer.tokenize_with_weights(plain)
        assert ours.tokenize(plain).clip_l.tolist() == ids(expected["l"]), repr(plain)


def test_escaped_parentheses_need_no_option_to_be_literal(comfy_tokenizer):
    caption = r"a cat \(animal\), \(\(white\)\) and \\(so on\\)"
    expected = comfy_tokenizer.tokenize_with_weights(caption)
    assert CaptionTokenizer().tokenize(caption).clip_l.tolist() == ids(expected["l"])


def test_conditions_of_the_stand_in_equal_comfyuis(stand_in_folder, pack_folder):
    place = pack_folder / "tests" / "host" / "stand_in_pack" / "loading.py"
    spec = importlib.util.spec_from_file_location("stand_in_loading_for_tokens", place)
    loading = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loading)
    clip = loading.load_clip()
    captions = ["a large red circle on a blue background", "", "many words, " * 120]

    ours = HeadlessSDXL.load(stand_in_folder).encode_captions(captions)

    for caption, condition in zip(captions, ours, strict=True):
        states, pooled = clip.encode_from_tokens(clip.tokenize(caption), return_pooled=True)
        assert states.shape[1:] == condition.prompt_embeds.shape
        torch.testing.assert_close(condition.prompt_embeds, states[0].float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(condition.pooled, pooled[0].float(), rtol=1e-4, atol=1e-5)
