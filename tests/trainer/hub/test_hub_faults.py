"""Faults of the real client of the hub, from a server on this machine, as the end of a sentence."""

import errno
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sdxl_trainer.trainer.hub.hub_faults import DISK_IS_FULL, causes, cleaned, reason, transport_errors

hub = pytest.importorskip("huggingface_hub")
NAME = "somebody/cats"


class Refusing(BaseHTTPRequestHandler):
    """The path of each server's address is (status, the hub's code of an error)."""

    def do_GET(self):
        status, code = self.path.split("/")[1:3]
        self.send_response(int(status))
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "no room for hf_aSecret")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def only_hub(address, monkeypatch):
    """Once in a process, the client asks its own endpoint for more than it was told to."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)


def asked(endpoint):
    """What the client raises when it asks there."""
    with pytest.raises(transport_errors(hub)) as caught:
        hub.HfApi(endpoint=endpoint).model_info(NAME)
    return caught.value


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "GatedRepo", "it is gated, and its owner must let you in: ask for access on its page http://"),
        (404, "RevisionNotFound", "the hub has no such revision of it: name a branch, a tag or a commit"),
        (404, "RepoNotFound", "the hub has no such repository, or it is private"),
        (404, "EntryNotFound", "the hub misses one of its files (404: no room for ***): run again"),
        (401, "none", "the hub has no such repository, or it is private"),
        (403, "none", "the hub refuses that (403: no room for ***), and its owner must let you in"),
        (507, "none", "the hub answers 507: no room for ***: wait a while, and run again"),
    ],
)
def test_each_answer_of_the_hub_has_its_reason(address, monkeypatch, status, code, said):
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert reason(hub, asked(f"{address}/{status}/{code}"), NAME).startswith(said)


def test_a_page_is_named_where_access_is_asked_for(address):
    gated = asked(f"{address}/403/GatedRepo")
    assert f"{hub.constants.ENDPOINT}/datasets/{NAME}, log in with" in reason(hub, gated, f"datasets/{NAME}")


def test_a_hub_that_is_not_there_or_must_not_be_asked(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    nobody = asked("http://127.0.0.1:1")
    expected = "the Hugging Face hub cannot be reached: check the network and run again"
    assert reason(hub, nobody, NAME, "run again") == expected
    missing = hub.errors.LocalEntryNotFoundError("an error happened while trying to locate the file")
    assert reason(hub, missing, NAME, "run again") == expected
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    assert reason(hub, nobody, NAME, "run again") == "HF_HUB_OFFLINE is set: unset it and run again"


def caused(error, cause):
    error.__cause__ = cause
    return error


def test_the_cause_tells_what_the_error_before_it_does_not(address):
    full = OSError(errno.ENOSPC, "No space left on device", "/home/me/.cache/a.arrow")
    fault = caused(ValueError("it failed"), full)
    assert list(causes(fault)) == [fault, full]
    assert reason(hub, fault, NAME) == DISK_IS_FULL
    closed = PermissionError(errno.EACCES, "Permission denied", "/home/me/models/a")
    assert reason(hub, closed, NAME).startswith("a file on this machine cannot be read or written (")
    missing = hub.errors.LocalEntryNotFoundError("an error happened while trying to locate the file")
    known = caused(missing, asked(f"{address}/404/RepoNotFound"))
    assert reason(hub, known, NAME).startswith("the hub has no such repository")


def test_a_name_the_hub_cannot_have_is_no_repository():
    with pytest.raises(transport_errors(hub)) as caught:
        hub.HfApi(endpoint="http://127.0.0.1:1").model_info("own--er/name")
    assert reason(hub, caught.value, "own--er/name").startswith("the hub has no such repository")


def test_what_nobody_knows_is_quoted_without_tokens_and_places():
    fault = ValueError("cannot read '/home/me/.cache/a.arrow' with Bearer hf_abc at hf_abcdef\nmore")
    assert cleaned(fault) == "ValueError: cannot read 'a.arrow' with *** at ***"
    assert reason(hub, fault, NAME, "run again") == f"{cleaned(fault)}; run again"


def test_a_client_of_which_nothing_was_used_yet_is_enough():
    """It loads its parts when they are asked for, and names none of them before."""
    code = (
        "import huggingface_hub as hub\n"
        "from trainer.hub.hub_faults import reason, transport_errors\n"
        "assert OSError in transport_errors(hub)\n"
        "assert reason(hub, ValueError('so'), 'a/b', 'run again') == 'ValueError: so; run again'\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)
