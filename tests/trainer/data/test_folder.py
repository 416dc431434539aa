import os
import shutil
import socket
import tempfile
import unicodedata
from pathlib import Path

import pytest
from PIL import Image
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.folder import scan_folder
from sdxl_trainer.trainer.errors import InputError

needs_posix = pytest.mark.skipif(os.name != "posix", reason="pipes and links of POSIX")


def picture(path, color="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), color).save(path, "PNG")
    return path


def scan(root, **settings):
    return scan_folder(root, DatasetConfig(**settings))


def found(root, **settings):
    return {p.name: (p.captions, p.caption_source, p.repeats) for p in scan(root, **settings).pictures}


def notes(root, **settings):
    return [str(note) for note in scan(root, **settings).notes]


def test_a_missing_folder_and_a_file_are_refused(tmp_path):  # case 1
    with pytest.raises(InputError, match="does not exist"):
        scan(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a file"):
        scan(picture(tmp_path / "a.png"))


def test_all_layouts_mix_in_one_tree(tmp_path):
    for name in (
        "a.png",
        "b.PNG",
        "10_zorp creature/c.png",
        "10_zorp creature/d.png",
        "deep/er/e.png",
        "f.png",
    ):
        picture(tmp_path / name)
    (tmp_path / "a.txt").write_text("from txt")
    (tmp_path / "b.CAPTION").write_text("from caption")
    (tmp_path / "10_zorp creature" / "d.txt").write_text("own words")
    (tmp_path / "deep" / "metadata.jsonl").write_text('{"file_name": "er/e.png", "text": ["x", "y"]}\n')
    assert found(tmp_path, prompt="the prompt") == {
        "a.png": (("from txt",), ".txt file", 1),
        "b.PNG": (("from caption",), ".caption file", 1),
        "10_zorp creature/c.png": (("zorp creature",), "folder name", 10),
        "10_zorp creature/d.png": (("own words",), ".txt file", 10),
        "deep/er/e.png": (("x", "y"), "metadata.jsonl", 1),
        "f.png": (("the prompt",), "prompt", 1),
    }
    assert found(tmp_path)["f.png"] == ((), "none", 1)


def test_repeats_reach_into_folders_below_and_the_root_counts_too(tmp_path):  # case 39
    picture(tmp_path / "3_cat" / "below" / "a.png")
    picture(tmp_path / "3_cat" / "2_dog_big" / "b.png")
    assert found(tmp_path) == {
        "3_cat/below/a.png": (("cat",), "folder name", 3),
        "3_cat/2_dog_big/b.png": (("dog_big",), "folder name", 2),
    }
    assert found(tmp_path / "3_cat")["below/a.png"] == (("cat",), "folder name", 3)


@pytest.mark.parametrize("name", ["0_cat", "-1_cat", "20240131_cat"])
def test_repeats_that_make_no_sense_are_a_problem(tmp_path, name):  # case 40
    picture(tmp_path / name / "a.png")
    picture(tmp_path / name / "b.png")
    problems = scan(tmp_path).problems
    assert len(problems) == 1 and f"'{name}'" in problems[0] and "repeats" in problems[0]


def test_a_year_as_repeats_is_pointed_out(tmp_path):
    picture(tmp_path / "2024_holiday" / "a.png")
    assert [note for note in notes(tmp_path) if "2024 repeats" in note]


def test_names_without_a_number_and_dates_with_dashes_are_plain_folders(tmp_path):
    picture(tmp_path / "cats_10" / "a.png")
    picture(tmp_path / "2024-01-31_cats" / "b.png")
    assert {value for value in found(tmp_path).values()} == {((), "none", 1)}


def test_metadata_wins_over_a_sidecar_and_says_so(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("sidecar")
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.png,row\n")
    assert found(tmp_path, caption_column="caption") == {"a.png": (("row",), "metadata.csv", 1)}
    assert [note for note in notes(tmp_path, caption_column="caption") if "another" in note]


def test_problems_of_all_tables_come_together(tmp_path):  # case 58
    picture(tmp_path / "a.png")
    picture(tmp_path / "b" / "c.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "x"}\n{broken\n')
    (tmp_path / "b" / "metadata.csv").write_text("file_name,text\n../a.png,x\nc.png,fine\n")
    result = scan(tmp_path)
    assert [problem[:22] for problem in result.problems] == [
        "metadata.jsonl row 1: ",
        "metadata.jsonl row 2: ",
        "b/metadata.csv row 2: ",
    ]


def test_an_empty_caption_file_counts_as_none_and_the_next_source_is_asked(tmp_path):  # case 48
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf \r\n")
    assert found(tmp_path) == {"a.png": ((), "none", 1)}
    assert any("a.txt is empty" in note for note in notes(tmp_path))
    (tmp_path / "a.caption").write_text("words")
    assert found(tmp_path)["a.png"][0] == ("words",)


def test_a_caption_in_another_encoding_is_named(tmp_path):  # case 50
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    assert found(tmp_path)["a.png"][0] == ("café",)
    assert any(note.startswith("a.txt is not UTF-8") for note in notes(tmp_path))


def test_a_caption_that_is_a_folder_is_pointed_out(tmp_path):  # case 57
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").mkdir()
    assert found(tmp_path) == {"a.png": ((), "none", 1)}
    assert "a.txt is a folder, not a caption file" in notes(tmp_path)


def test_pictures_of_one_stem_share_a_caption_and_dots_in_names_keep_apart(tmp_path):  # cases 41, 42
    for name in ("a.jpg", "a.png", "aaa.bbb.jpg", "aaa.ccc.jpg", "d.png"):
        picture(tmp_path / name)
    (tmp_path / "a.txt").write_text("shared")
    (tmp_path / "aaa.bbb.txt").write_text("bbb")
    (tmp_path / "aaa.ccc.txt").write_text("ccc")
    (tmp_path / "d.png.txt").write_text("full name")
    captions = {name: value[0] for name, value in found(tmp_path).items()}
    assert captions == {
        "a.jpg": ("shared",),
        "a.png": ("shared",),
        "aaa.bbb.jpg": ("bbb",),
        "aaa.ccc.jpg": ("ccc",),
        "d.png": ("full name",),
    }
    assert notes(tmp_path) == []


def test_a_folder_named_like_a_picture_is_a_folder(tmp_path):  # case 43
    picture(tmp_path / "set.png" / "a.png")
    (tmp_path / "set.png" / "a.txt").write_text("inside")
    assert found(tmp_path) == {"set.png/a.png": (("inside",), ".txt file", 1)}


ODD_NAMES = ["sp ace", "quo'te\"", "50%", "#1", "🦊", "猫", "مرحبا", "new\nline", "n" * 251]


@needs_posix
@pytest.mark.parametrize("name", [*ODD_NAMES, "a&b;c$(x)"])
def test_names_may_hold_anything(tmp_path, name):  # cases 44, 45
    picture(tmp_path / f"{name}.png")
    if len(name) < 200:
        (tmp_path / f"{name}.txt").write_text("words")
        assert found(tmp_path)[f"{name}.png"][0] == ("words",)
    else:
        assert len(found(tmp_path)) == 1


@needs_posix
def test_names_that_are_no_unicode_are_shown_readably(tmp_path):
    picture(tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    (only,) = scan(tmp_path).pictures
    assert only.name.encode() and only.path.exists()


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_sidecars_match_however_accents_are_composed(tmp_path, forms):  # case 44
    picture(tmp_path / unicodedata.normalize(forms[0], "é.png"))
    (tmp_path / unicodedata.normalize(forms[1], "é.txt")).write_text("words")
    assert [value[0] for value in found(tmp_path).values()] == [("words",)]


def test_a_path_of_more_than_260_characters_works(tmp_path):  # case 45
    deep = tmp_path / ("d" * 100) / ("e" * 100) / ("f" * 100)
    picture(deep / "a.png")
    assert len(found(tmp_path)) == 1


def test_hidden_files_and_droppings_are_passed_over(tmp_path):  # case 38
    picture(tmp_path / "a.png")
    for name in ("__MACOSX/._b.png", "._a.png", ".hidden/c.png", ".d.png", "@eaDir/e.png"):
        picture(tmp_path / name)
    (tmp_path / "Thumbs.db").write_bytes(b"\0")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    assert list(found(tmp_path)) == ["a.png"]
    assert notes(tmp_path) == []


def test_endings_may_be_upper_case_or_missing(tmp_path):  # cases 9, 11
    for name in ("A.JPG", "b.Png", "no_ending", "c.data"):
        picture(tmp_path / name)
    (tmp_path / "notes.md").write_text("BM and GIF are formats")
    (tmp_path / "model.npz").write_bytes(b"PK\3\4")
    assert sorted(found(tmp_path)) == ["A.JPG", "b.Png", "c.data", "no_ending"]
    assert notes(tmp_path) == ["files that are no pictures, left alone: 1 .md, 1 .npz"]


@needs_posix
def test_pipes_sockets_and_devices_never_hang(tmp_path):  # case 36
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "metadata.jsonl")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    server = socket.socket(socket.AF_UNIX)
    folder = tempfile.mkdtemp(dir="/tmp")  # the path of a socket must be short
    try:
        server.bind(f"{folder}/s.png")
        assert any("socket" in note for note in notes(Path(folder)))
    finally:
        server.close()
        shutil.rmtree(folder)
    assert found(tmp_path) == {}
    assert sum("pipe, socket or device" in note or "link out" in note for note in notes(tmp_path)) == 3


@needs_posix
def test_links_out_of_the_folder_and_loops_are_not_followed(tmp_path):  # case 35
    root, outside = tmp_path / "root", picture(tmp_path / "outside" / "secret.png")
    picture(root / "a.png")
    (root / "b.png").symlink_to(outside)
    (root / "c").symlink_to(outside.parent)
    (root / "loop").symlink_to(root)
    (root / "self.png").symlink_to("self.png")
    (root / "inside.png").symlink_to("a.png")
    (root / "a.txt").symlink_to("/etc/hostname")
    assert sorted(found(root)) == ["a.png", "inside.png"]
    said = notes(root)
    for name in (
        "b.png is a link out",
        "c is a link to a folder",
        "loop is a link",
        "self.png cannot",
        "a.txt",
    ):
        assert any(note.startswith(name) for note in said), name


@needs_posix
def test_the_root_itself_may_be_a_link(tmp_path):
    picture(tmp_path / "real" / "a.png")
    (tmp_path / "link").symlink_to("real")
    assert list(found(tmp_path / "link")) == ["a.png"]


def test_captions_without_a_picture_are_named_and_counted(tmp_path):  # case 3
    (tmp_path / "a.txt").write_text("x")
    result = scan(tmp_path)
    assert result.num_caption_files == 1 and result.pictures == []
    assert str(result.notes[0]) == "a.txt has no picture of its name beside it"


@needs_posix
def test_a_folder_that_may_not_be_listed_is_named():  # case 34
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        picture(folder / "a.png")
        picture(folder / "locked" / "b.png")
        (folder / "a.txt").write_text("x")
        for path, mode in ((folder, 0o755), (folder / "locked", 0), (folder / "a.txt", 0)):
            path.chmod(mode)
        before = os.geteuid()
        if before == 0:
            os.seteuid(65534)  # root may read everything
        try:
            said = notes(folder)
        finally:
            os.seteuid(before)
    finally:
        (folder / "locked").chmod(0o755)
        shutil.rmtree(folder)
    assert any(note.startswith("locked/ cannot be listed") for note in said)
    assert any(note.startswith("a.txt cannot be read") for note in said)
