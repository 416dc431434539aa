"""The shipped workflows about pictures and captions, through POST /prompt of a real ComfyUI."""

import json
import shutil

import pytest

MODEL = "workflow-blip"


@pytest.fixture
def opened(server, graphs, pack_folder):
    """A function that opens a shipped workflow on the example pictures: (client, prompt, ids by title)."""
    client = graphs.Client(server)

    def open_workflow(name):
        workflow = json.loads((pack_folder / "workflows" / name).read_text("utf-8"))
        prompt = graphs.api_prompt(workflow, client.get("/object_info"))
        (dataset,) = graphs.nodes_of(prompt, "SDXLTrainer_LoadDataset")
        dataset |= {"folder": "input/zorp", "resolution": 128, "bucket_step": 32, "trigger": "zorp"}
        titles = {node["title"]: str(node["id"]) for node in workflow["nodes"] if "title" in node}
        return client, prompt, titles

    return open_workflow


@pytest.fixture
def model(base_directory, tiny_captioners):
    folder = base_directory / "models" / "captioners" / MODEL
    folder.mkdir(parents=True)
    tiny_captioners.write_tiny_blip(folder)
    yield MODEL
    shutil.rmtree(folder)


def test_a_dataset_is_checked_without_a_model(opened, graphs):
    client, prompt, titles = opened("check_a_dataset.json")
    ended = client.run(prompt)
    assert "12 pictures looked at" in graphs.texts(ended, titles["The doctor's report"])
    assert "zorp" in graphs.texts(ended, titles["Captions as they will be read"])
    for sheet in ("Looks of some pictures", "The doctor's sheet"):
        assert len(ended["outputs"][titles[sheet]]["images"]) == 1


def test_a_folder_is_captioned_and_nothing_is_written_into_it(opened, graphs, model, base_directory):
    client, prompt, titles = opened("caption_a_folder.json")
    (caption,) = graphs.nodes_of(prompt, "SDXLTrainer_CaptionImages")
    caption |= {"captioner": model, "if_exists": "append"}
    before = {path.name: path.read_bytes() for path in (base_directory / "input" / "zorp").iterdir()}
    ended = client.run(prompt)
    assert f"pictures captioned by {model}: 12 now" in graphs.texts(ended, titles["What was done"])
    assert len(ended["outputs"][titles["The pictures with their captions"]]["images"]) == 1
    after = {path.name: path.read_bytes() for path in (base_directory / "input" / "zorp").iterdir()}
    assert after == before


def test_a_captioner_that_is_not_there_says_how_to_get_it(opened, graphs):
    client, prompt, _ = opened("caption_a_folder.json")
    (caption,) = graphs.nodes_of(prompt, "SDXLTrainer_CaptionImages")
    caption |= {"if_exists": "overwrite"}
    said = graphs.failure(client.wait(client.queue(prompt)))
    assert "blip-image-captioning-large" in said and "download" in said
