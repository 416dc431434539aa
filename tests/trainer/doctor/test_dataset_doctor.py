"""Each finding on a set with that one fault, and none on the good set."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.augmented_dataset import with_augmentation
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.data.dataset_sets import join_datasets, with_class_images, with_masks
from sdxl_trainer.trainer.data.given_pictures import given_dataset
from sdxl_trainer.trainer.doctor.dataset_doctor import examination_report, examine, write_examination
from sdxl_trainer.trainer.doctor.training_advice import recommended_steps
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.settings.augment_config import AugmentConfig

SIDE = 128


@pytest.fixture(scope="module")
def drawings(draw):
    rng = random.Random(12)
    return [draw.draw_clutter(SIDE, rng) for _ in range(40)]


@pytest.fixture
def good(tmp_path, drawings):
    """A folder of eight good pictures with captions of their own."""
    return fill(tmp_path / "good", drawings[:8])


def fill(root, images, caption="a zorp, number {}"):
    root.mkdir()
    for index, image in enumerate(images):
        image.save(root / f"{index}.png")
        if caption:
            (root / f"{index}.txt").write_text(caption.format(index))
    return root


def load(root, **settings):
    return load_dataset(root, DatasetConfig(**{"resolution": SIDE, "trigger": "zorp", **settings}))


def look(root, batch_size=1, subject="face", **settings):
    """Finding (kind) -> (severity, names of the pictures) of a folder."""
    dataset = load(root, **settings)
    findings = examine(dataset, batch_size, subject).findings
    assert len({finding.kind for finding in findings}) == len(findings)
    return {f.kind: (f.severity, [dataset.pictures[i].name for i in f.pictures]) for f in findings}


def test_a_good_set_has_nothing_to_mend_and_gets_its_steps(good):
    dataset = load(good, repeats=5)
    examination = examine(dataset, 4)
    assert examination.findings == ()
    assert (examination.problems, examination.flags) == (0, {})
    assert examination.counts == {
        "pictures": 8,
        "samples": 40,
        "buckets": 1,
        "class images": 0,
        "skipped": 0,
    }
    report = examination_report(dataset, examination)
    assert "There is nothing to mend." in report
    assert "8 x 120 steps a picture = 960; / batch 4 = 240" in report
    assert "40 samples, 10 steps at batch 4; so that is 24 epochs" in report
    assert "mended (" not in report


def test_near_duplicates_name_their_original_and_equal_files_are_left_to_the_notes(good, drawings):
    drawings[0].resize((100, 100)).save(good / "-small.png")
    ImageOps.mirror(drawings[1]).save(good / "turned.png")
    (good / "same.png").write_bytes((good / "2.png").read_bytes())
    dataset = load(good)
    (finding,) = [f for f in examine(dataset).findings if f.kind == "near-duplicate"]
    assert finding.severity == "should"
    # the one with more pixels is the original; of two of a size, the first by name
    assert [dataset.pictures[i].name for i in finding.pictures] == ["-small.png", "turned.png"]
    assert finding.labels == ("near-duplicate of 0.png", "near-duplicate of 1.png, mirrored")


def test_a_blurred_picture_is_found_and_a_soft_set_taken_for_its_style(good, drawings):
    for index in range(8):
        drawings[index].filter(ImageFilter.GaussianBlur(2.5)).save(good / f"{index}.png")
        found = look(good).get("blurred")
        if index < 4:
            assert found == ("should", [f"{i}.png" for i in range(index + 1)])
        else:
            assert found[0] == "note"


def test_a_picture_of_one_colour(good):
    Image.new("RGB", (SIDE, SIDE), "teal").save(good / "3.png")
    assert look(good) == {"blank": ("should", ["3.png"])}


def test_small_pictures(good, drawings):
    drawings[0].resize((64, 64), Image.Resampling.LANCZOS).save(good / "0.png")
    found = examine(load(good)).findings
    assert [(f.kind, f.severity, f.labels) for f in found] == [("small", "should", ("only 64x64",))]
    drawings[0].resize((110, 110), Image.Resampling.LANCZOS).save(good / "0.png")
    assert look(good, bucket_step=32)["small"] == ("note", ["0.png"])
    drawings[0].resize((40, 40), Image.Resampling.LANCZOS).save(good / "0.png")
    assert look(good, upscale=True) == {"small": ("should", ["0.png"])}  # it is not called blurred for it


def test_pictures_of_a_joined_set_are_held_against_the_resolution_they_were_loaded_with(tmp_path, drawings):
    half = [picture.resize((192, 192)) for picture in drawings[:4]]
    large = [picture.resize((512, 512)) for picture in drawings[4:8]]
    low = load_dataset(fill(tmp_path / "low", half), DatasetConfig(resolution=128))
    high = load_dataset(fill(tmp_path / "high", large), DatasetConfig(resolution=512))
    tiny = fill(tmp_path / "tiny", [drawings[8].resize((70, 70)), drawings[9].resize((64, 192))])
    small = load_dataset(tiny, DatasetConfig(resolution=512))
    (finding,) = (
        finding
        for finding in examine(join_datasets([(low, 1.0), (high, 1.0), (small, 1.0)])).findings
        if finding.kind == "small"
    )
    assert finding.severity == "should" and finding.labels == ("only 70x70", "only 64x192")


def test_a_shape_that_loses_much_to_the_crop(good, drawings):
    drawings[0].resize((SIDE * 8, SIDE)).save(good / "0.png")
    assert look(good)["cut away"] == ("should", ["0.png"])


def test_sizes_that_fill_no_batch(good, draw):
    draw.draw_clutter(256, random.Random(3)).crop((0, 96, 256, 160)).save(good / "0.png")
    assert look(good) == {}
    assert look(good, 2) == {"small batches": ("note", ["0.png"])}
    assert look(good, 2, repeats=2) == {}
    severity, names = look(good, 8)["small batches"]
    assert (severity, len(names)) == ("should", 8)


def test_captions_that_are_missing(good):
    for index in range(8):
        (good / f"{index}.txt").unlink()
        if index not in (0, 6, 7):
            continue
        bare = [f"{i}.png" for i in range(index + 1)]
        assert look(good, trigger="")["no caption"] == ("must", bare)
        expected = ("should", bare) if index < 7 else ("note", [])
        assert look(good)["no caption"] == expected


def test_the_trigger_word(good, drawings, tmp_path):
    assert look(good, trigger="") == {}  # zorp stands in all captions
    assert look(good, trigger="a dog") == {"common trigger": ("should", [])}
    assert look(good, trigger="a zorp dog") == {}
    plain = fill(tmp_path / "plain", drawings[8:16], "a hat in front of wall {}")
    assert look(plain, trigger="") == {"no trigger": ("should", [])}
    assert look(plain, trigger="", subject="style").keys() == {"few pictures"}
    joined = join_datasets([(load(good), 1.0), (load(plain, trigger="ohwx"), 1.0)])
    assert examine(joined).findings == ()
    lacking = dataclasses.replace(joined, fixed_trigger_words="zorp")
    (finding,) = examine(lacking).findings
    assert (finding.kind, finding.pictures) == ("trigger missing", tuple(range(8, 16)))


def test_captions_that_are_all_alike_or_long(good):
    (good / "5.txt").write_text("a zorp, " + "a red hat and a blue coat, " * 12)
    found = {f.kind: f for f in examine(load(good)).findings}
    assert (found["long captions"].severity, found["long captions"].pictures) == ("note", (5,))
    assert found["long captions"].labels == ("2 windows",)
    for index in range(8):
        (good / f"{index}.txt").write_text("a zorp in a hat")
    assert look(good) == {"same caption": ("note", [])}


def test_problems_come_first_and_notes_are_no_problems(good):
    (good / "5.txt").write_text("a zorp, " + "a red hat and a blue coat, " * 12)
    told = examine(load(good))
    assert ([f.severity for f in told.findings], told.problems, told.flags) == (["note"], 0, {})
    Image.new("RGB", (SIDE, SIDE), "teal").save(good / "3.png")
    mended = examine(load(good))
    assert [f.severity for f in mended.findings] == ["should", "note"]
    assert (mended.problems, mended.flags) == (1, {3: ("blank",)})


def test_files_left_out(good):
    (good / "9.png").write_bytes((good / "1.png").read_bytes()[:500])
    dataset = load(good)
    (finding,) = examine(dataset).findings
    assert (finding.kind, finding.severity, finding.pictures) == ("unreadable", "should", ())
    assert "9.png is damaged or cut off" in examination_report(dataset, examine(dataset))


def test_how_many_pictures_a_subject_wants(tmp_path, drawings):
    pictures = fill(tmp_path / "a", drawings[:40])
    expected = {2: "should", 3: "note", 6: None, 40: None}
    for count, severity in expected.items():
        assert look(pictures, max_train_samples=count).get("few pictures", (None,))[0] == severity
    assert "few pictures" in look(pictures, subject="character", max_train_samples=14)
    assert look(pictures, subject="object", max_train_samples=8).keys() == set()
    assert look(pictures, subject="object", max_train_samples=40).keys() == set()
    for index in range(40, 42):
        (pictures / f"{index}.png").write_bytes((pictures / "1.png").read_bytes())
    assert look(pictures, subject="object")["many pictures"] == ("note", [])


def test_class_images_that_would_be_seen_too_often(good, drawings, tmp_path):
    few = load(fill(tmp_path / "few", drawings[20:25], "a drawing {}"), trigger="")
    joined = with_class_images(load(good), few)
    (finding,) = examine(joined).findings
    assert (finding.kind, finding.severity) == ("class images", "should")
    assert recommended_steps(8, 1, "face") == 960
    assert "each of the 5 about 192 times" in finding.message
    assert "to 80 or more" in finding.advice
    assert examine(joined).counts["class images"] == 5


def test_mirrored_faces(good):
    assert look(good, flip=True) == {"mirrored": ("note", [])}
    assert look(good, flip=True, subject="object") == {}


def test_sets_of_every_kind_are_looked_at(good, drawings):
    assert examine(with_masks(load(good), "alpha")).findings == ()
    assert look(good, crop="random") == {}
    magnified = AugmentConfig(crop_jitter=0.5, flip=0.0, keep_original=False)
    assert examine(with_augmentation(load(good), magnified)).findings == ()
    pixels = [torch.from_numpy(np.array(image)) / 255 for image in (*drawings[:6], drawings[0].rotate(1))]
    config = DatasetConfig(resolution=SIDE, trigger="zorp")
    given = given_dataset(pixels, [f"a zorp, number {i}" for i in range(7)], config)
    (finding,) = examine(given).findings
    assert (finding.kind, finding.pictures) == ("near-duplicate", (6,))


def test_a_second_look_decodes_nothing_and_progress_ends_it(good):
    dataset, calls = load(good), []
    examine(dataset, on_progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (8, 8)
    for file in good.glob("*.png"):
        file.unlink()
    assert examine(dataset).findings == ()

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(dataset, on_progress=stop)


def test_a_file_that_has_changed_and_a_batch_of_none_are_refused(good, drawings):
    drawings[30].rotate(90).save(good / "3.png")  # no other test has looked at it
    dataset = load(good)
    Image.new("RGB", (SIDE, SIDE), "navy").save(good / "3.png")
    with pytest.raises(InputError, match=r"3\.png changed after"):
        examine(dataset)
    with pytest.raises(InputError, match="batch_size is 0"):
        examine(dataset, 0)


def test_five_files_are_named_and_the_others_counted(good):
    for file in good.glob("*.txt"):
        file.unlink()
    dataset = load(good, trigger="")
    report = examination_report(dataset, examine(dataset))
    assert (
        "8 pictures have no caption and no trigger word: 0.png, 1.png, 2.png, 3.png, 4.png and 3 more."
        in report
    )
    assert report.index("Must be mended (1):") < report.index("How long to train:")


def test_report_and_sheet_are_written(good, tmp_path, drawings):
    Image.new("RGB", (SIDE, SIDE), "teal").save(good / "3.png")
    examination = write_examination(load(good), tmp_path / "new" / "check", batch_size=2)
    report = (tmp_path / "new" / "check" / "report.txt").read_text("utf-8")
    assert examination.problems == 1
    assert "1 thing to mend; 1 of the pictures is marked on the sheet." in report
    assert str(tmp_path) not in report
    sheet = np.asarray(Image.open(tmp_path / "new" / "check" / "sheet.png"))
    assert (sheet == (196, 22, 28)).all(axis=2).sum() > 1000
    assert sorted(p.name for p in (tmp_path / "new" / "check").iterdir()) == ["report.txt", "sheet.png"]
