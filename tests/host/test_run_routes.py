"""The panel's routes and events in a running ComfyUI: a run is watched, paused, asked, ended from outside."""

import contextlib
import importlib.util
import itertools
import json
import threading
import time
import urllib.error
import urllib.request

import pytest

TRAIN = "SDXLTrainer_TrainSDXLLoRA"
PATIENCE = 300


class Watched:
    """What one browser hears of runs."""

    def __init__(self, comfy_queue, url):
        self.heard = []
        self._events = comfy_queue.Events(url, "a-browser")
        self._ends = (comfy_queue.QueueError, OSError)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        with contextlib.suppress(*self._ends):
            for event in self._events:
                if event.get("type") == "sdxl_trainer.run":
                    self.heard.append((time.monotonic(), event["data"]))

    def states(self, prompt):
        return [data for _, data in self.heard if data["prompt"] == prompt]

    def until(self, prompt, condition):
        """The first state of this prompt's run for which the condition holds."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for state in self.states(prompt):
                if condition(state):
                    return state
            time.sleep(0.05)
        raise AssertionError(f"not seen: {self.states(prompt)[-1:]}")


@pytest.fixture
def client(server, graphs):
    return graphs.Client(server)


@pytest.fixture
def watched(server, pack_folder):
    spec = importlib.util.spec_from_file_location("comfy_queue", pack_folder / "comfy_queue.py")
    comfy_queue = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(comfy_queue)
    return Watched(comfy_queue, server.url)


@pytest.fixture
def training(client, graphs, pack_folder):
    """(prompt, workflow) that trains and nothing else."""

    def make(name, **changes):
        ui = json.loads((pack_folder / "workflows" / "train_and_sample.json").read_text()) | {"id": "graph-7"}
        prompt = graphs.stand_in_instead_of_checkpoint(graphs.api_prompt(ui, client.get("/object_info")))
        (dataset,) = graphs.nodes_of(prompt, "SDXLTrainer_LoadDataset")
        dataset |= {"folder": "input/zorp", "resolution": 128, "trigger": "zorp"}
        wanted = [key for key, node in prompt.items() if node["class_type"] == TRAIN]
        for key in wanted:
            wires = [value[0] for value in prompt[key]["inputs"].values() if isinstance(value, list)]
            wanted += [wire for wire in wires if wire not in wanted]
        (train,) = graphs.nodes_of(prompt, TRAIN)
        train |= {"name": name, "steps": 6, "rank": 4, **changes}
        return {key: prompt[key] for key in wanted}, ui

    return make


def with_settings(client, prompt, name, **changes):
    info = client.get("/object_info")[f"SDXLTrainer_{name}Settings"]["input"]["required"]
    values = {widget: options["default"] for widget, (_, options) in info.items()}
    prompt[name] = {"class_type": f"SDXLTrainer_{name}Settings", "inputs": {**values, **changes}}
    train = next(node for node in prompt.values() if node["class_type"] == TRAIN)
    train["inputs"][f"{name.lower()}_settings"] = [name, 0]


def fetch(server, path, body=None, kind="application/json"):
    """(status, headers, bytes)"""
    headers = {"Content-Type": kind} if body is not None else {}
    request = urllib.request.Request(f"{server.url}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def wish(client, run, what):
    state = client.post(f"/sdxl_trainer/runs/{run['id']}/wishes", {"wish": what})
    assert state["id"] == run["id"]
    return state


def metrics(base_directory, name):
    lines = (base_directory / "output" / "sdxl_trainer" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_is_told_as_it_goes_and_a_page_that_is_loaded_later_shows_the_same(
    server, client, watched, training, base_directory
):
    prompt, ui = training("told", steps=8)
    with_settings(client, prompt, "Preview", prompts="a zorp\na cat", steps=2, preview_every=4)
    with_settings(client, prompt, "Validation", validation_share=0.2, validate_every=4)
    queued = client.queue(prompt, ui)
    ended = client.wait(queued)
    assert ended["status"]["status_str"] == "success"
    last = watched.until(queued, lambda state: state["state"] == "done")
    times = [moment for moment, _ in watched.heard]
    assert all(b - a > 0.9 for a, b in zip(times, times[5:], strict=False))  # five intervals of a fourth
    states = watched.states(queued)
    revisions = [state["revision"] for state in states]
    assert revisions == list(range(1, len(states) + 1))
    order = [key for key, _ in itertools.groupby(state["state"] for state in states)]
    assert (order[0], order[-1]) == ("preparing", "done")
    assert "training" in order
    (train_id,) = [key for key, node in prompt.items() if node["class_type"] == TRAIN]
    assert {(s["node"], s["workflow"], s["id"]) for s in states} == {(train_id, "graph-7", last["id"])}
    full = client.get(f"/sdxl_trainer/runs/{last['id']}")
    heard = {"step": [], "loss": [], "learning_rate": []}
    for state in states:
        for name, values in state["points"].items():
            heard[name] += values
    assert {name: full["history"][name] for name in heard} == heard
    assert heard["step"] == list(range(1, 9))
    for part in ("validation", "checkpoints", "previews"):
        assert full[part] == [state[part] for state in states if part in state][-1]
    assert full["validation"]["step"] == [0, 4, 8]
    assert full["previews"] == {"prompts": ["a zorp", "a cat"], "steps": [0, 4, 8]}
    assert {"step": 8, "file": "told.safetensors"} in full["checkpoints"]
    last.pop("points")
    assert {key: full[key] for key in last} == last
    assert (last["lora_file"], last["trigger_words"]) == ("told.safetensors", "zorp")
    assert last["memory"]["used"] > 0
    assert client.get("/api/sdxl_trainer/runs")["runs"][0]["id"] == last["id"]
    assert_routes_name_no_folder(server, full, states, base_directory)


def assert_routes_name_no_folder(server, full, states, base_directory):
    run = f"/sdxl_trainer/runs/{full['id']}"
    answers = [json.dumps(states).encode()]
    for path in ("/sdxl_trainer/runs", run, f"{run}/pictures/9/0", f"{run}/report"):
        answers.append(fetch(server, path)[2])
    for body in (b"{", b'{"wish": "pause"}'):
        answers.append(fetch(server, f"{run}/wishes", body)[2])
    assert all(str(base_directory).encode() not in answer for answer in answers)
    for step, index in itertools.product((0, 4, 8), (0, 1)):
        status, headers, picture = fetch(server, f"{run}/pictures/{step}/{index}")
        assert (status, headers["Cache-Control"], picture[1:4]) == (200, "no-cache", b"PNG")
        status, headers, picture = fetch(server, f"{run}/pictures/{step}/{index}?small=1")
        assert (status, headers["Cache-Control"], picture[:2]) == (200, "no-cache", b"\xff\xd8")
    if full["has_report"]:
        assert "sandbox" in fetch(server, f"{run}/report")[1]["Content-Security-Policy"]


def test_a_graph_that_is_cached_makes_no_run(client, watched, training):
    prompt, ui = training("told")
    client.run(prompt, ui)
    before = client.get("/sdxl_trainer/runs")["runs"]
    client.run(prompt, ui)
    assert [s["id"] for s in client.get("/sdxl_trainer/runs")["runs"]] == [s["id"] for s in before]


def test_a_run_is_paused_drawn_saved_and_ended_on_a_wish(client, watched, training, base_directory):
    prompt, ui = training("asked", steps=4000)
    queued = client.queue(prompt, ui)
    run = watched.until(queued, lambda state: state["step"] >= 2)
    assert set(run["can"]) == {"finish", "pause", "sample", "save"}
    assert wish(client, run, "pause")["can"][1] == "go_on"
    paused = watched.until(queued, lambda state: state["state"] == "paused")
    time.sleep(1.5)
    assert watched.states(queued)[-1]["step"] == paused["step"]
    assert len(metrics(base_directory, "asked")) == paused["step"]
    wish(client, run, "sample")
    drawn = watched.until(queued, lambda state: state.get("previews", {}).get("steps"))
    assert drawn["previews"]["steps"] == [paused["step"]]
    wish(client, run, "save")
    saved = watched.until(queued, lambda state: state.get("checkpoints"))
    assert saved["checkpoints"][0]["file"] == f"asked-step{paused['step']:06d}.safetensors"
    assert watched.states(queued)[-1]["step"] == paused["step"]
    wish(client, run, "go_on")
    later = watched.until(queued, lambda state: state["step"] >= paused["step"] + 2)
    assert later["state"] == "training"
    wish(client, run, "finish")
    ended = client.wait(queued)
    assert ended["status"]["status_str"] == "success"
    done = watched.until(queued, lambda state: state["state"] == "done")
    assert paused["step"] + 2 <= done["step"] < 4000
    assert len(metrics(base_directory, "asked")) == done["step"]
    assert (base_directory / "models" / "loras" / "asked.safetensors").exists()
    with pytest.raises(AssertionError, match="has ended"):
        wish(client, run, "pause")


def test_a_paused_run_can_be_cancelled_and_goes_on_when_it_is_queued_again(
    client, watched, training, base_directory
):
    prompt, ui = training("halted", steps=4000)
    queued = client.queue(prompt, ui)
    run = watched.until(queued, lambda state: state["step"] >= 1)
    wish(client, run, "pause")
    paused = watched.until(queued, lambda state: state["state"] == "paused")
    client.post("/interrupt", {})
    ended = client.wait(queued)
    assert "execution_interrupted" in [message[0] for message in ended["status"]["messages"]]
    cancelled = watched.until(queued, lambda state: state["state"] == "cancelled")
    kept = f"halted-step{paused['step']:06d}.safetensors"
    assert cancelled["message"] == f"stopped at step {paused['step']}, kept in {kept}"
    assert (base_directory / "models" / "loras" / kept).exists()
    queued = client.queue(prompt, ui)
    resumed = watched.until(queued, lambda state: state["step"] > paused["step"])
    full = client.get(f"/sdxl_trainer/runs/{resumed['id']}")
    assert full["history"]["step"][: paused["step"]] == list(range(1, paused["step"] + 1))
    assert {"step": paused["step"], "file": kept} in full["checkpoints"]
    assert 2 not in {b - a for a, b in itertools.pairwise(full["history"]["step"])}
    wish(client, resumed, "finish")
    assert client.wait(queued)["status"]["status_str"] == "success"


def test_a_run_that_fails_says_why(client, watched, graphs, training, base_directory):
    prompt, ui = training("a/b")
    queued = client.queue(prompt, ui)
    said = graphs.failure(client.wait(queued))
    failed = watched.until(queued, lambda state: state["state"] == "failed")
    assert failed["message"].startswith("name 'a/b' holds /")
    assert failed["message"] in said
    assert str(base_directory) not in json.dumps(watched.states(queued))


def test_runs_of_other_days_are_listed_by_their_folders(server, client, base_directory):
    folder = base_directory / "output" / "sdxl_trainer" / "<b> & other"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"settings": {"steps": 3}}')
    (folder / "metrics.jsonl").write_text('{"step": 2, "loss": 0.5}\n')
    listed = client.get("/sdxl_trainer/runs")["runs"]
    (earlier,) = [state for state in listed if state["name"] == "<b> & other"]
    assert (earlier["state"], earlier["step"], earlier["num_steps"]) == ("earlier", 2, 3)
    live = [state["name"] for state in listed if state["state"] != "earlier"]
    assert not set(live) & {state["name"] for state in listed if state["state"] == "earlier"}
    place = "/sdxl_trainer/runs/" + urllib.request.quote(earlier["id"], safe="")
    assert client.get(place)["history"]["step"] == [2]
    assert fetch(server, f"{place}/wishes", b'{"wish": "finish"}')[0] == 404


def test_another_site_cannot_ask_for_anything(server, client):
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        status, _, body = fetch(server, "/sdxl_trainer/runs/x/wishes", b'{"wish": "finish"}', kind)
        assert (status, "application/json" in json.loads(body)["error"]) == (400, True)
    for odd in ("..%2f..%2fx", "%2e%2e", "earlier:..", "0" * 16):
        assert fetch(server, f"/sdxl_trainer/runs/{odd}")[0] == 404
