"""The picture: what it shows, how large it gets, and letters that Pillow's own font lacks."""

import numpy as np
from PIL import ImageFont
from sdxl_trainer.trainer.report.lettering import font_for, wrapped

FRAME = (0xB3, 0x38, 0x0F)


def test_it_shows_every_preview_and_every_picture_of_the_dataset(made_run, pixels_of, preview_color):
    assert made_run.write() == []
    picture = made_run.picture
    assert picture.width == 1600
    assert 1500 < picture.height < 4500
    for column in range(4):
        for row in range(2):
            assert pixels_of(picture, preview_color(column, row)) > 300 * 300
    assert np.asarray(picture).std() > 20


def test_eight_tall_prompts_leave_it_4500_pixels_high(made_run, pixels_of, preview_color):
    for path in made_run.files.samples.iterdir():
        path.unlink()
    prompts = [f"a long prompt of a zorp in the {number}. of eight places " * 4 for number in range(8)]
    made_run.draw((0, 10, 20, 30), prompts, size=(64, 128))
    made_run.notes = [f"note {number} " + "of many words " * 30 for number in range(30)]
    made_run.checks = made_run.notes
    assert made_run.write() == []
    assert 4000 < made_run.picture.height <= 4500
    assert pixels_of(made_run.picture, preview_color(0, 0)) > 150 * 300
    assert pixels_of(made_run.picture, preview_color(0, 7)) == 0


def test_few_tall_previews_are_as_wide_as_their_columns(made_run, pixels_of, preview_color):
    made_run.draw((0, 10, 20, 30), ("a zorp", "a dog"), size=(64, 96))
    made_run.write()
    assert pixels_of(made_run.picture, preview_color(3, 1)) > 300 * 460
    assert made_run.picture.height < 4500


def test_the_proposed_column_has_a_frame_and_no_other(made_run, pixels_of):
    made_run.write()
    with_frame = pixels_of(made_run.picture, FRAME)
    made_run.log([0.1] * 30, {0: 0.1, 10: 0.2, 20: 0.3})
    made_run.write()
    assert with_frame > pixels_of(made_run.picture, FRAME) + 2 * 4 * 320 * 5


def test_without_pictures_on_the_way_there_is_still_a_report(made_run):
    made_run.write()
    height = made_run.picture.height
    for path in made_run.files.samples.iterdir():
        path.unlink()
    made_run.files.metrics.unlink()
    assert made_run.write() == []
    assert 800 < made_run.picture.height < height


def test_lines_fit_and_long_words_are_cut(made_run):
    font = font_for("x", 22)
    lines = wrapped("word " * 100 + "x" * 500, 22, 300)
    assert all(font.getlength(line) <= 300 for line in lines)
    assert "".join(lines).replace(" ", "") == "word" * 100 + "x" * 500
    short = wrapped("word " * 100, 22, 300, 2)
    assert len(short) == 2
    assert short[-1].endswith("...")
    assert font.getlength(short[-1]) <= 300
    assert wrapped("", 22, 300) == []


def test_plain_text_uses_the_font_that_is_always_there():
    assert font_for("plain text, 12 %", 20).getname() == ImageFont.load_default(20).getname()


def test_any_letters_can_be_written():
    for text in ("café", "漢字", "😀", "\u202e"):
        assert font_for(text, 20).getlength(text) >= 0
