import pytest
from sdxl_trainer.trainer.config import PivotalConfig
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.text.new_tokens import FIRST_ID, NewTokens, initial_words

TWO = NewTokens((("TOK", 2), ("STY", 4)))


def parsed(**settings):
    return NewTokens.parse(PivotalConfig(**{"token": "TOK", **settings}))


def test_words_and_counts_are_read_in_their_order():
    assert parsed().words == (("TOK", 2),)
    assert parsed(token=" TOK ,STY,", new_tokens="3").words == (("TOK", 3), ("STY", 3))
    assert parsed(token="b_1, A-2", new_tokens=" 2 ,4").words == (("b_1", 2), ("A-2", 4))


def test_rows_and_ids_follow_each_other():
    assert TWO.total == 6
    assert TWO.rows("TOK") == range(2)
    assert TWO.rows("sty") == range(2, 6)
    assert TWO.ids("STY") == [FIRST_ID + 2, FIRST_ID + 3, FIRST_ID + 4, FIRST_ID + 5]
    assert FIRST_ID == 49408
    with pytest.raises(KeyError):
        TWO.rows("cat")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a photo of TOK on a mat", ["a photo of ", [49408, 49409], " on a mat"]),
        ("TOK", [[49408, 49409]]),
        ("", []),
        ("tok, Tok's (tOK)", [[49408, 49409], ", ", [49408, 49409], "'s (", [49408, 49409], ")"]),
        ("token, stok, TOK1, TOK_, ÄTOK, 猫TOK", ["token, stok, TOK1, TOK_, ÄTOK, 猫TOK"]),
        ("TOK-like", [[49408, 49409], "-like"]),
        ("STY TOK", [[49410, 49411, 49412, 49413], " ", [49408, 49409]]),
        ("a TO\u212a", ["a ", [49408, 49409]]),  # the Kelvin sign is a K in another case
    ],
)
def test_a_text_is_split_at_whole_words_in_any_case(text, pieces):
    assert TWO.pieces(text) == pieces
    assert TWO.holds(text) == any(isinstance(piece, list) for piece in pieces)


def test_the_longer_of_two_words_is_found_where_both_begin():
    tokens = NewTokens((("TOK", 1), ("TOK-2", 1)))
    assert tokens.pieces("TOK-2 TOK") == [[49409], " ", [49408]]


def test_without_words_all_is_text():
    assert NewTokens(()).pieces("a TOK") == ["a TOK"]
    assert not NewTokens(()).holds("a TOK")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"token": "my cat"}, "the word 'my cat'"),
        ({"token": "<s0>"}, "the word '<s0>'"),
        ({"token": "Mädchen"}, "the word 'Mädchen'"),
        ({"token": "a:b"}, "the word 'a:b'"),
        ({"token": "--"}, "the word '--'"),
        ({"token": "1"}, "the word '1'"),  # or (red:1.2) would be red and a new token
        ({"token": " , "}, "names no word"),
        ({"token": "TOK, cat, tok"}, "names 'TOK' 2 times"),
        ({"new_tokens": "0"}, "new_tokens is '0'"),
        ({"new_tokens": "-1"}, "new_tokens is '-1'"),
        ({"new_tokens": "two"}, "new_tokens is 'two'"),
        ({"new_tokens": "1.5"}, "new_tokens is '1.5'"),
        ({"new_tokens": "²"}, "new_tokens is '²'"),
        ({"new_tokens": ""}, "new_tokens is ''"),
        ({"new_tokens": "2, 4"}, r"2 numbers \(2, 4\) for 1 word \(TOK\)"),
        ({"token": "a, b, c", "new_tokens": "2, 4"}, r"2 numbers \(2, 4\) for 3 words \(a, b, c\)"),
        ({"new_tokens": "76"}, "makes 76 new tokens in all, but a window of CLIP holds 75"),
        ({"token": "a, b", "new_tokens": "38"}, "makes 76 new tokens"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=f"pivotal settings: .*{sentence}"):
        parsed(**settings)


def test_one_window_may_be_full_of_new_tokens():
    assert parsed(new_tokens="75").total == 75


@pytest.mark.parametrize(
    ("given", "words"),
    [("woman, sketch", ("woman", "sketch")), ("", ("", "")), ("old woman,", ("old woman", ""))],
)
def test_initial_words_have_one_entry_for_each_word(given, words):
    assert initial_words(PivotalConfig(token="TOK, STY", initial_words=given), TWO) == words


@pytest.mark.parametrize("given", ["woman", "woman, sketch, cat"])
def test_initial_words_that_do_not_fit_are_refused(given):
    with pytest.raises(InputError, match=rf"initial_words is '{given}'.* token has 2 \(TOK, STY\)"):
        initial_words(PivotalConfig(token="TOK, STY", initial_words=given), TWO)
