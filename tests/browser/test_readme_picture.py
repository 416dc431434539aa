"""The picture at the top of the README: the example, trained to its end in the graph, 1600 px wide.

Runs only when pictures are asked for, as it trains for minutes. With SDXL_TRAINER_SCREENSHOTS=FOLDER it
writes FOLDER/training_in_comfyui.webp, which is assets/training_in_comfyui.webp.
"""

import os
from pathlib import Path

import pytest
from PIL import Image

FOLDER = os.environ.get("SDXL_TRAINER_SCREENSHOTS", "")
LOAD, TRAIN = "SDXLTrainer_LoadDataset", "SDXLTrainer_TrainSDXLLoRA"
STEPS, EVERY = 450, 50
PROMPT = "a large zorp on a blue background"
PROMPTS = f"{PROMPT}\na small zorp on a purple background"
WIDTH, EDGE, MOST_BYTES = 1600, 24, 300_000
PLACES = {
    "StandInLoader": (0, 0, 370, 80),
    LOAD: (0, 130, 370, 860),
    TRAIN: (420, 0, 480, 1080),
    "Prompt": (950, 0, 380, 120),
    "Negative prompt": (950, 170, 380, 100),
    "EmptyLatentImage": (950, 320, 380, 110),
    "KSampler": (950, 480, 380, 262),
    "VAEDecode": (950, 790, 380, 60),
    "SaveImage": (1380, 0, 400, 290),
    "Report of the run": (1380, 340, 400, 590),
    "SDXLTrainer_PreviewSettings": (950, 900, 380, 340),
}
"""Left, top, width and height of the nodes in the picture, by title or type; the others are taken out."""
LAY_OUT = """(places) => {
    for (const node of [...app.graph.nodes]) {
        const place = places[node.title] ?? places[node.type];
        if (!place) app.graph.remove(node);
        if (!place) continue;
        node.pos = [place[0], place[1]];
        node.setSize([place[2], Math.max(place[3], node.computeSize()[1])]);
        if (node.type === "StandInLoader") node.title = "Load Checkpoint (stand-in)";
    }
}"""
LOOK_IS_FRESH = """() => {
    const look = document.querySelector("[data-sdxl-trainer=dataset-look]");
    return look.dataset.busy === "false" && look.textContent.includes("= 150 epochs");
}"""
VIEW = """([width, edge]) => {
    document.querySelectorAll(".p-toast-close-button").forEach((button) => button.click());
    app.canvas.deselectAll?.();
    const { nodes } = app.graph;
    const right = Math.max(...nodes.map((node) => node.pos[0] + node.size[0]));
    const bottom = Math.max(...nodes.map((node) => node.pos[1] + node.size[1]));
    const scale = (width - 2 * edge) / right, left = 120, top = 180;
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset[0] = (left + edge) / scale;
    app.canvas.ds.offset[1] = (top + edge) / scale + 32;
    app.canvas.setDirty(true, true);
    const place = app.canvas.canvas.getBoundingClientRect();
    return { x: left + place.left, y: top + place.top, width, height: (bottom + 32) * scale + 2 * edge };
}"""


@pytest.mark.skipif(
    not FOLDER, reason="draws the README's picture: SDXL_TRAINER_SCREENSHOTS names no folder for it"
)
def test_the_example_is_trained_to_its_end(page, open_training):
    panel = open_training(page, "zorp", STEPS, preview_every=EVERY, prompts=PROMPTS)
    page.tab.set_viewport_size({"width": 1900, "height": 1500})
    page.change("SDXLTrainer_PreviewSettings", steps=20)
    learning = {"batch_size": 4, "learning_rate": 1.5e-3, "targets": "attention+ff+conv", "rank": 0}
    page.change(TRAIN, preset="character", **learning)
    page.change("KSampler", steps=20)
    page.do(
        "(text) => { app.graph.nodes.find((n) => n.title === 'Prompt').widgets[0].value = text; }", PROMPT
    )
    page.do(LAY_OUT, PLACES)
    page.queue()
    panel.wait_for_state("done", seconds=900)
    page.wait("() => app.graph.nodes.find((node) => node.type === 'SaveImage').imgs?.[0]?.naturalWidth > 0")
    panel.wait_for_pictures(STEPS // EVERY)
    page.do(VIEW, [WIDTH, EDGE])
    page.wait("() => document.querySelectorAll('.p-toast-message').length === 0")
    page.wait(LOOK_IS_FRESH)
    clip = page.do(VIEW, [WIDTH, EDGE])
    page.settle()
    file = Path(FOLDER) / "training_in_comfyui.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    page.tab.screenshot(path=str(file), clip=clip)
    with Image.open(file) as picture:
        assert picture.width == WIDTH
        picture.convert("RGB").save(file.with_suffix(".webp"), quality=90, method=6)
    assert file.with_suffix(".webp").stat().st_size <= MOST_BYTES
