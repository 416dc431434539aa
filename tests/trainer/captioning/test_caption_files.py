"""Written captions read back as exactly those of the captioned set, and nothing else is touched."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
from PIL import Image
from sdxl_trainer.trainer.captioning.caption_files import open_caption_files
from sdxl_trainer.trainer.captioning.caption_journal import CaptionJournal
from sdxl_trainer.trainer.captioning.caption_run import caption_dataset
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.settings.caption_config import CaptionConfig
from sdxl_trainer.trainer.settings.captioner_config import GenerationConfig

needs_posix = pytest.mark.skipif(os.name != "posix", reason="links and names of POSIX")


def beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ColorCaptioner = beside("color_captioner").ColorCaptioner


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


def picture(path, color="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), color).save(path, "PNG")
    return path


def load(root, **settings):
    return load_dataset(root, DatasetConfig(resolution=64, **settings))


def caption(root, save, if_exists="skip", dataset=None, **settings):
    config = CaptionConfig(save=save, if_exists=if_exists, **settings)
    journal = CaptionJournal(root.parent / "journal", "colors-1", config, GenerationConfig())
    return caption_dataset(
        dataset or load(root), ColorCaptioner(), config, GenerationConfig(), journal
    ).dataset


def captions(dataset):
    return {picture.name: picture.captions for picture in dataset.pictures}


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in caption_files(root)}


def caption_files(root):
    others = (path for path in sorted(root.rglob("*")) if not path.name.endswith((".png", ".jpg", ".webp")))
    return [path for path in others if path.is_file()]


@pytest.mark.parametrize("save", ["txt", "metadata.jsonl"])
@pytest.mark.parametrize("if_exists", ["skip", "overwrite", "append", "prepend"])
@pytest.mark.parametrize("layout", ["plain", "kohya", "mixed"])
def test_what_is_written_reads_back_as_the_captions_of_the_set(root, save, if_exists, layout):
    if layout != "kohya":
        picture(root / "a.png", "red")
        picture(root / "b.png", "blue")
        picture(root / "ü 'x' #%.png", "green")
    if layout != "plain":
        picture(root / "10_zorp creature" / "c.png", "yellow")
        picture(root / "10_zorp creature" / "d.png", "black")
        (root / "10_zorp creature" / "d.txt").write_text("own words")
    if layout == "mixed":
        (root / "b.caption").write_text("old words.\nof two lines", "utf-8")
    settings = {"trigger": "zorp"}
    made = caption(
        root, save, if_exists, load(root, **settings), prefix="a photo of TOK, ", suffix=", ünique"
    )
    again = load(root, **settings)
    assert captions(again) == captions(made)
    # and captioning again finds all as it is, to the byte, with the same fingerprint
    before, places = files(root), [path.stat().st_ino for path in caption_files(root)]
    repeated = caption(root, save, if_exists, again, prefix="a photo of TOK, ", suffix=", ünique")
    assert captions(repeated) == captions(made) and files(root) == before
    assert repeated.fingerprint == made.fingerprint
    assert [path.stat().st_ino for path in caption_files(root)] == places  # not even written anew


def test_text_files_are_utf8_with_one_line_feed_and_stand_beside_the_picture(root):
    picture(root / "sub" / "a.b.png")
    caption(root, "txt", prefix="écru 😀,")
    assert files(root) == {"sub/a.b.txt": "écru 😀, a red square.\n".encode()}


def test_nothing_is_written_unless_asked(root):
    picture(root / "a.png")
    assert captions(caption(root, "no")) == {"a.png": ("a red square.",)}
    assert files(root) == {}


def test_pictures_of_one_stem_get_files_of_their_own(root):
    for name, color in (("a.png", "red"), ("a.jpg", "blue"), ("B.png", "green"), ("b.jpg", "white")):
        picture(root / name, color)
    made = caption(root, "txt")
    assert sorted(files(root)) == ["B.png.txt", "a.jpg.txt", "a.png.txt", "b.jpg.txt"]
    assert captions(load(root)) == captions(made)
    assert len(set(captions(made).values())) == 4


def test_a_picture_that_is_left_out_counts_too_because_it_may_be_mended(root):
    picture(root / "a.png")
    (root / "a.jpg").write_bytes(b"cut off")
    caption(root, "txt")
    assert list(files(root)) == ["a.png.txt"]


def test_a_text_file_is_never_one_that_another_picture_reads_too(root):
    picture(root / "a.png", "red")
    picture(root / "a.png.jpg", "blue")  # its stem is the other's name
    made = caption(root, "txt")
    assert captions(load(root)) == captions(made)
    assert sorted(files(root)) == ["a.png.jpg.txt", "a.txt"]


def test_a_shared_caption_file_stays_and_each_picture_gets_its_own(root):
    picture(root / "a.png", "red")
    picture(root / "a.jpg", "blue")
    (root / "a.txt").write_text("both")
    made = caption(root, "txt", "append")
    assert (
        captions(load(root))
        == captions(made)
        == {
            "a.jpg": ("both, a blue square.",),
            "a.png": ("both, a red square.",),
        }
    )
    assert (root / "a.txt").read_text() == "both"


@pytest.mark.parametrize("name", ["a.caption", "a.TXT", "a.png.txt", "a.png.CAPTION"])
def test_an_existing_caption_file_is_replaced_in_place_only_where_if_exists_says_so(root, name):
    picture(root / "a.png")
    (root / name).write_bytes("caf\xe9".encode("cp1252"))
    assert captions(caption(root, "txt", "skip")) == {"a.png": ("café",)}
    assert files(root) == {name: b"caf\xe9"}
    caption(root, "txt", "append")
    assert files(root) == {name: "café, a red square.\n".encode()}


@needs_posix
def test_links_and_folders_of_the_name_are_left_alone(root, tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("not ours")
    for name, color in (("a.png", "red"), ("b.png", "blue")):
        picture(root / name, color)
    (root / "a.txt").symlink_to(outside)
    (root / "b.txt").mkdir()
    made = caption(root, "txt")
    assert outside.read_text() == "not ours" and (root / "a.txt").is_symlink()
    assert captions(load(root)) == captions(made)
    (root / "a.png.txt").unlink()
    (root / "a.png.txt").symlink_to(outside)
    with pytest.raises(InputError, match=r"1 pictures cannot have a text file of their own.*\(a.png\)"):
        caption(root, "txt", "overwrite")


def test_rows_of_other_pictures_and_unknown_columns_stay(root):
    for name, color in (("a.png", "red"), ("b.png", "blue"), ("c.png", "green")):
        picture(root / name, color)
    old = '{"file_name": "a.png", "text": "old", "score": 0.50, "more": {"x": [1]}}\r\n'
    old += '{"file_name": "./b.png", "text": null, "license": "CC0"}\n'
    (root / "metadata.jsonl").write_text(old, "utf-8", newline="")
    made = caption(root, "metadata.jsonl")
    lines = (root / "metadata.jsonl").read_text("utf-8").splitlines()
    assert lines[0] == '{"file_name": "a.png", "text": "old", "score": 0.50, "more": {"x": [1]}}'
    assert [json.loads(line) for line in lines[1:]] == [
        {"file_name": "./b.png", "text": "a blue square.", "license": "CC0"},
        {"file_name": "c.png", "text": "a green square."},
    ]
    assert captions(load(root)) == captions(made)


def test_several_rows_and_captions_of_one_picture_are_kept_apart_or_overwritten(root):
    picture(root / "a.png")
    rows = ({"file_name": "a.png", "words": ["one", "two"]}, {"file_name": "a.png", "words": "three", "n": 3})
    for if_exists, expected in (
        ("append", ("one, a red square.", "two, a red square.", "three, a red square.")),
        ("overwrite", ("a red square.",)),
    ):
        (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
        made = caption(root, "metadata.jsonl", if_exists, load(root, caption_column="words"))
        assert captions(load(root, caption_column="words")) == captions(made) == {"a.png": expected}
        assert json.loads((root / "metadata.jsonl").read_text("utf-8").splitlines()[1])["n"] == 3


def test_files_that_nobody_would_read_are_refused_before_any_work(root):
    picture(root / "sub" / "a.png")
    (root / "sub" / "metadata.csv").write_text("file_name,text\na.png,old\n")
    with pytest.raises(InputError, match=r"caption in a metadata file \(sub/a.png\).*set save to 'metadata"):
        caption(root, "txt", "overwrite")
    with pytest.raises(InputError, match=r"sub/metadata.csv \(sub/a.png\), which counts before"):
        caption(root, "metadata.jsonl", "overwrite")
    assert captions(caption(root, "txt", "skip")) == {"sub/a.png": ("old",)}
    assert not (root.parent / "journal").exists()


def test_a_damaged_table_is_not_written_over(root):
    picture(root / "a.png")
    dataset = load(root)
    (root / "metadata.jsonl").write_text("{broken\n")
    with pytest.raises(InputError, match=r"cannot be added to metadata.jsonl: .*row 1.*mend it first"):
        caption(root, "metadata.jsonl", dataset=dataset)
    assert files(root) == {"metadata.jsonl": b"{broken\n"}


@needs_posix
@pytest.mark.parametrize("name", ["back\\slash.png", "C:x.png", " blank.png"])
def test_names_that_a_table_cannot_hold_are_refused_there_and_work_as_text_files(root, name):
    picture(root / name)
    with pytest.raises(InputError, match="names that a metadata file cannot hold"):
        caption(root, "metadata.jsonl")
    assert captions(load(root)) == {name: ("",)}
    made = caption(root, "txt")
    assert captions(load(root)) == captions(made)


@needs_posix
@pytest.mark.parametrize("save", ["txt", "metadata.jsonl"])
def test_names_that_are_no_unicode_read_back(root, save):
    picture(root / os.fsdecode(b"caf\xe9.png"))
    made = caption(root, save)
    assert (
        [p.captions for p in load(root).pictures]
        == [("a red square.",)]
        == [p.captions for p in made.pictures]
    )


@pytest.mark.parametrize("save", ["txt", "metadata.jsonl"])
def test_a_disk_that_takes_nothing_is_one_sentence_and_no_caption_is_lost(root, save, monkeypatch):
    for name in ("a.png", "b.png"):
        picture(root / name, "red" if name == "a.png" else "blue")
    real = os.replace

    def full(source, target):
        if Path(target).parent == root:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"cannot be written: No space left on device: free some space"):
        caption(root, save)
    assert files(root) == {}
    monkeypatch.undo()
    (journal,) = (root.parent / "journal").iterdir()
    assert len(journal.read_text().splitlines()) == (1 if save == "txt" else 2)
    assert captions(load(root)) != captions(caption(root, save)) == captions(load(root))


def test_pictures_without_a_folder_and_read_only_folders_are_refused(root, monkeypatch):
    picture(root / "a.png")
    dataset = load(root)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for save in ("txt", "metadata.jsonl"):
        with pytest.raises(InputError, match=r"into folder pictures, which is read-only"):
            open_caption_files(dataset, dataset.pictures, save)
    elsewhere = load(root.parent / "pictures")
    object.__setattr__(elsewhere, "roots", ())
    with pytest.raises(InputError, match=r"1 pictures do not lie in a folder of a dataset \(a.png\)"):
        open_caption_files(elsewhere, elsewhere.pictures, "txt")
