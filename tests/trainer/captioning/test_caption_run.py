"""A dataset is captioned once: stopped and gone on with, remembered, and never asked for nothing."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from sdxl_trainer.trainer.captioning.caption_journal import CaptionJournal
from sdxl_trainer.trainer.captioning.caption_run import (
    caption_dataset,
    describe_captions,
    pictures_to_ask,
    require_captionable,
)
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.data.dataset_report import describe
from sdxl_trainer.trainer.data.dataset_sets import join_datasets, with_class_images, with_masks
from sdxl_trainer.trainer.data.given_pictures import given_dataset
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.settings.caption_config import CaptionConfig
from sdxl_trainer.trainer.settings.captioner_config import GenerationConfig

COLORS = {"a": "red", "b": "green", "c": "blue", "d": "yellow"}


def beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ColorCaptioner = beside("color_captioner").ColorCaptioner


@pytest.fixture
def root(tmp_path):
    for name, color in COLORS.items():
        path = tmp_path / "pictures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), color).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def dataset(root):
    return load_dataset(root, DatasetConfig(resolution=64, trigger="zorp"))


@pytest.fixture
def journal(tmp_path):
    def open_journal(config=None, generation=None, identity="colors-1"):
        return CaptionJournal(
            tmp_path / "journal", identity, config or CaptionConfig(), generation or GenerationConfig()
        )

    return open_journal


def run(dataset, captioner, journal, on_caption=None, **settings):
    config = CaptionConfig(**settings)
    return caption_dataset(dataset, captioner, config, GenerationConfig(), journal(config), on_caption)


def captions(done):
    return [picture.captions for picture in done.dataset.pictures]


def test_every_picture_is_asked_once_and_its_caption_carries_the_trigger(dataset, journal):
    captioner, heard = ColorCaptioner(), []
    done = run(dataset, captioner, journal, lambda *what: heard.append(what))
    assert captions(done) == [(f"zorp, a {color} square.",) for color in COLORS.values()]
    assert heard[1] == (2, 4, "zorp, a green square.") and len(heard) == len(captioner.asked) == 4
    assert {p.caption_source for p in done.dataset.pictures} == {"captioner"}
    assert done.dataset.trigger_words == "zorp"
    assert done.dataset.fingerprint != dataset.fingerprint
    assert replace(done.dataset, pictures=(), notes=(), fingerprint="") == replace(
        dataset, pictures=(), notes=(), fingerprint=""
    )


@pytest.mark.parametrize("save", ["no", "txt", "metadata.jsonl"])
def test_stopped_after_two_pictures_two_captions_stay_and_the_next_run_makes_the_rest(
    dataset, journal, root, save
):
    def stop(done, total, caption):
        if done == 2:
            raise KeyboardInterrupt

    captioner = ColorCaptioner()
    with pytest.raises(KeyboardInterrupt):
        run(dataset, captioner, journal, stop, save=save)
    assert len(captioner.asked) == 2
    assert len(journal().path.read_text().splitlines()) == 2
    written = [p for p in load_dataset(root, DatasetConfig(resolution=64)).pictures if p.captions != ("",)]
    assert len(written) == (0 if save == "no" else 2)
    captioner = ColorCaptioner()
    gone_on = run(dataset, captioner, journal, save=save)
    assert len(captioner.asked) == 2 and (gone_on.made, gone_on.remembered) == (2, 2)
    assert captions(gone_on) == [(f"zorp, a {color} square.",) for color in COLORS.values()]


def test_a_stop_within_a_picture_loses_that_one_only(dataset, journal):
    with pytest.raises(KeyboardInterrupt):
        run(dataset, ColorCaptioner(stop_at=3), journal)
    assert len(pictures_to_ask(dataset, CaptionConfig(), journal())) == 1


def test_another_prefix_needs_no_model_and_another_question_or_generation_does(dataset, journal):
    run(dataset, ColorCaptioner(), journal)
    done = run(dataset, None, journal, prefix="a photo of TOK, ", suffix=", pencil", if_exists="overwrite")
    assert captions(done)[0] == ("zorp, a photo of TOK, a red square, pencil",)
    assert (done.made, done.remembered) == (0, 4)
    asked = CaptionConfig(style="custom", question="Which colour?")
    for other in (
        journal(asked),
        journal(generation=GenerationConfig(max_tokens=7)),
        journal(identity="colors-2"),
        journal(CaptionConfig(style="tags")),
    ):
        assert len(pictures_to_ask(dataset, CaptionConfig(), other)) == 4
    assert journal(CaptionConfig(question="without effect")).path == journal().path


def test_a_line_that_was_cut_off_is_made_again_and_the_journal_stays_whole(dataset, journal):
    run(dataset, ColorCaptioner(), journal)
    path = journal().path
    path.write_bytes(path.read_bytes()[:-9] + b"")
    assert [p.name for p in pictures_to_ask(dataset, CaptionConfig(), journal())] == ["d.png"]
    done = run(dataset, ColorCaptioner(), journal)
    assert captions(done)[3] == ("zorp, a yellow square.",) and done.made == 1
    assert run(dataset, None, journal).remembered == 4
    rows = [line for line in path.read_text().split("\n") if line]
    assert len(rows) == 5 and json.loads(rows[4])["caption"] == "The image shows a yellow square."


def test_the_journal_goes_by_the_bytes_of_the_picture_and_its_background(root, journal):
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(root / "clear.png")
    (root / "a.png").rename(root / "z.png")
    white, red = (
        load_dataset(root, DatasetConfig(resolution=64, background=color)) for color in ("#ffffff", "#ff0000")
    )
    first = run(white, ColorCaptioner(), journal)
    assert [p.name for p in first.dataset.pictures] == ["b.png", "c.png", "clear.png", "d.png", "z.png"]
    assert captions(first)[2] == ("a white square.",)
    for captioner in (ColorCaptioner(), None):
        assert captions(run(red, captioner, journal))[2] == ("a red square.",)
    (root / "z.png").rename(root / "a.png")
    renamed = load_dataset(root, white.config)
    assert captions(run(renamed, None, journal))[0] == ("a red square.",)


def test_existing_captions_are_kept_and_those_of_folder_or_prompt_are_not(root, journal):
    (root / "a.txt").write_text("own words")
    (root / "b.txt").write_text("zorp")
    dataset = load_dataset(root, DatasetConfig(resolution=64, trigger="zorp", prompt="for all"))
    captioner = ColorCaptioner()
    done = run(dataset, captioner, journal)
    assert captions(done)[:2] == [("zorp, own words",), ("zorp, a green square.",)]
    assert (done.made, done.kept, len(captioner.asked)) == (3, 1, 3)
    appended = run(dataset, captioner, journal, if_exists="append")
    assert captions(appended)[0] == ("zorp, own words, a red square.",)
    # two captioners after one another
    both = run(appended.dataset, captioner, journal, if_exists="prepend", style="custom", question="Q:")
    assert captions(both)[0] == ("zorp, Q: red, own words, a red square.",)


def test_what_stopped_being_true_is_no_longer_reported(dataset, journal):
    assert "have no caption and train on" in describe(dataset)
    done = run(dataset, ColorCaptioner(), journal)
    assert "no caption" not in describe(done.dataset) and "captions had it" not in describe(done.dataset)
    said = describe_captions(done, "colors")
    assert said.startswith("4 of 4 pictures captioned by colors: 4 now, 0 from earlier runs. 0 skipped")
    assert "a.png: zorp, a red square." in said and "No caption file was written" in said


def test_saying_nothing_leaves_a_picture_as_it_was(dataset, journal, root):
    done = run(dataset, ColorCaptioner(), journal, strip_phrases="The image shows a red square.", save="txt")
    assert captions(done)[0] == ("zorp",) and done.silent == ("a.png",)
    assert not (root / "a.txt").exists() and (root / "b.txt").exists()
    assert "the captioner said nothing about 1 pictures: a.png" in describe(done.dataset)
    said = describe_captions(done, "colors")
    assert said.startswith("3 of 4 pictures captioned") and "Nothing was said about 1 pictures: a.png" in said


def test_saved_captions_make_the_same_set_as_captions_just_made(dataset, journal, root):
    class_folder = root.parent / "class"
    class_folder.mkdir()
    Image.new("RGB", (64, 64), "white").save(class_folder / "w.png")
    class_set = load_dataset(class_folder, DatasetConfig(resolution=64))

    def full(made):
        return with_class_images(with_masks(made, torch.ones(1, 8, 8)), class_set)

    first = run(full(dataset), ColorCaptioner(), journal, save="txt").dataset
    again = load_dataset(root, dataset.config)
    assert run(full(again), None, journal, save="txt").dataset.fingerprint == first.fingerprint
    (root / "c.txt").write_text("another")
    changed = load_dataset(root, dataset.config)
    assert run(full(changed), None, journal).dataset.fingerprint != first.fingerprint
    half = with_masks(again, torch.full((1, 8, 8), 0.5))
    assert run(with_class_images(half, class_set), None, journal).dataset.fingerprint != first.fingerprint


def test_masks_of_files_are_part_of_the_set(dataset, journal, root):
    def captioned(height):
        mask = Image.new("L", (64, 64))
        mask.paste(255, (0, 0, 64, height))
        mask.save(root / "a-masklabel.png")
        masked = with_masks(load_dataset(root, dataset.config), "masklabel")
        return run(masked, ColorCaptioner(), journal).dataset.fingerprint

    assert captioned(16) == captioned(16) != captioned(48)


def test_nothing_is_said_of_files_where_no_caption_was_new(dataset, journal, root):
    run(dataset, ColorCaptioner(), journal, save="metadata.jsonl")
    for save in ("no", "txt", "metadata.jsonl"):
        said = describe_captions(run(load_dataset(root, dataset.config), None, journal, save=save), "colors")
        assert said.endswith("4 skipped, because they have captions.") and len(said.splitlines()) == 1


def test_joined_and_varied_sets_are_refused(dataset, journal, root):
    more = root.parent / "more"
    more.mkdir()
    Image.new("RGB", (64, 64), "white").save(more / "w.png")
    other = load_dataset(more, DatasetConfig(resolution=64, trigger="blik"))
    joined = join_datasets([(dataset, 1.0), (other, 1.0)])
    with pytest.raises(InputError, match="put Caption Images before Join Datasets"):
        require_captionable(joined, CaptionConfig())
    varied = replace(dataset, pictures=tuple(replace(p, plain_captions=p.captions) for p in dataset.pictures))
    with pytest.raises(InputError, match="put Caption Images before Caption Variants"):
        run(varied, ColorCaptioner(), journal)


def test_pictures_without_files_are_captioned_and_not_written_beside(journal):
    config = DatasetConfig(resolution=64, trigger="zorp")
    blue = torch.zeros(64, 64, 3)
    blue[..., 2] = 1
    given = given_dataset([blue, torch.ones(64, 64, 3)], ["a wall", ""], config)
    done = run(given, ColorCaptioner(), journal, if_exists="append")
    assert captions(done) == [("zorp, a wall, a blue square.",), ("zorp, a white square.",)]
    with pytest.raises(InputError, match=r"1 pictures do not lie in a folder of a dataset \(image 0002\)"):
        require_captionable(given, CaptionConfig(save="txt"))


def test_a_style_the_captioner_lacks_and_a_changed_picture_are_refused(dataset, journal, root):
    with pytest.raises(InputError, match="style 'tags'"):
        run(dataset, ColorCaptioner(), journal, style="tags")
    Image.new("RGB", (64, 64), "white").save(root / "c.png")
    with pytest.raises(InputError, match=r"c\.png changed after the dataset was loaded"):
        run(dataset, ColorCaptioner(), journal)
    assert len(journal().path.read_text().splitlines()) == 2


def test_a_journal_that_cannot_be_written_is_one_sentence(dataset, journal, tmp_path):
    (tmp_path / "journal").write_text("a file in its place")
    with pytest.raises(InputError, match=r"the caption of a.png cannot be kept in the output folder"):
        run(dataset, ColorCaptioner(), journal)
