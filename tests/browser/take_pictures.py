"""Takes the pictures of the help pages anew, each node as it is usually wired; run by hand, no test.

    PYTHON tests/browser/take_pictures.py [NODE ...]

with the Python of the host tests (`.venv-ComfyUI-...`), which has ComfyUI's packages and playwright. Without
names, all pictures are taken. They go to web/docs/pictures.
"""

import argparse
import io
import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from comfy_page import ComfyPage, open_chromium, quiet_settings  # noqa: E402
from help_scenes import SCENES  # noqa: E402

from environment import find_chromium, find_comfyui, start_comfyui  # noqa: E402

PICTURES = ROOT / "web" / "docs" / "pictures"
STAND_IN_PACK = ROOT / "tests" / "host" / "stand_in_pack"
MOST_BYTES = 60_000
QUALITIES = (85, 75, 65, 55)
WINDOW = {"width": 1600, "height": 2200}
SHARPNESS = 1.5
"""Pixels of the picture for each of the canvas: legible on dense screens too."""
RUN_SECONDS = 300

NEIGHBOURS = {
    "SDXLTrainer_LoadDataset": {"folder": "input/zorp", "resolution": 128, "trigger": "zorp"},
    "SDXLTrainer_PreviewSettings": {
        "prompts": "a large zorp on a blue background\na large red star on a white background",
        "preview_every": 20,
        "steps": 8,
    },
}
"""Node around another -> its widgets, for graphs that are run."""

BUILD = """({ type, before, after, values, neighbours }) => {
    const graph = app.graph;
    graph.clear();
    // the page remembers widgets by the node's id, also those of nodes that are gone
    graph.last_node_id = window.lastScene = (window.lastScene ?? 0) + 100;
    const around = new Map();
    const add = (name) => {
        const node = LiteGraph.createNode(name.trim());
        graph.add(node);
        return node;
    };
    const neighbour = (side, name) => {
        if (!around.has(side + name)) around.set(side + name, add(name));
        return around.get(side + name);
    };
    const change = (node, given) => {
        for (const widget of node.widgets ?? []) {
            if (!(widget.name in given)) continue;
            widget.value = given[widget.name];
            widget.callback?.(widget.value, app.canvas, node);
        }
    };
    const place = (slots, name) => {
        const found = slots.findIndex((slot) => slot.name === name);
        if (found < 0) throw new Error(`${type} or a neighbour has no ${name}`);
        return found;
    };
    const main = add(type);
    change(main, values);
    for (const [name, theirs, ours] of before) {
        const node = neighbour("<", name);
        node.connect(place(node.outputs, theirs), main, place(main.inputs, ours));
    }
    for (const [name, theirs, ours] of after) {
        const node = neighbour(">", name);
        main.connect(place(main.outputs, ours), node, place(node.inputs, theirs));
    }
    main.pos = [0, 0];
    main.setSize([280, main.computeSize()[1]]);
    for (const node of around.values()) {
        if (node.type === "StandInLoader") node.title = "Load Checkpoint";
        if (node.type === "CLIPTextEncode") node.title = "Prompt";
        change(node, neighbours[node.type] ?? {});
        node.setSize([240, node.size[1]]); // no collapsed node is wider than it is open
        node.collapse(true);
    }
    window.scene = { main, around };
}"""
FRAME = """() => {
    const { main, around } = window.scene;
    const gap = 30, step = 46, margin = 12, title = LiteGraph.NODE_TITLE_HEIGHT;
    const wide = (node) => node._collapsed_width || 140;
    const rows = { "<": 0, ">": 0 };
    let left = 0, right = main.size[0];
    for (const [key, node] of around) {
        const side = key[0];
        node.pos = [side === "<" ? -gap - wide(node) : main.size[0] + gap, rows[side]++ * step];
        left = Math.min(left, node.pos[0]);
        right = Math.max(right, node.pos[0] + wide(node));
    }
    const bottom = Math.max(main.size[1], ...Object.values(rows).map((count) => (count - 1) * step));
    const view = app.canvas.ds;
    view.scale = 1;
    view.offset[0] = 150 - left;
    view.offset[1] = 130 + title;
    app.canvas.setDirty(true, true);
    const canvas = app.canvas.canvas.getBoundingClientRect();
    return {
        x: canvas.x + 150 - margin,
        y: canvas.y + 130 - margin,
        width: right - left + 2 * margin,
        height: bottom + title + 2 * margin,
    };
}"""
IS_DONE = """async () => {
    const queue = await (await fetch("/queue")).json();
    const history = await (await fetch("/history?max_items=1")).json();
    return !queue.queue_running.length && !queue.queue_pending.length && Object.keys(history).length > 0;
}"""


def wait_until_done(page):
    deadline = time.monotonic() + RUN_SECONDS
    while not page.do(IS_DONE):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the graph was not done in {RUN_SECONDS} s")
        page.tab.wait_for_timeout(500)


def take(page, name):
    """The picture of a node, as PNG bytes."""
    scene = SCENES[name]
    asked = {
        "type": f"SDXLTrainer_{name}",
        "before": scene.before,
        "after": scene.after,
        "values": scene.values,
        "neighbours": NEIGHBOURS,
    }
    page.do(BUILD, asked)
    if scene.is_run:
        page.do("() => app.queuePrompt(0, 1)")
        wait_until_done(page)
    page.do(FRAME)
    page.tab.wait_for_timeout(2500)  # pictures of a panel are fetched
    frame = page.do(FRAME)  # again: titles are measured when they are drawn, and a panel may have grown
    page.settle()
    return page.tab.screenshot(clip=frame)


def save(png, place):
    """Write as WebP, in the best quality that is small enough."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for quality in QUALITIES:
        written = io.BytesIO()
        picture.save(written, "WEBP", quality=quality, method=6)
        if written.tell() <= MOST_BYTES:
            break
    place.write_bytes(written.getvalue())
    return f"{place.name}: {picture.width} x {picture.height}, {written.tell() / 1000:.0f} kB"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="nodes, such as LoadDataset; default: all")
    names = parser.parse_args().names or list(SCENES)
    if unknown := set(names) - set(SCENES):
        parser.error(f"no such node: {', '.join(sorted(unknown))}; there are {', '.join(SCENES)}")
    comfy = find_comfyui()[-1]  # the newest by its folder's name
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        shutil.copytree(ROOT / "assets" / "example_dataset", base / "input" / "zorp")
        quiet_settings(base)
        with (
            start_comfyui(comfy, Path(sys.executable), base, [STAND_IN_PACK]) as server,
            open_chromium(find_chromium()) as browser,
        ):
            tab = browser.new_page(viewport=WINDOW, device_scale_factor=SHARPNESS)
            page = ComfyPage(tab, server.url)
            page.open(**{"Comfy_NodeBadge_NodeSourceBadgeMode": "None"})
            for name in names:
                sys.stdout.write(save(take(page, name), PICTURES / f"SDXLTrainer_{name}.webp") + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
