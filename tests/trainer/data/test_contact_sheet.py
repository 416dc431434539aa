import numpy as np
import pytest
from PIL import Image, ImageChops
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.contact_sheet import SheetStyle, contact_sheet, dataset_sheet
from sdxl_trainer.trainer.data.dataset import load_dataset

COLORS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]


def images(size=(100, 100)):
    return [Image.new("RGB", size, color) for color in COLORS]


def place_of(sheet, color):
    """(left, top, right, bottom) of the pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == color).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_pictures_stand_in_rows_in_reading_order():
    sheet = contact_sheet(images(), ["text"] * 5, 2, SheetStyle(tile=64))
    places = [place_of(sheet, color) for color in COLORS]
    assert [p[2] - p[0] for p in places] == [p[3] - p[1] for p in places] == [64] * 5
    assert places[0][1] == places[1][1] < places[2][1] == places[3][1] < places[4][1]
    assert places[0][0] == places[2][0] == places[4][0] < places[1][0] == places[3][0]


def test_the_shape_of_a_picture_is_kept_inside_its_tile():
    sheet = contact_sheet(images((200, 50)), [], 5, SheetStyle(tile=64))
    left, top, right, bottom = place_of(sheet, COLORS[1])
    assert (right - left, bottom - top) == (64, 16)


def test_a_long_caption_is_wrapped_below_its_picture_and_ends():
    long = contact_sheet(images()[:1], ["wordy words " * 400], 1, SheetStyle(tile=128))
    short = contact_sheet(images()[:1], ["w"], 1, SheetStyle(tile=128))
    endless = contact_sheet(images()[:1], ["x" * 100_000], 1, SheetStyle(tile=128))
    assert long.width == short.width == endless.width
    assert short.height < long.height < short.height + 128
    assert endless.height == short.height
    below = np.asarray(long.crop((0, place_of(long, COLORS[0])[3], long.width, long.height)).convert("L"))
    assert (below < 100).any()
    assert not (below[:, -14:] < 100).any()  # nothing runs over the edge


def test_titles_make_room_and_are_drawn():
    style = SheetStyle(tile=64, row_titles=["one", "two"], column_titles=["before", "after"])
    bare = contact_sheet(images()[:4], [], 2, SheetStyle(tile=64))
    sheet = contact_sheet(images()[:4], [], 2, style)
    left, top, *_ = place_of(sheet, COLORS[0])
    assert left > place_of(bare, COLORS[0])[0] and top > place_of(bare, COLORS[0])[1]
    grey = np.asarray(sheet.convert("L"))
    assert (grey[:top, left:] < 100).any() and (grey[top:, :left] < 100).any()


def test_tiles_may_be_lower_than_wide_and_notes_stand_below_titles():
    square = contact_sheet(images((64, 32)), [], 5, SheetStyle(tile=64))
    low = contact_sheet(images((64, 32)), [], 5, SheetStyle(tile=64, height=32))
    assert (low.width, low.height) == (square.width, square.height - 32)
    titles = {"tile": 128, "row_titles": ["strength 1"] * 2, "column_titles": ["a", "b"]}
    bare = contact_sheet(images()[:4], [], 2, SheetStyle(**titles))
    noted = contact_sheet(images()[:4], [], 2, SheetStyle(**titles, row_notes=["a cat"] * 2, corner="zorp"))
    assert noted.size == bare.size
    changed = ImageChops.difference(noted, bare).getbbox()
    assert changed[1] < 14 + 13  # the corner, in the line of the column titles
    assert changed[2] < 14 + 128 * 3 // 4  # nothing beside the titles


def test_the_trigger_is_coloured_where_it_stands_as_a_word():
    def has_color(caption, trigger="zorp"):
        style = SheetStyle(tile=200, highlight=trigger)
        sheet = np.asarray(contact_sheet(images()[:1], [caption], 1, style))
        text = sheet[214:].astype(int)
        return bool(((text[..., 0] - text[..., 2]) > 120).any())

    assert has_color("a zorp, red")
    assert not has_color("a zorpling")
    assert has_color("a red hat", "red hat")
    assert not has_color("a hat and a red shoe", "red hat")


@pytest.mark.parametrize("count", [1, 5, 60])
def test_a_dataset_sheet_shows_the_crops(tmp_path, count):
    for index in range(count):
        Image.new("RGB", (200, 100), (10, 3 * index, 200)).save(tmp_path / f"{index:02}.png")
    dataset = load_dataset(tmp_path, DatasetConfig(resolution=128, trigger="zorp"))
    sheet = dataset_sheet(dataset, max_pictures=8)
    assert sheet.mode == "RGB"
    values = np.asarray(sheet).reshape(-1, 3)
    shown = {
        tuple(color) for color in np.unique(values, axis=0).tolist() if color[0] == 10 and color[2] == 200
    }
    assert len(shown) == min(count, 8)


RED = (196, 22, 28)


def test_flagged_pictures_get_a_red_frame_and_their_words():
    plain = SheetStyle(tile=128)
    flagged = contact_sheet(images()[:2], ["w"] * 2, 2, SheetStyle(tile=128, flags=["", "blurred"]))
    longer = contact_sheet(images()[:2], ["w"] * 2, 2, SheetStyle(tile=128, flags=["", "blurred " * 9]))
    bare = contact_sheet(images()[:2], ["w"] * 2, 2, plain)
    assert bare.width == flagged.width == longer.width
    assert bare.height < flagged.height < longer.height
    left, top, right, bottom = place_of(flagged, RED)
    assert (left, top, right - left) == (14 + 128 + 14, 14, 128)
    assert bottom - top > 128  # words below the picture, which they do not cover
    assert place_of(flagged, COLORS[0])[2:] == (14 + 128, 14 + 128)


def test_a_dataset_sheet_shows_flagged_pictures_first_and_counts_them(tmp_path):
    for index in range(20):
        Image.new("RGB", (128, 128), (10, 10 * index, 200)).save(tmp_path / f"{index:02}.png")
    dataset = load_dataset(tmp_path, DatasetConfig(resolution=128))

    def greens(max_pictures, flags):
        sheet = np.asarray(dataset_sheet(dataset, max_pictures, flags))
        found = sheet[(sheet[..., 0] == 10) & (sheet[..., 2] == 200)][:, 1] // 10
        return list(dict.fromkeys(found.tolist()))  # in reading order, as none is above another

    assert greens(3, {17: ("blurred",), 9: ("small", "blurred")})[:2] == [9, 17]
    assert len(greens(3, {17: ("blurred",)})) == 3
    assert greens(2, dict.fromkeys(range(20), ("x",))) == [0, 10]
    assert set(greens(20, {17: ("blurred",)})) == set(range(20))
    titled, untitled = dataset_sheet(dataset, 20, {}), dataset_sheet(dataset, 20)
    assert titled.height > untitled.height
    assert titled.width == untitled.width
