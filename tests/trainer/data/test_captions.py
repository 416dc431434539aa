import time

import pytest
from sdxl_trainer.trainer.data.captions import (
    MAX_CAPTION_CHARS,
    clean_caption,
    decode_text,
    holds_trigger,
    read_caption,
    with_trigger,
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_files_are_read_without_a_byte_order_mark(tmp_path, encoding):  # cases 49, 50
    path = tmp_path / "a.txt"
    path.write_bytes("  ein Zörp, 猫 🦊 \r\n".encode(encoding))
    assert read_caption(path) == ("ein Zörp, 猫 🦊", "")


def test_big_endian_utf16_is_read_by_its_mark(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xfe\xff" + "café".encode("utf-16-be"))
    assert read_caption(path) == ("café", "")


def test_windows_text_is_read_with_a_warning(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("café “noir”".encode("cp1252"))
    text, warning = read_caption(path)
    assert text == "café “noir”" and "Windows-1252" in warning


@pytest.mark.parametrize("data", ["猫と犬".encode("shift-jis"), bytes(range(128, 256)), b"\x81\xff\x8d"])
def test_other_bytes_lose_nothing_and_warn(data):
    text, warning = decode_text(data)
    assert warning
    encoding = "cp1252" if not {0x81, 0x8D, 0x8F, 0x90, 0x9D} & set(data) else "latin-1"
    assert text.encode(encoding) == data


def test_lines_are_joined_by_one_space():  # cases 49, 55
    assert clean_caption("\ufeff one\r\n\r\n  two\n\tthree \n")[0] == "one two three"


def test_control_characters_and_lone_surrogates_go():  # case 56
    assert clean_caption("a\0b\x07c\x1b[0m \ud800d")[0] == "abc[0m d"


def test_a_caption_is_literal_text():  # case 54
    literal = r"a (zorp:1.3), [x|y], embedding:foo BREAK {a|b} \(b\) <lora:x:1> __w__"
    assert clean_caption(literal) == (literal, "")


@pytest.mark.parametrize("num_tokens", [75, 76, 77, 78, 1000])
def test_long_captions_pass_whole(num_tokens):  # cases 51, 52: cut into windows by the text encoder
    caption = " ".join(["cat"] * num_tokens)
    assert clean_caption(caption) == (caption, "")


def test_a_megabyte_is_cut_at_a_word_with_a_warning(tmp_path):  # case 53
    path = tmp_path / "a.txt"
    path.write_text("zörp " * 300_000, encoding="utf-8")
    start = time.perf_counter()
    text, warning = read_caption(path)
    assert time.perf_counter() - start < 5
    assert len(text) <= MAX_CAPTION_CHARS and text.endswith("zörp") and "cut" in warning
    assert set(text.split()) == {"zörp"}


def test_a_character_cut_in_two_at_the_limit_is_no_encoding_error():
    assert decode_text("zö".encode()[:2], whole=False) == ("z", "")
    assert decode_text("zö".encode("utf-8-sig")[:5], whole=False) == ("z", "")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red hat", "zorp, a red hat"),
        ("a zorp with a hat", "a zorp with a hat"),
        ("Zorp!", "Zorp!"),
        ("zorplike things", "zorp, zorplike things"),
        ("azorp", "zorp, azorp"),
        ("", "zorp"),
    ],
)
def test_the_trigger_goes_in_front_unless_it_is_there_as_a_word(caption, expected):
    assert with_trigger(caption, "zorp") == expected


def test_a_trigger_of_several_words_and_signs():
    assert with_trigger("c++  (man) walks", "c++ (man)") == "c++  (man) walks"
    assert with_trigger("c++ walks", "c++ (man)") == "c++ (man), c++ walks"


def test_no_trigger_changes_nothing():
    assert with_trigger("a cat", "") == "a cat"
    assert not holds_trigger("a cat", "")
