"""The standard-library scripts at the root: environments, finding a ComfyUI, queueing a workflow."""

import ast
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    import environment

    return environment


@pytest.fixture
def comfy_queue(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    import comfy_queue

    return comfy_queue


@pytest.fixture
def quickstart(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    import quickstart

    return quickstart


def make_comfyui(folder: Path, version: str = "0.9.1") -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "folder_paths.py").touch()
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return folder


@pytest.mark.parametrize("script", ["environment.py", "quickstart.py", "comfy_queue.py", "tests/run.py"])
def test_scripts_import_nothing_that_has_to_be_installed(script):
    code = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"runpy.run_path({str(ROOT / script)!r}, run_name='imported')\n"
    )
    # -S leaves site-packages out: whatever a script needs beyond the standard library is missing
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_comfyui_of_the_path_is_found_with_its_version_and_python(environment, tmp_path, monkeypatch):
    first, second = make_comfyui(tmp_path / "one"), make_comfyui(tmp_path / "two", "0.3.64")
    python = environment.python_of(second / ".venv")
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setenv("COMFYUI_PATH", os.pathsep.join(map(str, [first, tmp_path / "none", second])))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "nobody")

    found = environment.find_comfyui()

    assert [(c.folder, c.version) for c in found] == [(first, "0.9.1"), (second, "0.3.64")]
    assert found[0].python == Path(sys.executable)
    assert found[1].python == python


def test_the_comfyui_that_holds_the_pack_is_found(environment, tmp_path, monkeypatch):
    host = make_comfyui(tmp_path / "host")
    pack = host / "custom_nodes" / "sdxl-trainer"
    pack.mkdir(parents=True)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(environment, "ROOT", pack)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "nobody")
    assert [c.folder for c in environment.find_comfyui()] == [host]


def test_an_environment_is_made_once_and_again_when_its_list_changes(
    environment, tmp_path, monkeypatch, capsys
):
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("# nothing\n")
    folder = tmp_path / "env"

    python = environment.make_environment(folder, wanted)
    assert subprocess.run([str(python), "-c", "import pip"]).returncode == 0
    assert "Making" in capsys.readouterr().out

    environment.make_environment(folder, wanted)
    assert capsys.readouterr().out == ""

    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wanted.write_text("no-such-package-as-this==1.0\n")
    for _ in range(2):  # a failed installation is no finished one
        with pytest.raises(environment.SetupError, match="no-such-package-as-this"):
            environment.make_environment(folder, wanted)
        assert "Making" not in capsys.readouterr().out


def test_a_lending_environment_sees_the_host_s_packages_and_leaves_them_alone(
    environment, tmp_path, monkeypatch
):
    host = make_comfyui(tmp_path / "host")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(host / ".venv")], check=True)
    (packages,) = [
        Path(p)
        for p in environment._package_folders(environment.python_of(host / ".venv"))
        if host in Path(p).parents
    ]
    (packages / "only_in_the_host.py").write_text("value = 7\n")
    before = sorted(p.name for p in packages.iterdir())
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "PACK_REQUIREMENTS", tmp_path / "requirements.txt")
    monkeypatch.setattr(environment, "TEST_RUNNER", "pip")
    (tmp_path / "requirements.txt").write_text("# nothing\n")

    comfy = environment.ComfyUI(host, environment.python_of(host / ".venv"), "0")
    python = environment.comfy_environment(comfy)

    code = "import only_in_the_host; print(only_in_the_host.value)"
    assert subprocess.run([str(python), "-c", code], capture_output=True, text=True).stdout == "7\n"
    assert sorted(p.name for p in packages.iterdir()) == before


OBJECT_INFO = {
    "KSampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"control_after_generate": True}],
                "steps": ["INT", {"default": 20}],
                "sampler_name": [["euler", "heun"]],
            },
            "optional": {"scheduler": ["COMBO", {"options": ["normal"]}]},
        }
    },
    "Loader": {"input": {"required": {"name": ["STRING", {}]}}},
}


def workflow(*nodes, links=()):
    return {"nodes": list(nodes), "links": list(links)}


def test_a_saved_workflow_becomes_a_prompt_with_values_by_name(comfy_queue):
    loader = {"id": 1, "type": "Loader", "inputs": [], "widgets_values": ["a.safetensors"]}
    sampler = {
        "id": 2,
        "type": "KSampler",
        "inputs": [{"name": "model", "link": 9}, {"name": "steps", "link": None}],
        "widgets_values": [5, "randomize", 30, "heun", "normal"],
    }
    note = {"id": 3, "type": "MarkdownNote", "widgets_values": ["read me"]}
    muted = {"id": 4, "type": "Loader", "mode": 2, "widgets_values": ["b"]}

    prompt = comfy_queue.to_prompt(
        workflow(loader, sampler, note, muted, links=[[9, 1, 0, 2, 0, "MODEL"]]), OBJECT_INFO
    )

    assert prompt == {
        "1": {"class_type": "Loader", "inputs": {"name": "a.safetensors"}},
        "2": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "seed": 5,
                "steps": 30,
                "sampler_name": "heun",
                "scheduler": "normal",
            },
        },
    }


def test_a_node_that_the_server_lacks_is_named(comfy_queue):
    with pytest.raises(comfy_queue.QueueError, match="Unheard"):
        comfy_queue.to_prompt(workflow({"id": 1, "type": "Unheard"}), OBJECT_INFO)


@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536])
def test_websocket_frames_of_every_length_are_read_in_pieces(comfy_queue, length):
    payload = bytes(length)
    if length < 126:
        head = bytes([0x81, length])
    elif length < 65536:
        head = bytes([0x81, 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([0x81, 127]) + length.to_bytes(8, "big")
    frame = head + payload
    assert comfy_queue._parse_frame(frame[:-1]) is None
    assert comfy_queue._parse_frame(frame + b"next") == (1, payload, len(frame))


class FakeServer(BaseHTTPRequestHandler):
    """Enough of ComfyUI: refuses an empty graph, else answers /prompt, the websocket and /history."""

    history: ClassVar = {"status": {"messages": []}, "outputs": {"1": {}}}
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if not self.path.startswith("/ws"):
            return self._answer(200, {"p1": self.history})
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
        for event in (
            {"type": "progress", "data": {"node": "1", "value": 3, "max": 4}},
            {"type": "executing", "data": {"node": None}},
        ):
            text = json.dumps(event).encode()
            self.wfile.write(bytes([0x81, len(text)]) + text)
        self.close_connection = True

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["prompt"]:
            return self._answer(200, {"prompt_id": "p1"})
        problem = {"message": "Value not in list", "details": "folder: 'x'"}
        self._answer(400, {"node_errors": {"1": {"class_type": "Load", "errors": [problem]}}})

    def _answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def fake_server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


GRAPH = {"1": {"class_type": "Train", "inputs": {}}}


def test_a_queued_graph_is_followed_to_its_end(comfy_queue, fake_server):
    heard = []
    record = comfy_queue.run_prompt(fake_server, GRAPH, lambda *event: heard.append(event))
    assert heard == [("Train", 3, 4)]
    assert record["outputs"] == {"1": {}}


def test_what_the_server_refuses_is_told_in_its_words(comfy_queue, fake_server):
    with pytest.raises(comfy_queue.QueueError, match="Load: Value not in list folder: 'x'"):
        comfy_queue.run_prompt(fake_server, {}, lambda *_: None)


def test_a_failed_node_is_told_in_its_words(comfy_queue, fake_server, monkeypatch):
    failure = ["execution_error", {"node_type": "Train", "exception_message": "no pictures"}]
    monkeypatch.setattr(FakeServer, "history", {"status": {"messages": [failure]}})
    with pytest.raises(comfy_queue.QueueError, match="Train: no pictures"):
        comfy_queue.run_prompt(fake_server, GRAPH, lambda *_: None)


def queued(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def test_quickstart_chooses_on_the_workflow_what_its_user_would(quickstart):
    plan = quickstart.read_plan(quickstart.parse(["--name", "zyx", "--steps", "7"]))
    shipped = {
        "1": queued("CheckpointLoaderSimple", ckpt_name="a.safetensors"),
        "2": queued("SDXLTrainer_LoadDataset", folder="input/mine", resolution=1024, trigger=""),
        "3": queued("SDXLTrainer_TrainSDXLLoRA", model=["1", 0], name="my_lora", steps=0),
        "4": queued("CLIPTextEncode", clip=["3", 1], text="a"),
        "5": queued("CLIPTextEncode", clip=["3", 1], text="b"),
        "6": queued("EmptyLatentImage", width=1024, height=1024, batch_size=1),
        "7": queued("KSampler", positive=["4", 0], negative=["5", 0], seed=3, steps=25),
    }

    adapted = quickstart.adapt(shipped, plan)

    assert adapted["1"] == queued("StandInLoader")
    assert adapted["2"]["inputs"] == {"folder": "input/example_dataset", "resolution": 128, "trigger": ""}
    training = adapted["3"]["inputs"]
    assert (training["name"], training["steps"], training["model"]) == ("zyx", 7, ["1", 0])
    assert (adapted["4"]["inputs"]["text"], adapted["5"]["inputs"]["text"]) == (plan.prompts[0], "")
    assert adapted["6"]["inputs"] == {"width": 128, "height": 128, "batch_size": 1}
    assert adapted[quickstart.LORA_NAME_NODE]["inputs"] == {"source": ["3", 3]}
    assert shipped["3"]["inputs"]["name"] == "my_lora"


def test_quickstart_takes_the_user_s_own_pictures_and_checkpoint(quickstart, tmp_path):
    pictures = tmp_path / "10_my cat"
    pictures.mkdir()
    (pictures / "b.txt").write_text(" a cat\n on a sofa ")
    checkpoint = tmp_path / "model.safetensors"
    plan = quickstart.read_plan(
        quickstart.parse(
            ["--data", str(pictures), "--checkpoint", str(checkpoint), "--output", str(tmp_path)]
        )
    )
    assert (plan.name, plan.prompts, plan.side, plan.training) == ("10_my_cat", ["a cat on a sofa"], 1024, {})
    assert quickstart.loader(plan)["inputs"] == {"ckpt_name": "model.safetensors"}

    options = quickstart.share_folders(plan, tmp_path)
    shared = Path(options[-1]).read_text("utf-8")
    assert json.dumps(str(tmp_path)) in shared
    assert "datasets:" in shared
    assert "checkpoints:" in shared


def test_quickstart_puts_pictures_side_by_side(quickstart, example_folder, tmp_path):
    pictures = sorted(map(str, example_folder.glob("*.png")))[:4]
    sheet = tmp_path / "sheet.png"
    quickstart.write_sheet(str(sheet), json.dumps(["a zorp", "a star"]), json.dumps(pictures))
    assert sheet.stat().st_size > 1000


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_benchmarks_name_only_modules_that_exist(script):
    """They are run by hand, so that nothing else would tell."""
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        parts = (node.module or "").split(".") if isinstance(node, ast.ImportFrom) else []
        if "trainer" in parts[:2]:
            assert ROOT.joinpath(*parts[parts.index("trainer") :]).with_suffix(".py").is_file(), node.module


def test_quickstart_says_which_path_is_wrong(quickstart, capsys):
    assert quickstart.main(["--data", "/no/such/folder"]) == 1
    assert "/no/such/folder" in capsys.readouterr().out
