"""What the graph tells about a run: the checkpoint's file name, and the workflow to keep in the file.

ComfyUI's frontend opens a graph from the `workflow` (or `prompt`) entry of a safetensors file's metadata.
"""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

LOADER_INPUTS = ("ckpt_name", "unet_name", "model_name")
MODEL_INPUTS = ("model", "unet", "model1")


def graph_metadata(prompt: Any, extra_pnginfo: Any) -> dict[str, str]:
    """Entries for the metadata of the LoRA file."""
    workflow = (extra_pnginfo or {}).get("workflow")
    entries = {"workflow": workflow, "prompt": prompt}
    return {name: json.dumps(graph, ensure_ascii=False) for name, graph in entries.items() if graph}


def workflow_id(extra_pnginfo: Any) -> str:
    """By which the canvas knows its graph; empty where it is not told, as for a prompt of the API."""
    workflow = (extra_pnginfo or {}).get("workflow")
    found = workflow.get("id") if isinstance(workflow, dict) else None
    return found if isinstance(found, str) else ""


def checkpoint_title(prompt: Any, node_id: str | None) -> str:
    """File name of the checkpoint that reaches the `model` input of a node, or "" if no loader tells.

    Args:
        prompt: graph in API format: node id -> class_type and inputs.
        node_id: the node that asks.
    """
    seen: set[str] = set()
    while prompt and node_id in prompt and node_id not in seen:
        seen.add(node_id)
        inputs: Mapping[str, Any] = prompt[node_id].get("inputs", {})
        for name in LOADER_INPUTS:
            if isinstance(inputs.get(name), str):
                return PurePosixPath(inputs[name].replace("\\", "/")).name
        links = [inputs[name] for name in MODEL_INPUTS if isinstance(inputs.get(name), list)]
        node_id = str(links[0][0]) if links else None
    return ""
