"""Every shipped workflow opens in the frontend as it was saved, on the canvas and as Nodes 2.0."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
NAMES = sorted(file.name for file in FOLDER.glob("*.json"))
MODES = {"classic": False, "nodes-2": True}
RECTANGLES = """() => app.graph.nodes.map((node) => {
    const shown = document.querySelector(`[data-node-id="${node.id}"]`);
    if (!LiteGraph.vueNodesMode || !shown) {
        return [node.title, node.pos[0], node.pos[1] - 30, node.size[0], node.size[1] + 30];
    }
    const { scale, offset } = app.canvas.ds, box = shown.getBoundingClientRect();
    const place = app.canvas.canvas.getBoundingClientRect();
    const left = (box.left - place.left) / scale - offset[0], top = (box.top - place.top) / scale - offset[1];
    return [node.title, left, top, box.width / scale, box.height / scale];
})"""


@pytest.fixture(scope="module", params=MODES)
def page_in_mode(shared_page, request):
    shared_page.use_nodes_2(MODES[request.param])
    yield shared_page
    shared_page.use_nodes_2(False)


def overlaps(rectangles):
    """Titles of nodes that lie on one another, by more than a pixel or two of rounding."""
    found = []
    for index, (one, x, y, width, height) in enumerate(rectangles):
        for other, left, top, wide, high in rectangles[index + 1 :]:
            across = min(x + width, left + wide) - max(x, left)
            down = min(y + height, top + high) - max(y, top)
            if across > 2 and down > 2:
                found.append((one, other, round(across), round(down)))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_with_every_node_and_every_value(page_in_mode, workflows, shoot, name, request):
    page = page_in_mode
    saved = workflows[name]
    page.load(saved)
    page.fit()
    page.settle()
    shoot(page, f"{request.node.callspec.id}")
    assert (
        page.do("() => app.graph.nodes.filter((n) => !LiteGraph.registered_node_types[n.type]).length") == 0
    )
    now = {node["id"]: node for node in page.graph()["nodes"]}
    for node in saved["nodes"]:
        # as numbers: JavaScript writes 1 for 1.0
        assert (now[node["id"]].get("widgets_values") or []) == (node.get("widgets_values") or []), node[
            "type"
        ]
        assert now[node["id"]]["type"] == node["type"]
    if not page.is_early_nodes_2():
        assert overlaps(page.do(RECTANGLES)) == []


def test_values_and_wires_survive_saving_and_opening_again(page_in_mode, workflows):
    page = page_in_mode
    page.load(workflows[NAMES[0]])
    once = page.graph()
    page.load(once)
    again = page.graph()
    assert [n.get("widgets_values") for n in again["nodes"]] == [
        n.get("widgets_values") for n in once["nodes"]
    ]
    assert sorted(map(json.dumps, again["links"])) == sorted(map(json.dumps, once["links"]))
