"""What all tests share: the pack under one name, the bundled assets, no network, and the real ComfyUI.

The pack's folder is loaded as the package `sdxl_trainer`, in the way ComfyUI loads custom nodes, so that
relative imports work whatever the folder is called. Tests under tests/host, tests/nodes and tests/browser are
marked `host`: they need a ComfyUI and its packages, which `python3 tests/run.py` brings together. Those under
tests/learning are marked `learning`: each trains for a minute.
"""

import importlib
import importlib.util
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOST_FOLDERS = ("host", "nodes", "browser")
LEARNING_FOLDER = "learning"
STAND_IN_SCRIPTS = ROOT / "assets" / "stand_in"
NO_COMFYUI = "no ComfyUI found: set COMFYUI_PATH to its folder to run the tests that need it"
NO_PACKAGES = "this Python lacks ComfyUI's packages: run the host tests with python3 tests/run.py"


def load_module(name: str, path: Path, package_folder: Path | None = None) -> ModuleType:
    """Import the file `path` under `name`, as ComfyUI's loader does."""
    places = [str(package_folder)] if package_folder else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=places)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _first_comfyui() -> Path | None:
    found = load_module("environment", ROOT / "environment.py").find_comfyui()
    return found[0].folder if found else None


def _has_comfyui_packages() -> bool:
    return all(importlib.util.find_spec(name) for name in ("aiohttp", "torchsde", "av"))


def _enter_comfyui(folder: Path) -> None:
    """Make ComfyUI's modules importable here, with the options a server on this machine would have."""
    sys.path.insert(0, str(folder))
    options = importlib.import_module("comfy.options")
    options.enable_args_parsing()
    torch = importlib.import_module("torch")
    arguments, sys.argv = sys.argv, ["main.py"] if torch.cuda.is_available() else ["main.py", "--cpu"]
    try:
        importlib.import_module("comfy.cli_args")
    finally:
        sys.argv = arguments


COMFYUI = _first_comfyui()
HOST_REASON = NO_COMFYUI if COMFYUI is None else "" if _has_comfyui_packages() else NO_PACKAGES
# Only a run that asks for host tests lives beside ComfyUI's modules; the default suite must do without.
HOST_RUN = os.environ.get("SDXL_TRAINER_HOST_TESTS") == "1" and not HOST_REASON
if HOST_RUN and COMFYUI is not None:
    _enter_comfyui(COMFYUI)
elif not HOST_REASON:
    HOST_REASON = NO_PACKAGES
load_module("sdxl_trainer", ROOT / "__init__.py", ROOT)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        room = item.path.relative_to(ROOT / "tests").parts[0]
        if room == LEARNING_FOLDER:
            item.add_marker(pytest.mark.learning)
        if room not in HOST_FOLDERS and not item.get_closest_marker("host"):
            continue
        item.add_marker(pytest.mark.host)
        if not HOST_RUN:
            item.add_marker(pytest.mark.skip(reason=HOST_REASON))


@pytest.fixture(scope="session")
def comfyui_folder() -> Path:
    """Folder of the ComfyUI that this host run is about."""
    assert COMFYUI is not None
    return COMFYUI


@pytest.fixture(scope="session")
def pack_folder() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def stand_in_folder() -> Path:
    return ROOT / "assets" / "tiny_sdxl"


@pytest.fixture(scope="session")
def example_folder() -> Path:
    return ROOT / "assets" / "example_dataset"


def _stand_in_script(name: str) -> ModuleType:
    """They import one another by plain names, as they do when they are run."""
    sys.path.insert(0, str(STAND_IN_SCRIPTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(STAND_IN_SCRIPTS))


@pytest.fixture(scope="session")
def draw() -> ModuleType:
    return _stand_in_script("draw")


@pytest.fixture(scope="session")
def read() -> ModuleType:
    return _stand_in_script("read")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # the stand-in is so small that a second thread costs more than it brings
    importlib.import_module("torch").set_num_threads(1)


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    return str(address[0]) in ("localhost", "127.0.0.1", "::1", "0.0.0.0")


@pytest.fixture(scope="session", autouse=True)
def _refused_connections() -> Iterator[list[str]]:
    """Refuses every connection off this machine, and keeps the list of what was tried."""
    attempts: list[str] = []
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(address: Any) -> None:
        if not _is_local(address):
            attempts.append(repr(address))
            raise OSError(f"tests must not use the network: {address!r}")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        refuse(address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        refuse(address)
        return connect_ex(self, address)

    def guarded_look_up(host: Any, *rest: Any, **named: Any) -> Any:
        if host is not None:
            refuse((host,))
        return look_up(host, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield attempts


@pytest.fixture(autouse=True)
def _no_network(_refused_connections: list[str]) -> Iterator[None]:
    """Fails the test that tried to connect, also where something swallowed the refusal."""
    _refused_connections.clear()
    yield
    assert not _refused_connections, f"connections off this machine: {', '.join(_refused_connections)}"
