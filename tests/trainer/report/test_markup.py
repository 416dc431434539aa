"""Whatever a text holds, it stays text."""

from xml.etree import ElementTree

import pytest
from sdxl_trainer.trainer.report.markup import Markup, element, escaped, joined

EVIL = "<script>alert('1')</script> & \"quoted\" \x00\x1b\ud800 漢字"


def test_texts_and_attributes_are_escaped_and_read_back_the_same():
    made = element("p", EVIL, title=EVIL, class_="a", stroke_width=2, alt=None)
    assert "<script" not in made
    read = ElementTree.fromstring(made)
    shown = EVIL.replace("\x00", "\ufffd").replace("\x1b", "\ufffd").replace("\ud800", "\ufffd")
    assert (read.text, read.get("title")) == (shown, shown)
    assert (read.get("class"), read.get("stroke-width"), read.get("alt")) == ("a", "2", None)
    made.encode("utf-8")


def test_markup_is_not_escaped_twice():
    inner = element("b", "a < b")
    assert element("p", inner, " & ") == "<p><b>a &lt; b</b> &amp; </p>"
    assert joined(inner, "<") == Markup("<b>a &lt; b</b>&lt;")
    assert escaped(escaped("&")) == "&amp;"


@pytest.mark.parametrize("tag", ["img", "meta"])
def test_elements_without_content_close_themselves(tag):
    assert element(tag, alt="x") == f'<{tag} alt="x"/>'
