"""`python -m trainer.captioning` with a real BLIP of random weights."""

import importlib.util
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from sdxl_trainer.trainer.captioning.__main__ import main
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.dataset import load_dataset


def beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny-blip").mkdir()
    beside("tiny_captioners").write_tiny_blip(folder / "tiny-blip")
    return folder


@pytest.fixture
def caption(models, tmp_path, capsys):
    """A function that runs the command on tmp_path/pictures: (status, what it said)."""

    def run(*flags):
        status = main(
            [
                *("--data", str(tmp_path / "pictures"), "--captioner", "tiny-blip", "--models", str(models)),
                *("--output", str(tmp_path / "out"), "--device", "cpu", "--max-tokens", "8", *flags),
            ]
        )
        said = capsys.readouterr()
        return status, said.err.splitlines()[-1] if status else said.out

    return run


def draw(folder, count):
    folder.mkdir(exist_ok=True)
    for index in range(count):
        color = (index * 37 % 256, index * 91 % 256, index * 53 % 256)
        Image.new("RGB", (64, 64), color).save(folder / f"{index:03d}.png")


def test_a_folder_is_captioned_and_the_next_time_remembered(caption, tmp_path):
    draw(tmp_path / "pictures", 4)
    (tmp_path / "pictures" / "001.txt").write_text("own words")
    status, said = caption("--trigger", "zorp", "--prefix", "a photo of TOK, ", "--save", "txt")
    assert status == 0
    assert "3 of 4 pictures captioned by tiny-blip: 3 now, 0 from earlier runs. 1 skipped" in said
    texts = {path.stem: path.read_text("utf-8") for path in (tmp_path / "pictures").glob("*.txt")}
    assert texts.pop("001") == "own words" and len(texts) == 3
    assert all(text.startswith("zorp, a photo of TOK, ") and text.endswith("\n") for text in texts.values())
    status, said = caption("--prefix", "another", "--if-exists", "overwrite", "--save", "metadata.jsonl")
    assert "4 of 4 pictures captioned by tiny-blip: 1 now, 3 from earlier runs. 0 skipped" in said
    dataset = load_dataset(tmp_path / "pictures", DatasetConfig())
    assert {p.caption_source for p in dataset.pictures} == {"metadata.jsonl"}
    assert all(p.captions[0].startswith("another ") for p in dataset.pictures)


def test_no_model_is_looked_for_where_no_caption_is_missing(caption, tmp_path):
    draw(tmp_path / "pictures", 1)
    (tmp_path / "pictures" / "000.txt").write_text("own words")
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    status, said = caption("--captioner", "no-such-model")
    assert (
        status == 0 and "0 of 1 pictures captioned" in said and "Left out: broken.png is no picture" in said
    )


def test_ctrl_c_keeps_what_is_made_and_the_next_run_goes_on(caption, tmp_path):
    draw(tmp_path / "pictures", 40)

    def press():
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "pictures").glob("*.txt"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    status, said = caption("--save", "txt")
    thread.join()
    assert status == 130 and "run the same command again to go on" in said
    kept = len(list((tmp_path / "pictures").glob("*.txt")))
    assert 3 <= kept < 40
    (journal,) = (tmp_path / "out" / "sdxl_trainer" / ".captions").iterdir()
    assert len(journal.read_text().splitlines()) == kept
    status, said = caption("--save", "txt")
    assert status == 0 and f"{kept} skipped, because they have captions" in said
    assert len(journal.read_text().splitlines()) == 40


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--captioner", "no-such-model"], "error: there is no captioning model 'no-such-model'"),
        (["--captioner", "microsoft/Florence-2-base"], "choose florence-2-base"),
        (["--style", "custom"], "error: caption settings: style is 'custom', but question is empty"),
        (["--style", "tags"], "error: tiny-blip cannot write captions of the style 'tags'"),
        (["--data", "/nowhere/at/all"], "does not exist"),
    ],
)
def test_what_is_wrong_is_one_sentence(caption, tmp_path, flags, sentence):
    draw(tmp_path / "pictures", 1)
    status, said = caption(*flags)
    assert status == 1 and sentence in said
