"""Finding a model on this machine, and fetching it with the hub's client from a server like the hub."""

import errno
import hashlib
import importlib
import importlib.util
import json
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image
from sdxl_trainer.trainer.captioning.__main__ import main
from sdxl_trainer.trainer.captioning.captioner import load_captioner
from sdxl_trainer.trainer.captioning.catalog import KNOWN, repository_of
from sdxl_trainer.trainer.captioning.model_files import download, locate, missing_model
from sdxl_trainer.trainer.errors import InputError

hub = pytest.importorskip("huggingface_hub")
REPOSITORY = "somebody/tiny-blip"
COMMIT = "0123456789abcdef" * 2 + "01234567"


def _tiny_captioners():
    place = Path(__file__).with_name("tiny_captioners.py")
    spec = importlib.util.spec_from_file_location("tiny_captioners", place)
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_captioners"] = module
    spec.loader.exec_module(module)
    return module


tiny = _tiny_captioners()


class FakeHub(ThreadingHTTPServer):
    """One repository from a folder; weights come from another address, as the hub's large files do.

    `cut_after`: it hangs up once after so many bytes of the weights. `asked`: (file, first byte) of each
    transfer. `ranges`: whether it can go on within a file.
    """

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.asked, self.cut_after, self.refusal, self.ranges = folder, [], None, 0, True

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server, path = self.server, unquote(urlsplit(self.path).path)
        if server.refusal:
            return self.answer(b"{}", server.refusal)
        if path.startswith(f"/api/models/{REPOSITORY}"):
            return self.answer(json.dumps(self.listing()).encode())
        if path.startswith(f"/{REPOSITORY}/resolve/{COMMIT}/"):
            name = path.rpartition("/")[2]
            if name.endswith(".safetensors"):
                return self.answer(b"", 302, {"Location": f"{server.address}/large/{name}"})
            return self.send_file(server.folder / name)
        if path.startswith("/large/"):
            return self.send_file(server.folder / path.rpartition("/")[2])
        return self.answer(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})

    def listing(self):
        siblings = []
        for place in sorted(self.server.folder.rglob("*")):
            if place.is_dir():
                continue
            data = place.read_bytes()
            entry = {"rfilename": place.relative_to(self.server.folder).as_posix(), "size": len(data)}
            if place.suffix == ".safetensors":
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        return {"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": siblings, "tags": []}

    def send_file(self, place):
        server, data, first = self.server, place.read_bytes(), 0
        wanted = self.headers.get("Range")
        if wanted and server.ranges:
            first = int(wanted.removeprefix("bytes=").split("-")[0])
        server.asked.append((place.name, first))
        status, headers = 200, {}
        if first:
            status = 206
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data) - first)}.items():
            self.send_header(name, value)
        self.end_headers()
        if server.cut_after and place.suffix == ".safetensors":
            self.wfile.write(data[first : server.cut_after])
            server.cut_after, self.close_connection = None, True
            return
        self.wfile.write(data[first:])

    def answer(self, content, status=200, headers=()):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **dict(headers)}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return tiny.write_tiny_blip(tmp_path_factory.mktemp("blip") / "model")


@pytest.fixture
def server(monkeypatch, tmp_path, blip):
    with FakeHub(shutil.copytree(blip, tmp_path / "on the hub")) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(hub.constants, "ENDPOINT", server.address)
        for home in ("constants", "file_download"):  # older versions of the client keep a copy in the latter
            module = importlib.import_module(f"huggingface_hub.{home}")
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
        server.shutdown()


class StoppedError(Exception):
    pass


def silent(*_):
    pass


def test_a_download_is_a_model_that_is_found_and_loads(server, tmp_path):
    (server.folder / "pytorch_model.bin").write_bytes(b"code")
    (server.folder / "model.fp16.safetensors").write_bytes(b"another format")
    (server.folder / "onnx").mkdir()
    (server.folder / "onnx" / "config.json").write_text("{}")
    progress, models = [], tmp_path / "models"
    folder = download(REPOSITORY, models, lambda *numbers: progress.append(numbers))
    assert folder == models / "somebody--tiny-blip"
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        p.name
        for p in server.folder.iterdir()
        if p.name not in ("pytorch_model.bin", "model.fp16.safetensors", "onnx")
    )
    assert progress[-1] == (size_of(folder), size_of(folder))
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    assert {total for _, total in progress} == {size_of(folder)}
    assert locate(REPOSITORY, [models]) == folder
    assert load_captioner(folder, REPOSITORY).styles == ("short",)
    before = len(server.asked)
    assert download(REPOSITORY, models, silent) == folder
    assert len(server.asked) == before


def test_the_command_fetches_a_captioner_only_when_asked_and_then_needs_no_network(server, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (64, 64), "teal").save(pictures / "teal.png")
    asked = ["--data", str(pictures), "--captioner", REPOSITORY, "--output", str(tmp_path / "out")]
    asked += ["--device", "cpu", "--max-tokens", "8", "--save", "txt"]
    assert main(asked) == 1
    assert "download" in capsys.readouterr().err
    assert server.asked == [] and not list(pictures.glob("*.txt"))
    assert main([*asked, "--download"]) == 0
    assert f"1 of 1 pictures captioned by {REPOSITORY}" in capsys.readouterr().out
    assert (tmp_path / "out" / "captioners" / "somebody--tiny-blip" / "model.safetensors").is_file()
    assert (pictures / "teal.txt").is_file()
    transfers = len(server.asked)
    server.refusal = 500
    assert main([*asked, "--if-exists", "overwrite", "--prefix", "a photo of "]) == 0
    assert (pictures / "teal.txt").read_text("utf-8").startswith("a photo of ")
    assert len(server.asked) == transfers


def size_of(folder):
    return sum(place.stat().st_size for place in folder.iterdir())


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_was_stopped_goes_on_where_it_stopped(server, tmp_path, monkeypatch, ranges):
    monkeypatch.setattr(hub.constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    server.ranges = ranges
    weights = (server.folder / "model.safetensors").read_bytes()
    seen = []

    def stop_late(done, total):
        seen.append(done)
        if total - done < len(weights) // 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        download(REPOSITORY, tmp_path, stop_late)
    folder = tmp_path / "somebody--tiny-blip"
    (part,) = folder.glob("model.safetensors.*.part")
    kept = part.stat().st_size
    assert len(weights) // 3 < kept < len(weights)
    assert locate(REPOSITORY, [tmp_path]) is None
    server.asked.clear()
    progress = []
    download(REPOSITORY, tmp_path, lambda *numbers: progress.append(numbers))
    assert server.asked == [("model.safetensors", kept if ranges else 0)]
    assert (folder / "model.safetensors").read_bytes() == weights
    assert not list(folder.glob("*.part"))
    assert len([done for done, total in progress if done == total]) <= 2  # not before all is there
    assert progress[-1] == (size_of(folder), size_of(folder))
    assert locate(REPOSITORY, [tmp_path]) == folder


def test_a_line_that_breaks_once_is_mended_without_starting_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(hub.constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    server.cut_after = 12 * 4096
    progress = []
    folder = download(REPOSITORY, tmp_path, lambda *numbers: progress.append(numbers))
    assert [at for name, at in server.asked if name == "model.safetensors"] == [0, 12 * 4096]
    assert (folder / "model.safetensors").read_bytes() == (server.folder / "model.safetensors").read_bytes()
    assert progress[-1] == (size_of(folder), size_of(folder))


def test_a_file_that_arrives_damaged_is_no_model(server, tmp_path, monkeypatch):
    listing = Handler.listing

    def other_checksum(self):
        found = listing(self)
        for entry in found["siblings"]:
            if "lfs" in entry:
                entry["lfs"]["sha256"] = "0" * 64
        return found

    monkeypatch.setattr(Handler, "listing", other_checksum)
    with pytest.raises(InputError, match=r"model.safetensors arrived damaged"):
        download(REPOSITORY, tmp_path, silent)
    assert not list((tmp_path / "somebody--tiny-blip").glob("*.safetensors*"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"model_type": "moondream1", "auto_map": {"AutoModel": "x.Y"}},
            "only with program code from its repository",
        ),
        ({"model_type": "florence2", "auto_map": {}}, "choose florence-2-base"),
        ({"model_type": "clip"}, "writes no text about pictures"),
    ],
)
def test_what_cannot_be_used_is_refused_before_its_weights(server, tmp_path, config, said):
    (server.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=said):
        download(REPOSITORY, tmp_path, silent)
    assert {name for name, _ in server.asked} == {"config.json"}


def test_only_pickled_weights_are_refused_before_they_are_fetched(server, tmp_path):
    (server.folder / "model.safetensors").rename(server.folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="offers no safetensors weights"):
        download(REPOSITORY, tmp_path, silent)
    assert {name for name, _ in server.asked} == {"config.json"}
    assert locate(REPOSITORY, [tmp_path]) is None


def test_a_lora_beside_the_model_is_not_fetched(server, tmp_path):
    (server.folder / "adapter_config.json").write_text("{}")
    folder = download(REPOSITORY, tmp_path, silent)
    assert load_captioner(folder, REPOSITORY).styles == ("short",)


@pytest.mark.parametrize("name", ["own--er/name", "owner/name.", "owner/" + "x" * 120])
def test_names_that_the_hub_cannot_have_are_one_sentence(server, tmp_path, name):
    with pytest.raises(InputError, match="cannot be downloaded: the hub has no such repository"):
        download(name, tmp_path, silent)
    assert server.asked == []


def test_a_disk_without_room_is_told_before_the_weights(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"needs 0.0 GB more, but only 0.0 GB are free"):
        download(REPOSITORY, tmp_path, silent)
    assert "model.safetensors" not in {name for name, _ in server.asked}
    assert locate(REPOSITORY, [tmp_path]) is None


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "no such repository"),
        (403, "its owner must let you in: ask for access on its page http://127.*/somebody/tiny-blip"),
        (404, "no such repository"),
        (500, "answers 500"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(server, tmp_path, monkeypatch, status, said):
    monkeypatch.setattr("time.sleep", lambda _: None)
    server.refusal = status
    with pytest.raises(InputError, match=said) as caught:
        download(REPOSITORY, tmp_path, silent)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_one_sentence(server, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match="hub cannot be reached: check the network and run again"):
        download(REPOSITORY, tmp_path, silent)


def test_a_disk_that_fills_up_meanwhile_is_not_taken_for_the_network(server, tmp_path):
    def full(done, _):
        if done:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="the disk is full: free some room and run again"):
        download(REPOSITORY, tmp_path, full)


def test_offline_nothing_is_asked(server, tmp_path, monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"blip-base .* HF_HUB_OFFLINE is set: .* \(about 1 GB\)"):
        download("blip-base", tmp_path, silent)
    assert server.asked == []


def test_a_model_is_found_under_each_of_its_names_and_in_the_hubs_cache(server, tmp_path, blip):
    models = tmp_path / "models"
    repository = KNOWN["blip-large"].repository
    places = (repository.replace("/", "--"), repository, repository.rpartition("/")[2], "blip-large")
    for place in places:
        (models / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(blip, models / place)
        for name in ("blip-large", "BLIP-Large ", repository):
            found = locate(name, [tmp_path / "nowhere", models])
            assert found == models / place or (place == "blip-large" and name == repository and found is None)
        shutil.rmtree(models / place.partition("/")[0])
    assert locate("blip-large", [models]) is None
    snapshot = tmp_path / "cache" / "models--somebody--tiny-blip" / "snapshots" / COMMIT
    shutil.copytree(blip, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    assert locate(REPOSITORY, [models]) == snapshot
    (snapshot / "model.safetensors").unlink()
    assert locate(REPOSITORY, [models]) is None
    assert server.asked == []


def test_a_florence_of_another_pack_is_passed_over_for_one_that_runs(server, tmp_path, blip):
    """Packs that run code of repositories keep microsoft's version under the same name in models/LLM."""
    others = shutil.copytree(blip, tmp_path / "LLM" / "Florence-2-base")
    (others / "config.json").write_text(json.dumps({"model_type": "florence2", "auto_map": {}}))
    for name in ("florence-2-base", "Florence-2-base", "florence-community/Florence-2-base"):
        assert locate(name, [tmp_path / "LLM"]) is None
    mine = shutil.copytree(others, tmp_path / "LLM" / "mine")
    assert locate("mine", [tmp_path / "LLM"]) == mine  # to be refused with the reason
    own = shutil.copytree(blip, tmp_path / "captioners" / "florence-community--Florence-2-base")
    assert locate("florence-2-base", [tmp_path / "LLM", tmp_path / "captioners"]) == own
    (others / "config.json").write_text(json.dumps({"model_type": "florence2"}))
    assert locate("florence-2-base", [tmp_path / "LLM", tmp_path / "captioners"]) == others


def test_names_that_are_paths_or_need_program_code_are_refused():
    for name in ("", "..", "../x", "/etc", "a/b/c", "C:\\x", "a/../b", ".hidden"):
        with pytest.raises(InputError, match="must be one of blip-large"):
            repository_of(name)
    for name, instead in (("microsoft/Florence-2-large", "florence-2"), ("vikhyatk/moondream2", "smolvlm")):
        with pytest.raises(InputError, match=f"program code .* choose {instead}"):
            locate(name, [])
    assert repository_of("My Model (old)") == "My Model (old)"


def test_a_missing_model_is_told_with_its_size_and_its_place():
    said = str(missing_model("qwen3-vl-2b", ["models/captioners", "models/LLM"]))
    for part in ("qwen3-vl-2b (Qwen/Qwen3-VL-2B-Instruct)", "(about 4.3 GB)", "switch on download"):
        assert part in said
    assert "models/captioners/Qwen--Qwen3-VL-2B-Instruct" in said
    assert "no captioning model 'mine' in models/captioners" in str(
        missing_model("mine", ["models/captioners"])
    )
