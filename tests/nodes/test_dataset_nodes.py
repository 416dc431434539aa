"""ClassImages, DatasetMasks and JoinDatasets called as ComfyUI calls them, on good and on bad input."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture
def dataset(input_folder):
    from sdxl_trainer.trainer.config import DatasetConfig
    from sdxl_trainer.trainer.data.dataset import load_dataset

    return load_dataset(input_folder / "zorp", DatasetConfig(resolution=128, trigger="zorp"))


@pytest.fixture
def class_images(dataset):
    """ClassImages.execute with small defaults; the widgets that are given replace them."""
    from sdxl_trainer.nodes.class_images import ClassImages

    values = {
        "dataset": dataset, "folder": "(new_folder)", "new_folder": "shapes", "class_prompt": "a red circle",
        "num_class_images": 2, "seed": 1, "steps": 1, "guidance": 2.0, "sampler": "euler",
        "scheduler": "normal", "negative": "",
    }  # fmt: skip
    return lambda **changes: ClassImages.execute(**{**values, **changes}).args


@pytest.fixture
def wired(stand_in):
    return dict(zip(("model", "clip", "vae"), stand_in, strict=True))


@pytest.fixture
def stand_in(pack_folder):
    import importlib.util

    path = pack_folder / "tests" / "host" / "stand_in_pack" / "loading.py"
    spec = importlib.util.spec_from_file_location("stand_in_loading_for_nodes", path)
    loading = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loading)
    with torch.inference_mode():
        return loading.load_stand_in()


def fill(folder, count):
    folder.mkdir(parents=True)
    for index in range(count):
        values = np.random.default_rng(index).integers(0, 256, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{index}.png")


def test_real_class_images_need_no_model(class_images, input_folder, dataset):
    fill(input_folder / "dogs", 3)
    (input_folder / "dogs" / "1.txt").write_text("a brown dog")
    joined, sheet, report, count = class_images(folder="input/dogs", class_prompt="a dog")
    assert count == 3 and sheet.ndim == 4 and sheet.shape[-1] == 3
    assert [p.captions for p in joined.class_set.pictures] == [("a dog",), ("a brown dog",), ("a dog",)]
    assert report.startswith("0 class images drawn into input/dogs, 3 are there now.")
    assert joined.pictures == dataset.pictures and joined.trigger_words == "zorp"
    assert sorted(path.name for path in (input_folder / "dogs").iterdir()) == [
        "0.png",
        "1.png",
        "1.txt",
        "2.png",
    ]


def test_drawing_and_reading_again_give_the_same_dataset(class_images, input_folder, wired):
    with torch.inference_mode():
        drawn = class_images(**wired)
        read = class_images()
    assert drawn[0].fingerprint == read[0].fingerprint
    assert drawn[3] == read[3] == 2
    assert drawn[0].class_set.pictures[0].captions == ("a red circle",)


def test_the_node_runs_again_when_the_folder_changes_and_only_then(class_images, input_folder):
    from sdxl_trainer.nodes.class_images import ClassImages

    def fingerprint(**values):
        # ComfyUI hands over the widgets, and None for what is wired
        return ClassImages.fingerprint_inputs(dataset=None, new_folder="shapes", seed=1, **values)

    assert fingerprint(folder="(new_folder)") == fingerprint(folder="(new_folder)") == "no folder yet"
    fill(input_folder / "shapes", 2)
    first = fingerprint(folder="(new_folder)")
    assert first == fingerprint(folder="input/shapes") != "no folder yet"
    (input_folder / "shapes" / "0.txt").write_text("new")
    assert fingerprint(folder="(new_folder)") != first


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {},
            "input/shapes holds 0 class images, but num_class_images is 2: wire model, clip, vae to draw",
        ),
        ({"num_class_images": 0}, "class folder 'input/shapes' does not exist and num_class_images is 0"),
        ({"new_folder": "../outside"}, "new_folder: name '../outside' holds /"),
        ({"new_folder": ""}, "new_folder: name '' is empty"),
        ({"new_folder": "."}, "begins or ends with a dot"),
        ({"new_folder": "note"}, "is a file or leads out of ComfyUI's input folder"),
        ({"new_folder": "link"}, "is a file or leads out of ComfyUI's input folder"),
        ({"folder": "input/../.."}, "folder 'input/../..' was not found"),
        (
            {"new_folder": "zorp"},
            "the class folder 'zorp' and the dataset's folder 'zorp' lie in one another",
        ),
    ],
)
def test_bad_input_is_one_sentence_without_a_path(class_images, input_folder, changes, words):
    from sdxl_trainer.trainer.errors import InputError

    (input_folder / "note").write_text("x")
    (input_folder / "link").symlink_to(input_folder.parent, target_is_directory=True)
    before = sorted(path.name for path in input_folder.iterdir())
    with pytest.raises(InputError) as refused:
        class_images(**changes)
    assert words in str(refused.value)
    assert str(input_folder) not in str(refused.value)
    assert sorted(path.name for path in input_folder.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vae": None}, "but num_class_images is 2: wire vae to draw the 2 missing ones"),
        ({"class_prompt": "  "}, "and class_prompt is empty: say what to draw"),
        ({"sampler": "wishful"}, "sampler is 'wishful', which this ComfyUI does not have"),
    ],
)
def test_drawing_without_its_means_is_refused(class_images, wired, changes, words, input_folder):
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match=words):
        class_images(**{**wired, **changes})
    assert not (input_folder / "shapes").exists()


def test_masks_from_alpha_and_from_a_mask(dataset, input_folder):
    from sdxl_trainer.nodes.dataset_masks import DatasetMasks

    picture = input_folder / "zorp" / "zorp_01.png"
    half = Image.open(picture).convert("RGBA")
    half.putalpha(
        Image.fromarray(np.repeat(np.arange(half.height) >= 64, half.width).reshape(half.size[::-1]))
    )
    half.save(picture)
    from sdxl_trainer.trainer.data.dataset import load_dataset

    dataset = load_dataset(input_folder / "zorp", dataset.config)
    masked, sheet, report, count = DatasetMasks.execute(dataset=dataset, source="alpha").args
    assert count == 1 and sheet.ndim == 4
    assert "Masks: 1 of 12 pictures" in report and "11 of 12 pictures have no alpha channel" in report
    assert masked.load_mask(masked.variants[0][0])[0, :, 0].tolist() == [0.0] * 8 + [1.0] * 8
    given = DatasetMasks.execute(dataset=dataset, source="mask", mask=torch.full((1, 9, 9), 0.5)).args
    assert given[3] == 12 and abs(float(given[0].load_mask(given[0].variants[3][0]).mean()) - 0.5) < 0.01
    unused = DatasetMasks.execute(dataset=dataset, source="alpha", mask=torch.ones(1, 8, 8)).args
    assert unused[0].fingerprint == masked.fingerprint
    assert unused[2].startswith("The wired mask is not used, because source is alpha.")


def test_a_masklabel_file_masks_and_a_changed_one_is_noticed(input_folder):
    from sdxl_trainer.nodes.dataset import LoadDataset
    from sdxl_trainer.nodes.dataset_masks import DatasetMasks
    from sdxl_trainer.trainer.config import DatasetConfig

    values = dataclasses.asdict(DatasetConfig(resolution=128))
    states = [LoadDataset.fingerprint_inputs(folder="input/zorp", **values)]
    for level in (255, 128):
        Image.new("L", (64, 64), level).save(input_folder / "zorp" / "zorp_01-masklabel.png")
        states.append(LoadDataset.fingerprint_inputs(folder="input/zorp", **values))
    assert len(set(states)) == 3
    dataset, _, report, count = LoadDataset.execute(folder="input/zorp", **values).args
    assert count == 12 and "1 of 12 pictures have a -masklabel mask: Dataset Masks uses it" in report
    masked, _, report, count = DatasetMasks.execute(dataset=dataset, source="masklabel").args
    assert count == 1 and "11 of 12 pictures have no -masklabel file and count in full" in report
    assert abs(float(masked.load_mask(masked.variants[0][0]).mean()) - 128 / 255) < 1e-6
    unused = DatasetMasks.execute(dataset=dataset, source="masklabel", mask=torch.ones(1, 8, 8)).args
    assert unused[2].startswith("The wired mask is not used, because source is masklabel.")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, "source is mask, but no mask is wired"),
        (torch.ones(5, 8, 8), "mask holds 5 masks, but the dataset has 12 pictures"),
    ],
)
def test_masks_that_are_missing_or_miscounted_are_refused(dataset, mask, words):
    from sdxl_trainer.nodes.dataset_masks import DatasetMasks
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match=words):
        DatasetMasks.execute(dataset=dataset, source="mask", mask=mask)


def test_two_datasets_are_joined_with_their_weights(dataset, input_folder):
    from sdxl_trainer.nodes.join_datasets import JoinDatasets
    from sdxl_trainer.trainer.config import DatasetConfig
    from sdxl_trainer.trainer.data.dataset import load_dataset

    fill(input_folder / "dogs", 2)
    other = load_dataset(input_folder / "dogs", DatasetConfig(resolution=64, trigger="blik"))
    joined, report, count = JoinDatasets.execute(dataset, other, 1.0, 0.5).args
    assert count == 14 and joined.trigger_words == "zorp, blik"
    assert "Loss weights: 2 pictures x 0.5, 12 pictures x 1." in report
    assert "Dataset 'zorp + dogs': 14 pictures in use." in report


def test_the_weight_widgets_go_as_far_as_the_trainer_does():
    from sdxl_trainer.nodes import join_datasets
    from sdxl_trainer.trainer.data import dataset_sets

    assert (join_datasets.LEAST, join_datasets.MOST) == (
        dataset_sets.MIN_LOSS_WEIGHT,
        dataset_sets.MAX_LOSS_WEIGHT,
    )
