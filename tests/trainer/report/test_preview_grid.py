"""Which pictures stand in the grid."""

import numpy as np
import pytest
from PIL import Image
from sdxl_trainer.trainer.config import PreviewConfig
from sdxl_trainer.trainer.report.preview_grid import MOST_COLUMNS, read_previews, thinned
from sdxl_trainer.trainer.report.thumbnails import Thumbnail, evenly_chosen


@pytest.mark.parametrize(
    ("number", "most", "places"),
    [
        (5, 12, [0, 1, 2, 3, 4]),
        (11, 8, [0, 2, 4, 6, 8, 10]),
        (16, 12, [0, 2, 4, 6, 8, 10, 12, 14, 15]),
        (13, 12, [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]),
        (1, 12, [0]),
    ],
)
def test_thinned_columns_are_even_and_keep_the_first_and_the_last(number, most, places):
    steps = [100 * place for place in range(number)]
    assert thinned(steps, most) == [100 * place for place in places]


@pytest.mark.parametrize("number", [13, 20, 37, 500])
def test_the_proposed_step_stays_in_whatever_is_left_out(number):
    steps = list(range(number))
    for kept in steps:
        chosen = thinned(steps, 12, kept)
        assert len(chosen) <= 12
        assert {0, kept, number - 1} <= set(chosen)
        assert chosen == sorted(chosen)


def test_an_even_choice_has_both_ends():
    assert evenly_chosen(10, 4) == [0, 3, 6, 9]
    assert evenly_chosen(3, 60) == [0, 1, 2]
    assert evenly_chosen(5, 1) == [0]


def test_rows_are_the_prompts_that_were_drawn_with(made_run):
    grid = read_previews(made_run.files.samples, PreviewConfig(prompts="another"), made_run.dataset)
    assert (list(grid.prompts), list(grid.steps)) == (["a zorp", "a dog"], [0, 10, 20, 30])
    assert (grid.num_steps, grid.num_prompts, grid.failures) == (4, 2, [])


def test_each_picture_stands_in_its_row_and_column(made_run, preview_color):
    grid = read_previews(made_run.files.samples, PreviewConfig(), made_run.dataset)
    for row, cells in enumerate(grid.cells):
        for column, cell in enumerate(cells):
            assert np.abs(np.subtract(cell.image().getpixel((9, 9)), preview_color(column, row))).max() <= 3


def test_a_damaged_picture_is_left_out_with_a_sentence_that_names_no_folder(made_run, tmp_path):
    (made_run.files.samples / "step-000010-01.png").write_bytes(b"no picture")
    (made_run.files.samples / "step-000020-00.png").unlink()
    grid = read_previews(made_run.files.samples, PreviewConfig(), made_run.dataset)
    assert [[cell is not None for cell in row] for row in grid.cells] == [
        [True, True, False, True],
        [True, False, True, True],
    ]
    (sentence,) = grid.failures
    assert sentence.startswith("step-000010-01.png could not be read")
    assert str(tmp_path) not in sentence


def test_many_steps_are_thinned_and_counted(made_run):
    made_run.draw(range(0, 400, 10), ("a zorp",))
    grid = read_previews(made_run.files.samples, PreviewConfig(), made_run.dataset, 170)
    assert len(grid.steps) <= MOST_COLUMNS
    assert {0, 170, 390} <= set(grid.steps)
    assert grid.num_steps == 40


def test_without_a_folder_there_is_no_grid(made_run, tmp_path):
    assert read_previews(tmp_path / "none", PreviewConfig(), made_run.dataset).steps == ()


def test_a_thumbnail_stays_below_its_bytes_even_for_noise():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 600, 3), dtype=np.uint8))
    for most_bytes in (60_000, 15_000, 4_000):
        small = Thumbnail.of(noise, 384, most_bytes)
        assert len(small.jpeg) <= most_bytes
        assert small.width / small.height == pytest.approx(2 / 3, abs=0.05)
        assert small.image().size == (small.width, small.height)
    assert Thumbnail.of(noise, 384, 10**6).height == 384
