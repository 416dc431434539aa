"""A Chromium, a ComfyUI server of this folder's own, and pages in it that must not complain about us.

Set SDXL_TRAINER_SCREENSHOTS to a folder to get a picture of each state; `training_in_comfyui.png` among them
is the one at the top of the README.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
VIEW = {"width": 1600, "height": 1300}
TRAINING = "train_and_sample.json"
PROMPTS = "a zorp\na zorp on grass"


def _load(name, path):
    """Import a file of the tests under a name of its own; playwright is there only in a host run."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def comfy_page():
    """The module comfy_page: a tab with ComfyUI in it."""
    return _load("browser_comfy_page", HERE / "comfy_page.py")


@pytest.fixture(scope="session")
def training_page():
    """The module training_page: trainer nodes and their panels."""
    return _load("browser_training_page", HERE / "training_page.py")


@pytest.fixture(scope="session")
def contrasts():
    """A function that gives the contrast of each text under an element: contrast.contrasts."""
    return _load("browser_contrast", HERE / "contrast.py").contrasts


# package: playwright's loop must end with the browser tests, others run loops of their own in this thread
@pytest.fixture(scope="package")
def chromium(comfy_page):
    environment = sys.modules["environment"]
    program = environment.find_chromium()
    if program is None:
        pytest.skip(environment.NO_CHROMIUM)
    with comfy_page.open_chromium(program) as browser:
        yield browser


@pytest.fixture(scope="package")
def base_directory(tmp_path_factory, example_folder, comfy_page):
    """A ComfyUI folder of its own, with the example pictures as input/zorp and a user who knows ComfyUI."""
    folder = tmp_path_factory.mktemp("comfyui_in_browser")
    shutil.copytree(example_folder, folder / "input" / "zorp")
    comfy_page.quiet_settings(folder)
    return folder


@pytest.fixture(scope="package")
def server(chromium, comfyui_folder, base_directory):
    environment = sys.modules["environment"]
    (comfy,) = [c for c in environment.find_comfyui() if c.folder == comfyui_folder]
    packs = [HERE.parent / "host" / "stand_in_pack"]
    with environment.start_comfyui(comfy, Path(sys.executable), base_directory, packs) as running:
        yield running


@pytest.fixture(scope="package")
def client(server):
    return _load("host_graphs", HERE.parent / "host" / "graphs.py").Client(server)


@pytest.fixture(scope="session")
def workflows(pack_folder):
    """The shipped workflows by file name."""
    files = sorted((pack_folder / "workflows").glob("*.json"))
    return {file.name: json.loads(file.read_text("utf-8")) for file in files}


@contextlib.contextmanager
def _tabs(chromium, comfy_page, url):
    """A function that opens tabs of one visitor; at the end none may have complained about us."""
    context = chromium.new_context(viewport=VIEW, reduced_motion="reduce")
    opened = []

    def open_tab(**settings):
        opened.append(comfy_page.ComfyPage(context.new_page(), url).open(**settings))
        return opened[-1]

    try:
        yield open_tab
    finally:
        context.close()
    complaints = [complaint for page in opened for complaint in page.complaints]
    assert not complaints, "\n".join(complaints)


def _stop_training(client):
    """Leave the server as a test expects it: nothing runs and nothing waits."""
    client.post("/queue", {"clear": True})
    queue = client.get("/queue")
    for running in queue["queue_running"]:
        client.post("/interrupt", {})
        client.wait(running[1])


@pytest.fixture
def open_tab(chromium, comfy_page, server, client):
    """A function that opens a tab with ComfyUI in it; tabs of one test share their visitor."""
    with _tabs(chromium, comfy_page, server.url) as tabs:
        yield tabs
    _stop_training(client)


@pytest.fixture
def page(open_tab):
    return open_tab()


@pytest.fixture(scope="module")
def open_tab_of_module(chromium, comfy_page, server, client):
    with _tabs(chromium, comfy_page, server.url) as tabs:
        yield tabs
    _stop_training(client)


@pytest.fixture(scope="module")
def shared_page(open_tab_of_module):
    """A tab that the tests of a module share; each loads what it needs."""
    return open_tab_of_module()


@pytest.fixture(scope="session")
def open_training(comfy_page, training_page, workflows):
    """A function that opens the shipped training workflow, made small; the panel of its trainer."""

    def open_workflow(page, name, steps, preview_every=0, prompts=PROMPTS):
        page.load(comfy_page.with_stand_in(workflows[TRAINING]))
        training_page.make_small(page, name, steps)
        if preview_every:
            values = {"prompts": prompts, "steps": 2, "preview_every": preview_every}
            page.plug("SDXLTrainer_PreviewSettings", "preview_settings", **values)
        page.show("SDXLTrainer_TrainSDXLLoRA")
        return training_page.panel_of(page)

    return open_workflow


@pytest.fixture(scope="session")
def shoot():
    """A function that keeps a picture of a page under a name, where pictures are asked for."""
    folder = os.environ.get("SDXL_TRAINER_SCREENSHOTS", "")

    def keep(page, name):
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.shot(Path(folder) / f"{name}.png")

    return keep


@pytest.fixture(scope="module")
def web_tab(chromium):
    """A bare page with the pack's web folder, for one module's code at a time; no ComfyUI."""
    context = chromium.new_context(viewport=VIEW)
    tab = _load("browser_web_page", HERE / "web_page.py").open_web_page(context)
    faults = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    yield tab
    context.close()
    assert not faults, "\n".join(faults)
