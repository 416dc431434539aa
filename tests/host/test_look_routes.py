"""The routes of looks on a real server: right numbers, and a sentence for whatever is sent."""

import json
import shutil
import urllib.error
import urllib.request

import pytest

DATASET, SETTINGS = "/sdxl_trainer/looks/dataset", "/sdxl_trainer/looks/settings"
ZORP = {"folder": "input/zorp", "fields": {"repeats": 2, "resolution": 128}}


@pytest.fixture
def ask(server):
    """A function that posts bytes or JSON and gives (status, answer)."""

    def post(path, content, kind="application/json"):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        request = urllib.request.Request(f"{server.url}/api{path}", data, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    return post


def test_a_look_and_the_node_tell_the_same(ask, server, graphs):
    client = graphs.Client(server)
    info = client.get("/object_info")
    node = graphs.node_of_defaults(info, "SDXLTrainer_LoadDataset")
    node["inputs"] |= {"folder": ZORP["folder"], **ZORP["fields"]}
    prompt = {"1": node, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 2]}}}
    report = graphs.texts(client.run(prompt), "2")
    status, look = ask(DATASET, ZORP)
    assert status == 200
    assert look["report"] == report
    assert look["samples"] == 2 * look["count"] == sum(n for _, _, n in look["buckets"])


def test_settings_are_counted_with_the_dataset_that_is_wired(ask):
    body = {"preset": "person", "widgets": {"steps": 240, "rank": 8}, "settings": {}, "dataset": ZORP}
    status, look = ask(SETTINGS, body)
    count = ask(DATASET, ZORP)[1]["count"]
    assert status == 200
    assert f"{count} pictures, {2 * count} samples an epoch / batch 1" in look["arithmetic"]
    assert (look["steps"], look["epochs"]) == (240, round(240 / (2 * count), 1))
    assert f"240 steps = {look['epochs']:g} epochs" in look["arithmetic"].replace(".0 epochs", " epochs")
    assert {"setting": "rank", "value": "8", "origin": "node", "kind": "widget"} in look["rows"]


def test_the_steps_of_joined_datasets_are_those_of_both_together(ask):
    parts = [ZORP, {"folder": "input/zorp", "fields": {"repeats": 3, "resolution": 64}}]
    body = {"preset": "person", "widgets": {"epochs": 2}, "settings": {}, "dataset": parts}
    look = ask(SETTINGS, body)[1]
    looked_at = [ask(DATASET, part)[1] for part in parts]
    assert look["numbers"]["pictures"] == sum(part["count"] for part in looked_at)
    assert look["numbers"]["samples"] == sum(part["samples"] for part in looked_at)
    assert look["numbers"]["an_epoch"] == sum(part["steps"] for part in looked_at)
    assert look["steps"] == 2 * look["numbers"]["an_epoch"]


def test_settings_are_told_without_a_dataset_that_can_be_read(ask):
    for dataset in (None, {"folder": "input/nothing", "fields": {}}):
        status, look = ask(SETTINGS, {"preset": "style", "widgets": {}, "dataset": dataset})
        assert status == 200
        assert look["arithmetic"] == ""
        assert look["rows"]
        assert ("dataset_error" in look) is (dataset is not None)


@pytest.mark.parametrize(
    "folder", ["input/nothing", "input/../..", "../..", "/etc", "input", "datasets", "input/zorp/../zorp"]
)
def test_no_folder_but_those_of_the_menu_is_looked_at(ask, base_directory, folder):
    status, answer = ask(DATASET, {"folder": folder, "fields": {}})
    assert status == 200
    assert answer.keys() == {"error", "is_missing"}
    assert "press R" in answer["error"]
    assert str(base_directory) not in answer["error"]


def test_a_folder_that_cannot_be_used_is_named_and_not_placed(ask, base_directory, example_folder):
    broken = base_directory / "input" / "broken"
    broken.mkdir(exist_ok=True)
    (broken / "one.png").write_bytes(b"no picture")
    status, answer = ask(DATASET, {"folder": "input/broken", "fields": {}})
    shutil.rmtree(broken)
    assert status == 200
    assert "'input/broken'" in answer["error"]
    assert str(base_directory) not in answer["error"]


@pytest.mark.parametrize("path", [DATASET, SETTINGS])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b"[" * 30_000, 400),
        (b'{"preset": "person", "widgets": {"steps": 1' + b"0" * 5000 + b"}}", 400),
        ({}, 400),
        ({"folder": 3, "preset": 3}, 400),
        ({"folder": "input/zorp", "fields": {"colour": 1}, "preset": "person", "widgets": {"x": 1}}, 400),
        (
            {"folder": "input/zorp", "fields": {"flip": "yes"}, "preset": "person", "widgets": {"rank": "4"}},
            400,
        ),
        ({**ZORP, "preset": "person", "asker": 7}, 400),
        ({"folder": "x" * 70_000, "preset": "x" * 70_000}, 413),
    ],
)
def test_what_is_malformed_gets_a_sentence(ask, base_directory, path, content, expected):
    if path == SETTINGS and isinstance(content, dict) and "asker" in content:
        content = {"preset": "person", "widgets": {}, "dataset": ZORP, "asker": 7}
    status, answer = ask(path, content)
    assert status == expected
    assert answer["error"]
    assert str(base_directory) not in answer["error"]


@pytest.mark.parametrize("path", [DATASET, SETTINGS])
def test_a_form_of_another_site_is_not_taken(ask, path):
    assert ask(path, json.dumps({**ZORP, "preset": "person"}).encode(), "text/plain")[0] == 400
