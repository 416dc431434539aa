"""Bad datasets, by number: every one of the 58 cases has a test in this folder, and here are those left over.

A test names its cases in a comment on its first line: `# case 7`, `# cases 5-8, 25`.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.errors import InputError

NUM_CASES = 58


def load(root, **settings):
    return load_dataset(root, DatasetConfig(**{"resolution": 128, **settings}))


def said(dataset, kind):
    return [str(note) for note in dataset.notes if note.kind == kind]


def noise(width, height, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def named_cases(source):
    """The numbers behind `# case` or `# cases` on the lines that begin a test."""
    numbers = set()
    for text in re.findall(r"^ *def test_\w+\(.*# cases? (\d[\d, -]*)", source, re.MULTILINE):
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
            numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def test_every_case_of_a_bad_dataset_has_a_test():
    assert named_cases("def test_a(x):  # cases 3, 5-7\n    # case 9\ndef make():  # case 11\n") == {
        3,
        5,
        6,
        7,
    }
    sources = [path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    found = set().union(*map(named_cases, sources))
    assert sorted(set(range(1, NUM_CASES + 1)) - found) == []


def test_a_picture_turned_by_its_camera_goes_to_the_upright_bucket(tmp_path):  # case 12
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(256, 128).save(tmp_path / "a.jpg", exif=exif)
    dataset = load(tmp_path, upscale=True)
    assert (dataset.pictures[0].width, dataset.pictures[0].height) == (128, 256)
    ((bucket, _),) = dataset.buckets.items()
    assert bucket == (64, 192)
    assert dataset.crop_picture(dataset.variants[0][0]).size == bucket


def test_bombs_and_files_of_phones_are_left_out_and_named(tmp_path):  # cases 22, 24
    noise(96, 96).save(tmp_path / "good.png")
    (tmp_path / "bomb.png").write_bytes(b"P6 20000 20000 255\n" + bytes(999))
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    dataset = load(tmp_path)
    assert [picture.name for picture in dataset.pictures] == ["good.png"]
    bomb, phone = sorted(said(dataset, "skipped"))
    assert bomb.startswith("bomb.png") and "178,956,970 pixels" in bomb
    assert phone == "phone.heic is HEIC, which cannot be read here: save it as JPEG or PNG"


def test_odd_pictures_are_used_and_said_to_be_odd(tmp_path):  # cases 15, 20, 21, 28
    Image.fromarray(np.linspace(-3, 7, 64 * 64, dtype=np.float32).reshape(64, 64)).save(tmp_path / "a.tif")
    Image.new("RGBA", (64, 64), (9, 9, 9, 0)).save(tmp_path / "b.png")
    frames = [noise(64, 64, seed) for seed in range(3)]
    frames[0].save(tmp_path / "c.gif", save_all=True, append_images=frames[1:])
    noise(40, 400).save(tmp_path / "d.png")
    noise(400, 40).save(tmp_path / "e.png")
    dataset = load(tmp_path)
    sizes = [dataset.load_pixels(ways[0]).shape[1:] for ways in dataset.variants]
    assert [tuple(size) for size in sizes] == [(64, 64)] * 3 + [(256, 64), (64, 256)]
    warnings = {note.split()[0]: note for note in said(dataset, "warning")}
    assert "float values from -3 to 7" in warnings["a.tif"]
    assert "fully transparent" in warnings["b.png"] and "only the first is used" in warnings["c.gif"]


@pytest.mark.parametrize("repeats", [0, -1, 10_001])
def test_repeats_of_the_settings_have_limits(repeats):  # case 40
    with pytest.raises(InputError, match=f"repeats is {repeats}, but must be from 1 to 10000"):
        DatasetConfig(repeats=repeats)


def test_pictures_of_one_stem_are_two_pictures(tiny_run, tmp_path):  # cases 41, 42
    folder = tiny_run.draw_pictures(tmp_path / "pictures", 1)
    noise(64, 64).save(folder / "0.jpg")
    noise(64, 64, 1).save(folder / "a.b.png")
    noise(64, 64, 2).save(folder / "a.c.png")
    model = tiny_run.TinyModel()
    dataset = tiny_run.tiny_dataset(tmp_path)
    assert len({picture.digest for picture in dataset.pictures}) == 4
    tiny_run.run_tiny(tmp_path, model=model, dataset=dataset, steps=1)
    assert model.encoded_pictures == 4


def vandal(tiny_run, folder):
    """A listener that deletes one picture and changes another once training has begun."""

    class Vandal(tiny_run.StopAfter):
        def step(self, report):
            super().step(report)
            if report.step == 1:
                (folder / "1.png").unlink()
                noise(64, 64, 7).save(folder / "2.png")

    return Vandal()


def test_a_picture_changed_or_deleted_during_a_run_was_learned_before(tiny_run, tmp_path):  # cases 32, 33
    whole = tiny_run.run_tiny(tmp_path / "a")
    robbed = tiny_run.run_tiny(tmp_path / "b", vandal(tiny_run, tmp_path / "b" / "pictures"))
    assert robbed.lora_path.read_bytes() == whole.lora_path.read_bytes()
    sentence = "2 pictures changed or went while the run was under way, which learned them as they were"
    assert f"{sentence}: 1.png, 2.png" in robbed.report and sentence not in whole.report
