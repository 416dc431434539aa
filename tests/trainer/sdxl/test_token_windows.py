import pytest
import torch
from sdxl_trainer.trainer.sdxl.token_windows import CaptionTokenizer
from sdxl_trainer.trainer.text.new_tokens import NewTokens
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


TOKENS = NewTokens((("TOK", 2), ("BIG", 9)))
TOK, BIG, CAT = [49408, 49409], list(range(49410, 49419)), 2368


@pytest.fixture(scope="module")
def with_words():
    return CaptionTokenizer(TOKENS)


def contents(windows):
    """The ids between start and the first end of each window."""
    return [row[1 : row.index(49407)] for row in windows.clip_l.tolist()]


def test_words_become_their_new_tokens(with_words, clip):
    found = with_words.tokenize("a photo of tok, on a BIG mat")

    texts = [clip(text).input_ids[1:-1] for text in ("a photo of", ", on a", "mat")]
    assert contents(found) == [texts[0] + TOK + texts[1] + BIG + texts[2]]
    assert contents(CaptionTokenizer().tokenize("a tok")) == [clip("a tok").input_ids[1:-1]]
    assert with_words.ids("TOK") == clip("tok").input_ids[1:-1]


@pytest.mark.parametrize(
    ("cats", "windows"),
    [
        (73, [[CAT] * 73 + TOK]),
        (74, [[CAT] * 74, TOK]),  # fewer than eight are never cut
        (75, [[CAT] * 75, TOK]),
        (149, [[CAT] * 75, [CAT] * 74, TOK]),
    ],
)
def test_a_short_word_moves_to_the_next_window_whole(with_words, cats, windows):
    assert contents(with_words.tokenize("cat " * cats + "TOK")) == windows


def test_a_word_of_eight_or_more_is_cut_where_the_window_ends(with_words):
    assert contents(with_words.tokenize("cat " * 70 + "BIG")) == [[CAT] * 70 + BIG[:5], BIG[5:]]


def test_short_text_between_words_is_kept_whole_and_longer_text_is_cut(with_words):
    found = with_words.tokenize("cat " * 70 + "TOK" + " cat" * 7)
    assert contents(found) == [[CAT] * 70 + TOK, [CAT] * 7]
    found = with_words.tokenize("cat " * 70 + "TOK" + " cat" * 8)
    assert contents(found) == [[CAT] * 70 + TOK + [CAT] * 3, [CAT] * 5]


def test_what_is_left_of_a_window_is_padded(with_words):
    found = with_words.tokenize("cat " * 74 + "TOK")
    assert found.clip_l.shape == found.clip_g.shape == (2, 77)
    assert found.clip_l[0, 75:].tolist() == [49407, 49407]
    assert found.clip_g[0, 75:].tolist() == [49407, 0]
    assert found.clip_g[1].tolist() == [49406, *TOK, 49407] + [0] * 73


def test_weights_stand_beside_their_tokens(with_words):
    found = with_words.tokenize_weighted([("a cat ", 1.0), ("TOK cat", 1.25), ("", 3.0)])
    length = len(contents(found)[0])
    assert contents(found)[0][-3:] == [*TOK, CAT]
    assert found.weights.shape == found.clip_l.shape
    assert found.weights[0].tolist() == [1] * (1 + length - 3) + [1.25] * 3 + [1] * (76 - length)
    assert (with_words.tokenize("TOK").weights == 1).all()
    assert contents(with_words.tokenize_weighted([])) == [[]]
