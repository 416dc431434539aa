"""The shipped workflow in a real ComfyUI teaches the stand-in a creature it could not draw, and no more.

The quickstart does just that, so its own steps are taken here: train through POST /prompt, then draw each
prompt with the plain model and with the file in core's LoraLoader. `assets/stand_in/read.py` measures.
"""

import importlib
import json
import statistics
import sys

import pytest
from PIL import Image

SHOWS_A_ZORP = 0.5  # of 1.0, which is how draw.py draws one; pictures without one score below 0.1
UNRELATED = "a large red star on a white background"


@pytest.fixture(scope="module")
def rooms(pack_folder):
    """(quickstart, comfy_queue, read): scripts of the repository, which are in no package."""
    places = [str(pack_folder), str(pack_folder / "assets" / "stand_in")]
    sys.path[:0] = places
    yield tuple(importlib.import_module(name) for name in ("quickstart", "comfy_queue", "read"))
    sys.path[:] = [place for place in sys.path if place not in places]


def test_the_sampled_pictures_show_the_concept_and_an_unrelated_prompt_its_own(
    rooms, server, example_folder, base_directory
):
    quickstart, comfy_queue, read = rooms
    options = quickstart.parse(["--name", "concept", "--output", str(base_directory)])
    plan = quickstart.read_plan(options)
    assert UNRELATED in plan.prompts
    workflow = json.loads(quickstart.WORKFLOW.read_text("utf-8"))
    graph = comfy_queue.to_prompt(workflow, comfy_queue.get_json(f"{server.url}/object_info"))
    prompt = quickstart.adapt(graph, plan)
    for node in prompt.values():
        if node["class_type"] == "SDXLTrainer_LoadDataset":
            node["inputs"]["folder"] = "input/zorp"  # as the fixture calls it
    mark = len(server.log.read_text())

    ended = comfy_queue.run_prompt(server.url, prompt, lambda *_: None, workflow)
    lora_name = ended["outputs"][quickstart.LORA_NAME_NODE]["text"][0]
    drawn = [Image.open(path) for path in quickstart.draw_before_and_after(server, plan, lora_name)]

    assert "lora key not loaded" not in server.log.read_text()[mark:]
    rows = dict(zip(plan.prompts, zip(drawn[::2], drawn[1::2], strict=True), strict=True))
    own_before, own_after = rows.pop(UNRELATED)
    before, after = ([read.zorp_score(pair[i]) for pair in rows.values()] for i in (0, 1))
    assert max(before) < 0.1
    assert statistics.mean(after) > SHOWS_A_ZORP, after
    assert read.zorp_score(own_after) < 0.1
    assert read.read_scene(own_after) == read.read_scene(own_before)
    assert read.read_scene(own_after).caption == UNRELATED
