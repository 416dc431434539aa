"""The help page of each node: its sections, its picture, and that it quotes what the code really says."""

import ast
import json
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "web" / "docs"
PICTURES = DOCS / "pictures"
FROZEN = json.loads((ROOT / "tests" / "nodes" / "frozen_nodes.json").read_text("utf-8"))
FIRST, LAST = ("Connect", "Values that work"), ("What goes wrong", "Inputs", "Outputs")
MOST_BYTES = 60_000
ROOM_FOR_A_PICTURE = range(400, 1400)
"""Pixels of its width: more than the pane shows, so that it is sharp, and no more than dense screens show."""


def page_of(node):
    return (DOCS / f"{node}.md").read_text("utf-8")


def headings(page):
    return re.findall(r"^## (.+)$", page, flags=re.MULTILINE)


def section(page, title):
    return page.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def pictures_of(page):
    return re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page)


@pytest.fixture(scope="module")
def sentences():
    """Every text in the code, a value within it shown as a NUL."""
    found = []
    for file in [*(ROOT / "nodes").rglob("*.py"), *(ROOT / "trainer").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(p.value if isinstance(p, ast.Constant) else "\0" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_page_is_of_a_node():
    assert {path.stem for path in DOCS.glob("*.md")} == FROZEN.keys()


@pytest.mark.parametrize("node", FROZEN)
def test_a_page_tells_how_to_use_the_node_before_it_lists_its_inputs(node):
    page = page_of(node)
    titles = headings(page)
    assert titles[:2] == list(FIRST) and titles[-3:] == list(LAST)
    assert len(titles) == len(set(titles))
    assert page.startswith("# ") and page.count("\n# ") == 0
    for title in (*FIRST, "What goes wrong"):
        assert re.search(r"^- ", section(page, title), flags=re.MULTILINE), title


@pytest.mark.parametrize("node", FROZEN)
def test_a_page_has_one_picture_above_its_sections(node):
    page = page_of(node)
    ((words, place),) = pictures_of(page)
    assert place == f"pictures/{node}.webp"
    assert len(words) > 15
    assert page.index("![") < page.index("\n## ")
    with Image.open(DOCS / place) as picture:
        assert picture.format == "WEBP"
        assert picture.width in ROOM_FOR_A_PICTURE
    assert (DOCS / place).stat().st_size <= MOST_BYTES


def test_every_picture_is_shown_on_a_page():
    shown = {place for node in FROZEN for _, place in pictures_of(page_of(node))}
    assert {path.relative_to(DOCS).as_posix() for path in PICTURES.iterdir()} == shown


@pytest.mark.parametrize("node", FROZEN)
def test_the_picture_can_be_taken_anew(node):
    scenes = (ROOT / "tests" / "browser" / "help_scenes.py").read_text("utf-8")
    assert f'\n    "{node.removeprefix("SDXLTrainer_")}": ' in scenes


@pytest.mark.parametrize("node", FROZEN)
def test_what_a_page_quotes_is_what_the_code_says(node, sentences):
    for quoted in re.findall(r'\*\*"(.+?)"\*\*', page_of(node)):
        parts = [part for part in (piece.strip(" ,") for piece in quoted.split("...")) if part]
        said = [text for text in sentences if all(part in text for part in parts)]
        assert said, f"{node}: nothing says {quoted!r}"


@pytest.mark.parametrize("node", FROZEN)
def test_inputs_that_a_page_names_in_its_advice_exist(node):
    """A name in code marks is an input or output of some node, a choice, a value, a file or a package."""
    known = {name for frozen in FROZEN.values() for name in frozen["inputs"]}
    known |= {name for frozen in FROZEN.values() for name, _ in frozen["outputs"]}
    page = page_of(node)
    advice = "".join(section(page, title) for title in (*FIRST, "What goes wrong"))
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", advice))
    listed = set(re.findall(r"`([a-z_0-9]+)`", section(page, "Inputs"))) | {"web_style", "old_book_style"}
    assert named <= known | listed, named - known - listed
