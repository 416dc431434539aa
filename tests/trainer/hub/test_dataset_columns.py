"""Which columns of a hub dataset are taken, and what stands in a cell; with the types of the real library."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from sdxl_trainer.trainer.data.pictures import UnreadablePictureError
from sdxl_trainer.trainer.hub.dataset_columns import Columns, caption_in, choose_columns, picture_in
from sdxl_trainer.trainer.settings.hub_config import HubConfig

datasets = pytest.importorskip("datasets", reason="pip install datasets")
TEXT, IMAGE = datasets.Value("string"), datasets.Image()


def chosen(columns, **values):
    config = HubConfig(repository="somebody/cats", **values)
    columns = choose_columns(datasets.Features(columns), config)
    return columns.image, columns.caption


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image": IMAGE, "text": TEXT, "caption": TEXT}, ("image", "text")),
        ({"jpg": IMAGE, "Prompt": TEXT, "title": TEXT}, ("jpg", "Prompt")),
        ({"conditioning_image": IMAGE, "image": IMAGE, "n": datasets.Value("int64")}, ("image", "")),
        ({"image": IMAGE, "image_url": TEXT, "what_it_shows": TEXT}, ("image", "what_it_shows")),
        ({"image": IMAGE, "title": TEXT, "author": TEXT}, ("image", "")),
        ({"image": IMAGE, "label": datasets.ClassLabel(names=["a"])}, ("image", "")),
        (
            {"pixels": datasets.Array2D((8, 8), "uint8"), "captions": datasets.List(TEXT)},
            ("pixels", "captions"),
        ),
        ({"pixels": datasets.List(datasets.List(datasets.Value("uint8"))), "text": TEXT}, ("pixels", "text")),
    ],
)
def test_the_obvious_columns(columns, expected):
    assert chosen(columns) == expected


def test_named_columns_come_first():
    columns = {"image": IMAGE, "raw": datasets.Value("binary"), "text": TEXT, "year": datasets.Value("int32")}
    assert chosen(columns, image_column="raw", caption_column="year") == ("raw", "year")


def test_what_a_caption_cell_holds():
    plain, classes = Columns("image", "text"), Columns("image", "label", ("tabby", "black"))
    assert [caption_in(value, plain) for value in ("a", None, 7, ["a", None])] == ["a", "", "7", ["a"]]
    assert [caption_in(value, classes) for value in (1, -1, None)] == ["black", "", ""]


def opened(value):
    data, suffix = picture_in(value, lambda path: b"")
    return np.asarray(Image.open(BytesIO(data))), suffix


def test_arrays_of_every_shape_become_the_same_picture():
    pixels = np.random.default_rng(1).integers(0, 256, (18, 20, 3), dtype=np.uint8)
    for value in (pixels, pixels.tolist(), pixels.transpose(2, 0, 1), (pixels / 255).astype(np.float32)):
        made, suffix = opened(value)
        assert suffix == "png"
        assert (made == pixels).all()
    assert (opened(pixels[..., :1])[0] == pixels[..., 0]).all()
    assert (opened(Image.fromarray(pixels))[0] == pixels).all()


@pytest.mark.parametrize(
    "value",
    [
        None,
        "a.jpg",
        {"bytes": None, "path": None},
        b"text",
        np.zeros((2, 8, 8)),
        [[1], [1, 2]],
        [[300, 1], [1, 1]],
    ],
)
def test_cells_without_a_picture_say_so(value):
    with pytest.raises(UnreadablePictureError):
        picture_in(value, lambda path: b"")
