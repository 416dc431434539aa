from pathlib import Path

import pytest
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.run_name import check_run_name, file_within

REFUSED = [
    "",
    "   ",
    "a/b",
    "..",
    "../cat",
    "/etc/passwd",
    "C:\\cat",
    "C:cat",
    "a\\b",
    "NUL",
    "con",
    "CON.txt",
    "lpt1",
    "cat.",
    ".cat",
    "cat\n2",
    "cat\0",
    "cat\x7f",
    "a" * 300,
    "猫" * 90,
    "cat?",
    "cat*",
    'a"b',
    "a<b",
    "a|b",
    "cat-step000250",
    "cat\ud800",
]


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_are_no_plain_file_names_are_refused_in_a_sentence(name):
    with pytest.raises(InputError, match="choose a plain file name"):
        check_run_name(name)


@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("cat", "cat"),
        ("  my cat  ", "my cat"),
        ("cat.safetensors", "cat"),
        ("cat v1.5", "cat v1.5"),
        ("Kätzchen", "Kätzchen"),
        ("Ka\u0308tzchen", "Kätzchen"),
        ("猫", "猫"),
        ("console", "console"),
        ("cat-2", "cat-2"),
    ],
)
def test_ordinary_names_are_kept_and_harmless_spaces_go(name, used):
    assert check_run_name(name) == used


def test_message_shows_a_shortened_name_on_one_line():
    with pytest.raises(InputError) as caught:
        check_run_name("x\n" * 500)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_files_do_not_leave_their_folder_through_links(tmp_path: Path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    assert file_within(inside, "cat") == inside / "cat"
    for name in ("link", "../outside", "link/cat"):
        with pytest.raises(InputError, match="leads out"):
            file_within(inside, name)
