"""What work shows on its node: text, bar and newest pictures, through ComfyUI's own progress call."""

import contextlib
import sys
import types
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.events import RunStart, StepReport


@pytest.fixture
def shown():
    """Calls that reach ComfyUI's progress hook: (done, total, picture)."""
    import comfy.utils

    calls = []

    def hook(value, total, preview, **_):
        calls.append((value, total, preview))

    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(hook)
    yield calls
    comfy.utils.set_progress_bar_global_hook(before)


@pytest.fixture
def run():
    from sdxl_trainer.nodes.browser.live_run import LiveRun, RunPlace

    return LiveRun("0" * 16, RunPlace("5"), lambda _: None)


@pytest.fixture
def listener(run):
    from sdxl_trainer.nodes.comfy_bridge.run_listener import RunListener

    return RunListener("5", run)


class Server:
    """As much of ComfyUI's server as shows text on a node."""

    def __init__(self):
        self.texts = []

    def send_progress_text(self, text, node_id):
        self.texts.append((node_id, text))


@pytest.fixture
def texts(monkeypatch):
    """What a server would show on its nodes: (node, text)."""
    module = types.ModuleType("server")
    module.PromptServer = type("PromptServer", (), {"instance": Server()})
    monkeypatch.setitem(sys.modules, "server", module)
    return module.PromptServer.instance.texts


def report(**changes):
    values = {"step": 5, "num_steps": 10, "epoch": 1.5, "loss": 0.25, "grad_norm": 1.0, "seconds": 2.0}
    return StepReport(**{**values, "learning_rate": 1e-4, **changes})


def test_other_work_says_on_its_node_how_far_it_is(shown, texts):
    from sdxl_trainer.nodes.comfy_bridge.progress import report_progress

    report_progress("reading pictures", "7")(3, 12)
    assert shown == [(3, 12, None)]
    assert texts == [("7", "reading pictures: 3 of 12")]


def test_a_run_moves_the_bar_and_leaves_the_words_to_the_panel(listener, run, shown, texts):
    listener.phase("encoding pictures", 3, 12)
    assert run.light()["phase"] == "encoding pictures"
    listener.step(report())
    listener.note("an odd setting")
    assert shown == [(3, 12, None), (5, 10, None)]
    assert texts == []
    assert (run.light()["step"], run.light()["message"]) == (5, "an odd setting")


def test_everything_that_a_run_tells_reaches_the_panel(listener, run, tmp_path):
    start = RunStart(name="cat", folder=tmp_path, step=0, num_steps=10, prompts=["a"], size=(8, 8))
    listener.begin(start)
    listener.activity("measuring")
    assert run.light()["state"] == "measuring"
    assert run.light()["can"]
    listener.validation(4, 0.125, True)
    (tmp_path / "cat-step000004.safetensors").touch()
    listener.checkpoint(4, tmp_path / "cat-step000004.safetensors")
    state = run.full()
    assert (state["name"], state["held_out_loss"]) == ("cat", 0.125)
    assert state["checkpoints"] == [{"step": 4, "file": "cat-step000004.safetensors"}]


def test_wishes_need_a_server_and_come_from_the_panel(listener, run, monkeypatch, shown, texts):
    assert listener.can_wish()
    monkeypatch.delitem(sys.modules, "server")
    assert not listener.can_wish()
    listener.step(report())
    run.ask("sample")
    run.ask("pause")
    assert listener.is_paused()
    assert (listener.next_wish(), listener.next_wish()) == ("sample", None)


@pytest.mark.parametrize(("number", "size"), [(1, (64, 32)), (4, (3 * 256 + 4 * 14, 2 * 128 + 3 * 14))])
def test_the_newest_pictures_are_sent_to_the_node(listener, run, shown, tmp_path: Path, number, size):
    paths = [tmp_path / f"{n}.png" for n in range(number)]
    for path in paths:
        Image.new("RGB", (64, 32), "red").save(path)
    listener.step(report())
    listener.preview(5, paths)
    done, total, (kind, picture, longest) = shown[-1]
    assert (done, total, kind) == (5, 10, "JPEG")
    assert picture.size == size
    assert longest >= max(size) or number > 1
    assert run.picture(5, number - 1) == paths[-1]


def test_a_preview_before_the_first_step_and_one_without_pictures_do_no_harm(listener, shown, tmp_path):
    listener.preview(0, [])
    assert shown == []
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    listener.preview(0, [tmp_path / "a.png"])
    assert shown[-1][2][1].size == (8, 8)


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_how_a_run_ends_is_told_and_passed_on(run, state):
    import comfy.model_management
    from sdxl_trainer.nodes.comfy_bridge.run_listener import told_how_it_ends

    interrupt = comfy.model_management.InterruptProcessingException
    kinds = {"failed": InputError("no such folder"), "cancelled": interrupt()}
    with contextlib.suppress(InputError, interrupt), told_how_it_ends(run):
        if state in kinds:
            raise kinds[state]
    assert run.light()["state"] == state
    assert run.light()["message"] == ("no such folder" if state == "failed" else "")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("shapes differ\nat /home/me/x.py"), "RuntimeError: shapes differ"),
        (OSError(28, "No space left", "/home/me/ComfyUI/output/x.bin"), "OSError: No space left (x.bin)"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried ..."), "the device ran out of memory: "),
    ],
)
def test_any_error_is_a_sentence_without_folders(run, error, said):
    from sdxl_trainer.nodes.comfy_bridge.run_listener import told_how_it_ends

    with pytest.raises(type(error)), told_how_it_ends(run):
        raise error
    assert run.light()["message"].startswith(said)
    assert "/home" not in run.light()["message"]


def test_memory_of_the_cpu_is_that_of_the_process():
    from sdxl_trainer.nodes.comfy_bridge.device_memory import memory_reader

    read = memory_reader(torch.device("cpu"))
    first = read()
    assert first["where"] == "RAM"
    assert 2**20 < first["used"] <= first["peak"] < first["total"]
    ballast = torch.ones(2**25)
    during = read()
    del ballast
    assert during["peak"] >= first["used"] + 2**26
    assert read()["peak"] == during["peak"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        AssertionError("Torch not compiled with CUDA enabled"),
        OSError(13, "Permission denied"),
        psutil.AccessDenied(1),
    ],
)
def test_a_gauge_that_fails_gives_nothing_and_costs_nothing(run, monkeypatch, error):
    from sdxl_trainer.nodes.comfy_bridge import device_memory

    def fail(*_):
        raise error

    read = device_memory.memory_reader(torch.device("cpu"))
    run.measure_memory(read)
    before = run.take_event()["memory"]
    monkeypatch.setattr(psutil, "Process", fail)
    assert read() is None
    run.note("still told")
    event = run.take_event()
    assert (event["message"], event["memory"]) == ("still told", before)
    monkeypatch.setattr(psutil, "virtual_memory", fail)
    assert device_memory.memory_reader(torch.device("cpu"))() is None
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", fail)
    assert device_memory.memory_reader(torch.device("cuda"))() is None
