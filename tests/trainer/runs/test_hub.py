"""Upload with the hub's own client, to a server on this machine that speaks its protocol where needed."""

import base64
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

hub = pytest.importorskip("huggingface_hub")
TOKEN = "hf_aSecretThatNobodyMaySee"
PUSH = {"logging": {"hub_model_id": "somebody/cat"}}


class FakeHub(ThreadingHTTPServer):
    """Keeps every commit's files; `refusal` is an HTTP status that it answers commits with."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.created, self.files, self.tokens, self.commits, self.refusal = [], {}, set(), 0, 0

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.add(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            return self.answer({"url": f"{self.server.address}/somebody/cat"})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            return self.answer({"files": modes})
        if path.endswith("/commit/main"):
            if self.server.refusal:
                return self.answer({"error": f"no room for {TOKEN}"}, self.server.refusal)
            self.keep(body)
            place = f"{self.server.address}/somebody/cat/commit/{'0' * 40}"
            return self.answer({"commitUrl": place, "commitOid": "0" * 40})
        return self.answer({"error": path}, 404)

    def keep(self, body):
        self.server.commits += 1
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])

    def answer(self, values, status=200):
        content = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    with FakeHub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setattr(hub.constants, "ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        server.shutdown()


def test_the_lora_its_card_and_its_pictures_are_uploaded_once(tiny_run, tmp_path, server):
    values = {**PUSH, "preview": {"preview_every": 3, "steps": 1, "prompts": "a cat\na dog"}}
    result = tiny_run.run_tiny(tmp_path, **values)
    assert f"uploaded to {server.address}/somebody/cat" in result.report
    created = server.created[0]
    assert created["name"] == "cat"
    # the hub's client says it in one way or the other, by its version
    assert created.get("private", created.get("visibility") == "private") is True
    pictures = ["images/step-000006-00.png", "images/step-000006-01.png"]
    assert sorted(server.files) == ["README.md", "cat.safetensors", *pictures]
    assert server.files["cat.safetensors"] == result.lora_path.read_bytes()
    assert server.tokens == {f"Bearer {TOKEN}"}

    again = tiny_run.run_tiny(tmp_path, **values)
    assert "uploaded before to somebody/cat" in again.report
    assert server.commits == 1


def test_the_card_says_what_the_hub_and_people_need(tiny_run, tmp_path, server):
    yaml = pytest.importorskip("yaml")
    dataset = tiny_run.tiny_dataset(tmp_path, trigger="zyx: cat")
    values = {**PUSH, "preview": {"preview_every": 6, "steps": 1}}
    job = tiny_run.tiny_job(tmp_path, dataset, **values)
    tiny_run.train(job, tiny_run.TinyModel(), tiny_run.StopAfter())
    card = server.files["README.md"].decode()
    _, front, text = card.split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["base_model"] == "stabilityai/stable-diffusion-xl-base-1.0"
    assert head["instance_prompt"] == "zyx: cat"
    assert {"lora", "text-to-image", "stable-diffusion-xl"} <= set(head["tags"])
    assert head["widget"] == [{"text": "zyx: cat, picture 0", "output": {"url": "images/step-000006-00.png"}}]
    assert "license" not in head
    assert 'load_lora_weights("somebody/cat", weight_name="cat.safetensors")' in text
    for part in ("models/loras", "tiny.safetensors", "rank, alpha | 2, 2", "steps of the file | 6"):
        assert part in text
    assert str(tmp_path) not in card
    compile(text.split("```python\n")[1].split("```")[0], "card", "exec")


@pytest.mark.parametrize("status", [401, 403, 404, 507])
def test_an_upload_that_is_refused_costs_a_sentence_and_is_tried_again(tiny_run, tmp_path, server, status):
    server.refusal = status
    listener = tiny_run.StopAfter()
    result = tiny_run.run_tiny(tmp_path, listener, **PUSH)
    assert listener.phases[-2:] == [("uploading", 0, 1), ("writing the report", 0, 1)]
    assert result.lora_path.exists()
    assert "not uploaded to somebody/cat: the hub " in result.report
    assert "the LoRA is safe on this machine" in result.report
    assert TOKEN not in result.report

    server.refusal = 0
    again = tiny_run.run_tiny(tmp_path, **PUSH)
    assert again.trained_steps == 0
    assert server.commits == 1
    assert f"uploaded to {server.address}" in again.report


def test_a_server_that_is_not_there_costs_a_sentence(tiny_run, tmp_path, server, monkeypatch):
    server.shutdown()
    server.server_close()
    result = tiny_run.run_tiny(tmp_path, **PUSH)
    assert result.trained_steps == 6
    assert "not uploaded to somebody/cat: the Hugging Face hub cannot be reached" in result.report


def test_without_a_login_nothing_is_sent(tiny_run, tmp_path, server, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    result = tiny_run.run_tiny(tmp_path, **PUSH)
    assert "not uploaded to somebody/cat: nobody is logged in; log in with `hf auth login`" in result.report
    assert server.created == []


def test_without_the_package_the_report_says_what_to_install(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    result = tiny_run.run_tiny(tmp_path, steps=1, **PUSH)
    assert "pip install huggingface_hub" in result.report


def test_the_token_is_in_no_file_of_the_run(tiny_run, tmp_path, server):
    tiny_run.run_tiny(tmp_path, **PUSH, run={"save_every": 2})
    for path in [*(tmp_path / "loras").iterdir(), *(tmp_path / "runs").rglob("*")]:
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path.name


def test_nothing_is_uploaded_unless_a_repository_is_named(tiny_run, tmp_path, server):
    tiny_run.run_tiny(tmp_path, steps=1)
    assert (server.created, server.tokens) == ([], set())


def test_a_repository_is_public_where_that_is_asked_for(tiny_run, tmp_path, server):
    tiny_run.run_tiny(tmp_path, steps=1, logging={**PUSH["logging"], "hub_private": False})
    (created,) = server.created
    assert created.get("private", created.get("visibility") == "private") is False


def test_new_words_go_with_the_lora_and_their_card_says_how_to_load_them(tiny_run, tmp_path, server):
    tiny_run.draw_pictures(tmp_path / "pictures", captions=["a photo of TOK"] * 5)
    tiny_run.run_tiny(tmp_path, pivotal={"token": "TOK"}, **PUSH)
    assert {"cat.safetensors", "cat_emb.safetensors", "README.md"} <= server.files.keys()
    assert server.files["cat_emb.safetensors"] == (tmp_path / "embeddings/cat_emb.safetensors").read_bytes()
    card = server.files["README.md"].decode()
    assert 'instance_prompt: "a photo of TOK"' in card
    assert "`cat_emb.safetensors` into `models/embeddings`" in card
    assert "with *Load LoRA*, strength 1, and write `embedding:cat_emb` in place of `TOK`" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    compile(code, "card", "exec")
    assert 'words = load_file(hf_hub_download("somebody/cat", "cat_emb.safetensors"))' in code
    for which, suffix in (("l", ""), ("g", "_2")):
        assert f'load_textual_inversion(words["clip_{which}"], token=["<s0>", "<s1>"], ' in code
        assert f"text_encoder=pipeline.text_encoder{suffix}, tokenizer=pipeline.tokenizer{suffix})" in code
    assert 'pipeline.to("cuda")("a photo of <s0><s1>")' in code
