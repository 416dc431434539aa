"""Pictures without files: the same set as from a folder, and the same run after a restart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.class_images import require_apart
from sdxl_trainer.trainer.data.contact_sheet import dataset_sheet
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.data.dataset_report import describe
from sdxl_trainer.trainer.data.dataset_sets import join_datasets, with_class_images, with_masks
from sdxl_trainer.trainer.data.given_pictures import given_dataset
from sdxl_trainer.trainer.errors import CancelledError, InputError
from sdxl_trainer.trainer.files.kohya_metadata import dataset_values

SIZES = ((128, 128), (200, 120), (64, 96), (90, 300))
"""(width, height)"""


def levels(number, width, height, channels=3):
    return np.random.default_rng(number).integers(0, 256, (height, width, channels), dtype=np.uint8)


def as_image(values):
    """(H, W, C) as ComfyUI's nodes give it."""
    return torch.from_numpy(values.astype(np.float32) / 255)


def draw(sizes=SIZES):
    return [as_image(levels(number, *size)) for number, size in enumerate(sizes)]


def given(pictures=None, captions=(), masks=(), **settings):
    config = DatasetConfig(**{"resolution": 128, **settings})
    return given_dataset(draw() if pictures is None else pictures, captions, config, masks)


def notes(dataset, kind):
    return [str(note) for note in dataset.notes if note.kind == kind]


@pytest.mark.parametrize("settings", [{}, {"crop": "random", "flip": True, "trigger": "zorp", "repeats": 3}])
def test_the_set_equals_that_of_the_same_pictures_in_a_folder(tmp_path, settings):
    words = ["a cat", "a dog", "", "zorp bird"]
    for number, (size, text) in enumerate(zip(SIZES, words, strict=True)):
        Image.fromarray(levels(number, *size)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(text)
    theirs = load_dataset(tmp_path, DatasetConfig(resolution=128, upscale=True, **settings))
    ours = given(captions=words, upscale=True, **settings)
    assert [p.captions for p in ours.pictures] == [p.captions for p in theirs.pictures]
    assert [p.repeats for p in ours.pictures] == [p.repeats for p in theirs.pictures]
    assert ours.buckets == theirs.buckets and ours.trigger_words == theirs.trigger_words
    for own, their in zip(ours.variants, theirs.variants, strict=True):
        assert len(own) == len(their)
        # where a random crop lies hangs on the digest, which is a file's or the pixels'
        assert torch.equal(ours.load_pixels(their[-1]), theirs.load_pixels(their[-1]))
        assert ours.true_time_ids(own[0])[:2] == theirs.true_time_ids(their[0])[:2]
    warned = [str(note).partition(" ")[2] for note in theirs.notes if note.name and "enlarged" in str(note)]
    assert [note.partition(" ")[2][5:] for note in notes(ours, "warning") if "enlarged" in note] == warned


def test_pictures_are_named_by_their_place_and_have_no_file():
    dataset = given(captions=["a cat"])
    assert [p.name for p in dataset.pictures] == ["image 0001", "image 0002", "image 0003", "image 0004"]
    assert {p.caption_source for p in dataset.pictures} == {"graph"} and dataset.root_name == "images"
    assert {p.captions for p in dataset.pictures} == {("a cat",)} and dataset.trigger_words == "a cat"
    assert all(not p.path.name and p.given_pixels.dtype == np.uint8 for p in dataset.pictures)
    assert len({p.digest for p in dataset.pictures}) == 4


def test_the_notes_are_those_of_a_folder():
    pictures = draw()
    dataset = given([*pictures, pictures[1], torch.zeros(8, 400, 3)], ["a cat", "", "", "", "", ""])
    warnings = notes(dataset, "warning")
    assert "image 0002 is byte for byte the same picture as image 0005" in warnings
    assert any(
        w.startswith("4 of 5 pictures have no caption and train on an empty caption") for w in warnings
    )
    assert any(
        w.startswith("image 0003 is 64x96 and was enlarged to") for w in notes(given(upscale=True), "warning")
    )
    (skipped,) = notes(dataset, "skipped")
    assert skipped == "image 0006 is 400x8, but the shorter side must be at least 16 pixels"
    assert "image 0006" in describe(dataset)


def test_grey_and_transparent_pictures():
    grey, clear = levels(5, 64, 64, 1), levels(6, 64, 64, 4)
    clear[:32, :, 3] = 0
    clear[32:, :, 3] = 255
    dataset = given([as_image(grey), as_image(grey[..., 0]), as_image(clear)], background="#ff0000")
    one, same, laid = (picture.given_pixels for picture in dataset.pictures)
    assert np.array_equal(one, np.repeat(grey, 3, axis=-1)) and np.array_equal(one, same)
    assert (laid[:32] == (255, 0, 0)).all() and np.array_equal(laid[32:], clear[32:, :, :3])
    assert any("1 pictures have transparent parts, which lie on #ff0000" in n for n in notes(dataset, "info"))
    other = given([as_image(clear)], background="#00ff00")
    assert other.pictures[0].digest != dataset.pictures[2].digest
    nothing = np.zeros((64, 64, 4), np.uint8)
    assert "image 0001 is fully transparent" in notes(given([as_image(nothing)]), "warning")[0]


def test_values_out_of_range_are_cut_and_told_where_it_matters():
    close, far = torch.full((64, 64, 3), 1.001), torch.full((64, 64, 3), 0.5)
    far[0, 0, 0], far[0, 0, 1] = -0.25, 1.5
    dataset = given([close, far], ["a cat"])
    assert notes(dataset, "warning") == ["image 0002 has values from -0.25 to 1.5, which were cut to 0-1"]
    assert dataset.pictures[0].given_pixels.min() == 255
    assert dataset.pictures[1].given_pixels[0, 0].tolist() == [0, 255, 128]


def test_tensors_of_the_graph_are_copied():
    with torch.inference_mode():
        pictures = [torch.rand(64, 64, 3), torch.rand(64, 64, 3).half()]
    dataset = given(pictures)
    before = dataset.pictures[0].given_pixels.copy()
    with torch.inference_mode():
        pictures[0].zero_()
    assert np.array_equal(dataset.pictures[0].given_pixels, before) and before.any()
    assert not dataset.load_pixels(dataset.variants[0][0]).is_inference()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"pictures": []}, "images holds no picture"),
        ({"pictures": [torch.rand(8, 8, 3)]}, "none of the 1 pictures can be used: image 0001 is 8x8"),
        ({"captions": ["a", "b", "c"]}, "captions holds 3 texts, but there are 4 pictures: wire one text"),
        ({"captions": [3]}, "captions holds int, but must hold texts"),
        ({"masks": [torch.ones(3, 8, 8)]}, "mask holds 3 masks, but there are 4 pictures: wire one mask"),
        ({"masks": [torch.ones(2, 8, 8), torch.ones(8, 8)]}, "mask holds 3 masks"),
        ({"masks": [torch.ones(2, 3, 8, 8)]}, r"mask has the shape \(2, 3, 8, 8\)"),
        ({"pictures": [torch.rand(64, 64, 2)]}, r"image 0001 has the shape \(64, 64, 2\)"),
        ({"pictures": [*draw(), torch.full((64, 64, 3), torch.nan)]}, "image 0005 holds NaN or infinite"),
        ({"background": "blurple"}, "background is 'blurple', but must be #rrggbb"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_sentence(wrong, words):
    with pytest.raises(InputError, match=words) as caught:
        given(**wrong)
    assert "\n" not in str(caught.value)


def test_one_text_of_many_lines_stands_whole_below_each_picture():
    dataset = given(captions=["a cat\na dog\n\na bird\nan ant"])
    assert {p.captions for p in dataset.pictures} == {("a cat a dog a bird an ant",)}
    assert any("one text of 4 lines" in w for w in notes(dataset, "warning"))
    assert not any("one text of" in w for w in notes(given(captions=["a cat\na dog"]), "warning"))


def test_a_prompt_stands_in_for_captions_that_are_not_there():
    dataset = given(captions=["a cat", " ", "", "b"], prompt="a thing")
    assert [p.captions[0] for p in dataset.pictures] == ["a cat", "a thing", "a thing", "b"]
    assert [p.caption_source for p in dataset.pictures] == ["graph", "prompt", "prompt", "graph"]


def test_the_fingerprint_hangs_on_pixels_captions_masks_and_settings_alone():
    base = given(captions=["a cat"]).fingerprint
    assert base == given(captions=["a cat"]).fingerprint
    half = [picture.half() for picture in draw()]
    changed = draw()
    changed[2][-1, -1, -1] = 1 - changed[2][-1, -1, -1]
    others = [
        given(captions=["a dog"]),
        given(changed, ["a cat"]),
        given(draw()[::-1], ["a cat"]),
        given(captions=["a cat"], flip=True),
        given(captions=["a cat"], masks=[torch.ones(8, 8)]),
        given(captions=["a cat"], masks=[torch.ones(9, 9)]),
    ]
    assert len({base, *(dataset.fingerprint for dataset in others)}) == 7
    assert given(half, ["a cat"]).num_samples == 4
    lying, upright = given([torch.zeros(64, 96, 3)]), given([torch.zeros(96, 64, 3)])
    assert lying.pictures[0].digest != upright.pictures[0].digest


def test_masks_of_any_size_go_with_their_pictures():
    masks = [torch.full((2, 16, 16), 0.25), torch.full((24, 16), 0.5), torch.ones(1, 20, 6)]
    masks[0][1] = 0.75
    pictures = draw()
    dataset = given(
        [*pictures[:2], torch.zeros(400, 4, 3), *pictures[2:]],
        masks=[*masks[:1], torch.zeros(8, 8), *masks[1:]],
    )
    means = [float(dataset.load_mask(variants[0]).mean()) for variants in dataset.variants]
    assert means == pytest.approx([0.25, 0.75, 0.5, 1.0], abs=3e-3)
    fewer = given(masks=[masks[0], *masks[1:]], max_train_samples=2)
    names = [p.name for p in fewer.pictures]
    kept = [float(fewer.load_mask(variants[0]).mean()) for variants in fewer.variants]
    assert kept == pytest.approx(
        [dict(zip((f"image {n:04d}" for n in range(1, 5)), means, strict=True))[n] for n in names], abs=3e-3
    )
    alone = given(masks=[torch.full((8, 8), 0.5)])
    assert all(p.has_mask for p in alone.pictures)


def test_masks_equal_those_of_dataset_masks():
    masks = [torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    ours, theirs = given(masks=masks), with_masks(given(), torch.cat(masks))
    assert ours.fingerprint == theirs.fingerprint
    for own, their in zip(ours.variants, theirs.variants, strict=True):
        assert torch.equal(ours.load_mask(own[0]), theirs.load_mask(their[0]))


@pytest.mark.parametrize("source", ["alpha", "masklabel"])
def test_without_files_there_is_no_mask_in_them(source):
    dataset = with_masks(given(), source)
    assert not dataset.has_masks
    assert any("4 of 4 pictures have no" in w and "count in full" in w for w in notes(dataset, "warning"))


def test_everything_that_reads_a_set_reads_this_one(tmp_path):
    dataset = given(captions=["a cat"], flip=True)
    Image.fromarray(levels(50, 128, 128)).save(tmp_path / "class.png")
    require_apart(dataset, tmp_path)
    whole = with_class_images(dataset, load_dataset(tmp_path, DatasetConfig(resolution=128)))
    joined = join_datasets(
        [(whole, 1), (given(draw(((64, 64),))), 0.5), (load_dataset(tmp_path, DatasetConfig()), 1)]
    )
    again = join_datasets([(joined, 1), (given(), 1)])
    assert [p.name for p in joined.pictures][3:] == [
        "images/image 0004",
        "images-2/image 0001",
        f"{tmp_path.name}/class.png",
    ]
    assert [p.name for p in again.pictures][:6] == [p.name for p in joined.pictures]
    assert len({p.name for p in again.pictures}) == 10
    training, held = joined.split(0.3)
    assert len(training.pictures) + len(held.pictures) == 6
    assert dataset_sheet(joined).width > 0
    assert '"images"' in str(dataset_values(dataset)["ss_dataset_dirs"])


def train_tiny(tiny_run, folder, dataset, listener, **values):
    folder.mkdir(exist_ok=True)
    job = tiny_run.tiny_job(folder, dataset, steps=4, batch_size=2, **values)
    return tiny_run.train(job, tiny_run.TinyModel(), listener)


def tiny_given(masks=()):
    pictures = draw(((64, 64), (64, 128), (64, 64), (70, 64)))
    captions = [f"picture {number}" for number in range(4)]
    return given_dataset(pictures, captions, DatasetConfig(resolution=64, bucket_step=32, flip=True), masks)


def test_a_run_on_given_pictures_goes_on_after_a_restart_as_if_never_stopped(tiny_run, tmp_path):
    mask = torch.zeros(64, 64)
    mask[:, 32:] = 1
    whole = train_tiny(tiny_run, tmp_path / "a", tiny_given([mask]), tiny_run.StopAfter())
    with pytest.raises(CancelledError):
        train_tiny(tiny_run, tmp_path / "b", tiny_given([mask]), tiny_run.StopAfter(2))
    resumed = train_tiny(tiny_run, tmp_path / "b", tiny_given([mask]), tiny_run.StopAfter())
    assert resumed.resumed_from == 2
    assert resumed.lora_path.read_bytes() == whole.lora_path.read_bytes()


def test_given_pictures_teach_what_files_of_the_same_pixels_teach(tiny_run, tmp_path):
    ours = tiny_given()
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(ours.pictures):
        Image.fromarray(picture.given_pixels).save(tmp_path / "pictures" / f"{number}.png")
        (tmp_path / "pictures" / f"{number}.txt").write_text(picture.captions[0])
    theirs = load_dataset(tmp_path / "pictures", ours.config)
    made = [
        load_file(train_tiny(tiny_run, tmp_path / name, dataset, tiny_run.StopAfter()).lora_path)
        for name, dataset in (("a", ours), ("b", replace(theirs, fingerprint=ours.fingerprint)))
    ]
    assert made[0].keys() == made[1].keys()
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
