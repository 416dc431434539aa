"""What the graph tells: the checkpoint's name through any chain of model nodes, and the workflow itself."""

import json

import pytest


@pytest.fixture
def graph_metadata():
    from sdxl_trainer.nodes import graph_metadata

    return graph_metadata


PROMPT = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl/best\\model.safetensors"}},
    "2": {"class_type": "LoraLoader", "inputs": {"model": ["1", 0], "lora_name": "x.safetensors"}},
    "3:1": {"class_type": "SDXLTrainer_TrainSDXLLoRA", "inputs": {"model": ["2", 0]}},
}


def test_the_checkpoint_is_found_behind_other_model_nodes(graph_metadata):
    assert graph_metadata.checkpoint_title(PROMPT, "3:1") == "model.safetensors"


def test_a_graph_without_loader_or_with_a_loop_gives_no_title(graph_metadata):
    assert graph_metadata.checkpoint_title(None, None) == ""
    loop = {"1": {"inputs": {"model": ["1", 0]}}}
    assert graph_metadata.checkpoint_title(loop, "1") == ""


def test_workflow_and_prompt_become_json_texts(graph_metadata):
    entries = graph_metadata.graph_metadata(PROMPT, {"workflow": {"nodes": []}})
    assert {name: json.loads(text) for name, text in entries.items()} == {
        "workflow": {"nodes": []},
        "prompt": PROMPT,
    }
    assert graph_metadata.graph_metadata(PROMPT, None).keys() == {"prompt"}


def test_the_canvas_graph_is_named_where_it_has_an_id(graph_metadata):
    assert graph_metadata.workflow_id({"workflow": {"id": "graph-7", "nodes": []}}) == "graph-7"
    for untold in (None, {}, {"workflow": None}, {"workflow": []}, {"workflow": {}}, {"workflow": {"id": 7}}):
        assert graph_metadata.workflow_id(untold) == ""
