"""Workflow files as ComfyUI's API wants them, and a ComfyUI server that runs them."""

import json
import time
import urllib.error
import urllib.request

FRONTEND_ONLY = ("Note", "MarkdownNote")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SEEDS = ("seed", "noise_seed")


def api_prompt(workflow, object_info):
    """The graph that the frontend would queue for a saved workflow."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in FRONTEND_ONLY:
            continue
        wired = {i["name"]: links[i["link"]] for i in node["inputs"] if i["link"] is not None}
        values = widget_values(node, object_info[node["type"]])
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": {**values, **wired}}
    return prompt


def widget_values(node, info):
    """Names for the positional widgets_values of a saved node; every value must find its widget."""
    left = list(node.get("widgets_values") or [])
    named = {}
    for name, spec in [
        *info["input"].get("required", {}).items(),
        *info["input"].get("optional", {}).items(),
    ]:
        options = spec[1] if len(spec) > 1 else {}
        if not (isinstance(spec[0], list) or spec[0] in WIDGETS) or options.get("forceInput"):
            continue
        named[name] = left.pop(0)
        if options.get("control_after_generate", name in SEEDS):
            left.pop(0)
    assert not left, f"{node['type']}: no widget for {left}"
    return named


def stand_in_instead_of_checkpoint(prompt):
    """Swap every checkpoint loader for the test-only loader of the stand-in; the sockets are the same."""
    for node in prompt.values():
        if node["class_type"] == "CheckpointLoaderSimple":
            node |= {"class_type": "StandInLoader", "inputs": {}}
    return prompt


def node_of_defaults(object_info, class_type):
    """A node whose widgets are as it comes."""
    required = object_info[class_type]["input"].get("required", {})
    values = {}
    for name, (kind, *options) in required.items():
        default = options[0].get("default") if options else None
        values[name] = kind[0] if default is None and isinstance(kind, list) else default
    return {"class_type": class_type, "inputs": values}


def nodes_of(prompt, class_type):
    return [node["inputs"] for node in prompt.values() if node["class_type"] == class_type]


class Client:
    """Talks to one server over HTTP."""

    def __init__(self, server):
        self.server = server

    def get(self, path):
        with urllib.request.urlopen(f"{self.server.url}{path}", timeout=60) as answer:
            return json.load(answer)

    def post(self, path, content):
        data = json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.server.url}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode()}") from None
        return json.loads(text) if text else None

    def queue(self, prompt, workflow=None):
        """Queue a graph; its id."""
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        return self.post("/prompt", {"prompt": prompt, "extra_data": extra})["prompt_id"]

    def wait(self, prompt_id, seconds=400):
        """The history entry of a graph that has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.2)
        raise AssertionError(f"not done in {seconds} s:\n{self.server.last_words()}")

    def run(self, prompt, workflow=None):
        """Queue a graph and wait for its success."""
        ended = self.wait(self.queue(prompt, workflow))
        assert ended["status"]["status_str"] == "success", failure(ended)
        return ended


def failure(ended):
    errors = [m[1] for m in ended["status"]["messages"] if m[0] == "execution_error"]
    return "\n".join(f"{e['node_type']}: {e['exception_message']}\n{''.join(e['traceback'])}" for e in errors)


def texts(ended, node_id):
    return "".join(ended["outputs"][node_id]["text"])
