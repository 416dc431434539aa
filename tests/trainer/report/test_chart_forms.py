"""The chart as SVG and as pixels."""

from xml.etree import ElementTree

import numpy as np
import pytest
from sdxl_trainer.trainer.report.chart import Axis, Chart, Mark, Panel, Series
from sdxl_trainer.trainer.report.chart_drawing import WIDTH, draw_chart
from sdxl_trainer.trainer.report.chart_picture import to_picture
from sdxl_trainer.trainer.report.chart_svg import to_svg

BLUE, RED = (0x25, 0x63, 0xA8), (0xB3, 0x38, 0x0F)
HELD_OUT = [(0, 1.0), (50, 0.5), (100, 0.75)]


@pytest.fixture
def chart():
    raw = Series("raw", "dots", [(n, n / 100) for n in range(1, 101)], has_line=False, has_dots=True)
    smooth = Series("smooth", "a <script> & line", [(1, 0.5), (100, 0.5)])
    titles = [f"step {step}: {loss}" for step, loss in HELD_OUT]
    held_out = Series("held_out", "held out", HELD_OUT, has_dots=True, titles=titles)
    panels = [
        Panel([raw, smooth], Axis(0, 1, [0, 0.5, 1]), 200, [Series("rate", "rate", [(1, 1), (100, 1)])]),
        Panel([held_out], Axis(0, 1, [0, 1]), 100),
    ]
    marks = [Mark(25, "step 25: checkpoint"), Mark(50, "step 50: <proposed>", "proposed", is_proposed=True)]
    return Chart(panels, Axis.of_steps(100), marks)


@pytest.fixture
def svg(chart):
    return ElementTree.fromstring(to_svg(draw_chart(chart), "what <it> shows"))


def named(svg, tag):
    return [part for part in svg.iter() if part.tag.rpartition("}")[2] == tag]


def test_the_svg_is_sound_xml_with_a_description(svg):
    assert svg.get("viewBox").startswith(f"0 0 {WIDTH} ")
    assert svg[0].text == "what <it> shows"
    assert {"a <script> & line", "proposed", "dots"} <= {part.text for part in named(svg, "text")}


def test_points_stand_where_the_scales_put_them(svg):
    circles = [
        (float(c.get("cx")), float(c.get("cy")), c[0].text)
        for c in named(svg, "circle")
        if c[0].text != "held out"
    ]
    texts = {part.text: part for part in named(svg, "text")}
    left, right = float(texts["0"].get("x")), None
    steps = {
        p.text: float(p.get("x"))
        for p in named(svg, "text")
        if p.get("text-anchor") == "middle" and p.text != "steps"
    }
    left, right = steps["0"], steps["100"]
    assert [title for _, _, title in circles] == ["step 0: 1.0", "step 50: 0.5", "step 100: 0.75"]
    assert [x for x, _, _ in circles] == pytest.approx([left, (left + right) / 2, right])
    heights = [y for _, y, _ in circles]
    assert heights[1] - heights[0] == pytest.approx(50)
    assert heights[2] - heights[0] == pytest.approx(25)


def test_every_mark_has_a_title_in_every_panel(svg):
    titles = [part.text for part in named(svg, "title")]
    assert titles.count("step 25: checkpoint") == 2
    assert titles.count("step 50: <proposed>") == 2


def test_all_raw_dots_are_drawn(svg):
    (dots,) = [
        part
        for part in named(svg, "path")
        if part.get("class") == "raw-dots" and part.get("d").count("M") > 3
    ]
    assert dots.get("d").count("M") == 100


def test_the_picture_shows_the_same_lines_at_the_same_places(chart):
    drawing = draw_chart(chart)
    picture = np.asarray(to_picture(drawing, 2 * WIDTH), dtype=int)
    assert picture.shape == (2 * drawing.height, 2 * WIDTH, 3)
    (line,) = [s for s in drawing.shapes if getattr(s, "kind", "") == "smooth" and s.title]
    y = round(2 * line.points[0][1])
    middle = picture[y, 300:1200]
    assert (np.abs(middle - BLUE).max(axis=1) < 40).mean() > 0.9
    (proposed, _) = [s for s in drawing.shapes if getattr(s, "kind", "") == "proposed"]
    x = round(2 * proposed.points[0][0])
    column = picture[2 * round(proposed.points[0][1]) : 2 * round(proposed.points[1][1]), x - 1 : x + 2]
    assert (np.abs(column - RED).max(axis=2).min(axis=1) < 40).mean() > 0.8


def test_dashes_reach_to_the_end_of_their_line(chart):
    drawing = draw_chart(chart)
    picture = np.asarray(to_picture(drawing, 2 * WIDTH).convert("L"), dtype=int)
    (mark, _) = [s for s in drawing.shapes if getattr(s, "kind", "") == "mark"]
    (x, top), (_, bottom) = mark.points
    column = picture[2 * round(top) : 2 * round(bottom), round(2 * x) - 1 : round(2 * x) + 2].min(axis=1)
    dark = np.nonzero(column < 225)[0]
    assert dark.min() < 20
    assert dark.max() > len(column) - 20
    assert 0.2 < (column < 225).mean() < 0.8
