"""The shipped workflow files themselves: what they are made of, that they hold together, and how they lie."""

import itertools
import json
import re
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image
from sdxl_trainer.trainer.config import SECTIONS, DatasetConfig, Resume
from sdxl_trainer.trainer.settings.augment_config import AugmentConfig
from sdxl_trainer.trainer.settings.caption_variants_config import CaptionVariantsConfig
from sdxl_trainer.trainer.settings.captioner_config import GenerationConfig
from sdxl_trainer.trainer.settings.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "workflows").glob("*.json"))
FROZEN = json.loads((ROOT / "tests" / "nodes" / "frozen_nodes.json").read_text("utf-8"))
CORE = {
    "CheckpointLoaderSimple",
    "CLIPTextEncode",
    "EmptyLatentImage",
    "ImageStitch",
    "KSampler",
    "LoraLoader",
    "MarkdownNote",
    "PreviewAny",
    "PreviewImage",
    "PrimitiveStringMultiline",
    "SaveImage",
    "VAEDecode",
}
"""Nodes that come with ComfyUI 0.3.64 and with every newer one."""
SETTINGS = {
    **{f"SDXLTrainer_{kind.__name__.replace('Config', 'Settings')}": kind for kind in SECTIONS.values()},
    "SDXLTrainer_LoadDataset": DatasetConfig,
    "SDXLTrainer_AugmentDataset": AugmentConfig,
    "SDXLTrainer_CaptionVariants": CaptionVariantsConfig,
    "SDXLTrainer_CaptionerSettings": GenerationConfig,
}
"""Node -> what its widgets make, which refuses values out of range."""
WIDGET_KINDS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
FORCED = {("SDXLTrainer_ImagesToDataset", "captions")}
"""Texts that come over a wire only."""
SIDE = 384
"""Both sides of a thumbnail: the template browser shows a square, of up to 300 pixels."""
TITLE = 30
"""Height of a node's title bar, above its `pos`."""


@pytest.fixture(params=FILES, ids=[path.stem for path in FILES])
def path(request):
    return request.param


@pytest.fixture
def workflow(path):
    return json.loads(path.read_text("utf-8"))


def widgets_of(kind):
    return {
        name: (widget, default)
        for name, (widget, default) in FROZEN[kind]["inputs"].items()
        if widget in WIDGET_KINDS and (kind, name) not in FORCED
    }


def test_every_thumbnail_belongs_to_a_workflow():
    pictures = {path.stem for path in (ROOT / "workflows").glob("*.jpg")}
    assert pictures == {path.stem for path in FILES}
    assert {path.suffix for path in (ROOT / "workflows").iterdir()} == {".json", ".jpg"}


def test_the_thumbnail_has_the_size_that_the_template_browser_shows(path):
    picture = path.with_suffix(".jpg")
    with Image.open(picture) as opened:
        assert (opened.format, opened.size, opened.mode) == ("JPEG", (SIDE, SIDE), "RGB")
    assert picture.stat().st_size < 50_000


def test_it_has_no_id_so_that_every_copy_gets_its_own(workflow):
    """With one, the runs of a copy would show in every other copy of the same file."""
    assert "id" not in workflow
    assert "id" not in workflow["extra"]


def test_only_core_nodes_and_our_own_are_used(workflow):
    kinds = {node["type"] for node in workflow["nodes"]}
    assert kinds - CORE <= FROZEN.keys()
    assert kinds & FROZEN.keys()


def test_a_note_says_what_to_change_in_steps(workflow):
    (note,) = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    (text,) = note["widgets_values"]
    assert text.startswith("## ") and "\n1. " in text and "\n2. " in text


def test_every_widget_of_our_nodes_has_a_value_of_its_kind(workflow):
    kinds = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool, "COMBO": str}
    for node in workflow["nodes"]:
        if node["type"] not in FROZEN:
            continue
        widgets = widgets_of(node["type"])
        values = node["widgets_values"]
        assert len(values) == len(widgets), node["type"]
        for (name, (kind, _)), value in zip(widgets.items(), values, strict=True):
            assert isinstance(value, kinds[kind]), (node["type"], name, value)
            assert isinstance(value, bool) == (kind == "BOOLEAN"), (node["type"], name, value)


def test_settings_that_a_workflow_holds_are_accepted(workflow):
    for node in workflow["nodes"]:
        if node["type"] not in FROZEN:
            continue
        values = dict(zip(widgets_of(node["type"]), node["widgets_values"], strict=True))
        values.pop("folder", None)
        assert values.get("preset", "person") in PRESETS
        assert values.get("resume", "auto") in get_args(Resume)
        if node["type"] in SETTINGS:
            SETTINGS[node["type"]](**values)


def test_ids_and_links_are_consistent(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link for link in workflow["links"]}
    assert len(nodes) == len(workflow["nodes"]) and len(links) == len(workflow["links"])
    assert workflow["last_node_id"] >= max(nodes) and workflow["last_link_id"] >= max(links)
    for number, source, output, target, entry, kind in links.values():
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][entry]["link"] == number
        assert nodes[source]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][entry]["type"] in (kind, "*")
    said = [number for node in nodes.values() for slot in node["outputs"] for number in slot["links"] or ()]
    heard = [slot["link"] for node in nodes.values() for slot in node["inputs"] if slot["link"] is not None]
    assert sorted(said) == sorted(heard) == sorted(links)


def test_every_socket_of_our_nodes_is_one_that_they_have(workflow):
    for node in workflow["nodes"]:
        if node["type"] in FROZEN:
            frozen = FROZEN[node["type"]]
            assert {slot["name"] for slot in node["inputs"]} <= frozen["inputs"].keys()
            kinds = [kind for _, kind in frozen["outputs"]]
            assert [slot["type"] for slot in node["outputs"]] == kinds[: len(node["outputs"])]


def test_no_node_lies_over_another(workflow):
    boxes = {
        f"{node['id']} {node['type']}": (
            node["pos"][0],
            node["pos"][1] - TITLE,
            node["pos"][0] + node["size"][0],
            node["pos"][1] + node["size"][1],
        )
        for node in workflow["nodes"]
    }
    for (name, a), (other, b) in itertools.combinations(boxes.items(), 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{name} lies over {other}"


def test_the_large_nodes_have_room_for_what_shows_on_them(workflow):
    rooms = {
        "SDXLTrainer_LoadDataset": 780,
        "SDXLTrainer_TrainSDXLLoRA": 1050,
        "SDXLTrainer_PivotalTuning": 1100,
    }
    for node in workflow["nodes"]:
        assert node["size"][1] >= rooms.get(node["type"], 0), node["type"]


def test_it_opens_at_a_readable_zoom_at_its_note(workflow):
    view = workflow["extra"]["ds"]
    (note,) = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    assert 0.6 <= view["scale"] <= 1
    left, top = ((note["pos"][n] + view["offset"][n]) * view["scale"] for n in (0, 1))
    assert 70 <= left <= 200 and 90 <= top <= 250  # beside the sidebar, below the tabs


def test_no_file_holds_a_path_of_a_machine(path):
    text = path.read_text("utf-8")
    assert not re.search(r"/(home|root|Users|tmp|work|mnt)/|[A-Za-z]:\\\\", text)
