"""Previews as they lie on the disk: found by their names, and told by a file that may be broken."""

import json

import pytest
from sdxl_trainer.trainer.runs.drawings import (
    drawing_path,
    drawn_with,
    list_drawings,
    newest_pictures,
    read_recipe,
    recipe_of,
    write_recipe,
)


@pytest.fixture
def samples(tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    for step, index in ((1_000_000, 0), (20, 1), (20, 0), (20, 10), (0, 0)):
        drawing_path(folder, step, index).write_bytes(b"a picture")
    return folder


def test_drawings_come_by_step_and_by_prompt(samples):
    found = list_drawings(samples)
    assert list(found) == [0, 20, 1_000_000]
    assert list(found[20]) == [0, 1, 10]
    assert found[20][1] == samples / "step-000020-01.png"
    assert list(list_drawings(samples, up_to=20)) == [0, 20]
    assert newest_pictures(samples) == [samples / "step-1000000-00.png"]


def test_other_files_folders_and_links_are_no_drawings(samples, tmp_path):
    before = list_drawings(samples)
    for name in ("step-000020-.png", "step-000020-02.png.part", "x-step-000020-02.png", "step-٢-02.png"):
        (samples / name).write_bytes(b"")
    (samples / "step-000030-00.png").mkdir()
    (samples / "step-000040-00.png").symlink_to(samples / "step-000020-00.png")
    (tmp_path / "linked").symlink_to(samples)
    assert list_drawings(samples) == before
    assert list_drawings(tmp_path / "linked") == {}
    assert list_drawings(tmp_path / "missing") == {}
    assert newest_pictures(tmp_path / "missing") == []


def test_what_was_drawn_with_is_read_back(tiny_run, tmp_path):
    config = tiny_run.tiny_config(preview={"preview_every": 3}).preview
    recipe = recipe_of(["a cat", "ein Kätzchen"], (64, 32), config)
    write_recipe(tmp_path, recipe)
    assert read_recipe(tmp_path) == recipe
    told = drawn_with(tmp_path)
    assert (told.prompts, told.size) == (["a cat", "ein Kätzchen"], (64, 32))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"7",
        b"{}",
        b"null",
        b'["a cat"]',
        b"[" * 100_000,
        json.dumps([["a cat", 7], [64, 32], {}]).encode(),
        json.dumps(["a cat", [64, 32], {}]).encode(),
        json.dumps([["a cat"], [64, 0], {}]).encode(),
        json.dumps([["a cat"], [64, True], {}]).encode(),
        json.dumps([["a cat"], 64, {}]).encode(),
    ],
)
def test_a_broken_file_tells_nothing(tmp_path, content):
    (tmp_path / "drawn_with.json").write_bytes(content)
    assert drawn_with(tmp_path) is None


def test_a_missing_file_and_a_link_tell_nothing(tmp_path):
    assert drawn_with(tmp_path) is None
    (tmp_path / "elsewhere.json").write_text(json.dumps([["a cat"], [64, 32], {}]))
    (tmp_path / "drawn_with.json").symlink_to(tmp_path / "elsewhere.json")
    assert drawn_with(tmp_path) is None
    assert read_recipe(tmp_path) == ""
