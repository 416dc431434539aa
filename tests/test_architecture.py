"""The shape of the project itself: who imports whom, how long things may get, what an installation adds."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAINER = sorted((ROOT / "trainer").rglob("*.py"))
NODES = sorted((ROOT / "nodes").rglob("*.py"))
BRIDGE = ROOT / "nodes" / "comfy_bridge"
SCRIPTS = sorted(ROOT.glob("*.py"))
HOST_MODULES = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server", "nodes"}
BANNED_NAMES = {"utils", "common", "helpers", "helper", "base", "misc"}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 80


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """(level, module) of every import; level 0 = absolute, 1 = from the same folder, 2 = one above."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def host_imports(file: Path) -> set[str]:
    return {m.split(".")[0] for level, m in imports(file) if level == 0} & HOST_MODULES


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", TRAINER, ids=name_of)
def test_the_trainer_knows_nothing_of_comfyui_and_never_climbs_out(file):
    depth = len(file.relative_to(ROOT / "trainer").parts)
    assert not host_imports(file)
    assert [m for level, m in imports(file) if level > depth] == []
    own = {"trainer", "environment", "quickstart", "comfy_queue", "sdxl_trainer"}
    assert [m for level, m in imports(file) if level == 0 and m.split(".")[0] in own] == []


@pytest.mark.parametrize("file", NODES, ids=name_of)
def test_only_the_bridge_imports_comfyui_itself(file):
    allowed = HOST_MODULES if BRIDGE in file.parents else {"comfy_api"}
    assert host_imports(file) <= allowed


def test_one_module_speaks_with_comfyuis_server():
    assert [name_of(f) for f in NODES if "PromptServer" in f.read_text("utf-8")] == [
        "nodes/comfy_bridge/server.py"
    ]


@pytest.mark.parametrize("file", [*TRAINER, *NODES, *SCRIPTS], ids=name_of)
def test_files_and_functions_stay_short(file):
    text = file.read_text("utf-8")
    assert text.count("\n") <= MAX_FILE_LINES
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    lengths = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, functions)
    }
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("file", [*TRAINER, *NODES], ids=name_of)
def test_nothing_prints_or_swallows_every_exception(file):
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print"
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            passes_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            assert passes_on or caught not in ("everything", "Exception", "BaseException")


def test_no_module_is_named_after_nothing():
    assert [name_of(f) for f in [*TRAINER, *NODES, *SCRIPTS] if f.stem in BANNED_NAMES] == []


def test_requirements_only_add_and_never_change_what_a_comfyui_has():
    lines = [line.strip() for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines()]
    for line in filter(None, lines):
        # a bare lower bound: ComfyUI-Manager installs line by line, and options or upper pins harm the host
        assert re.fullmatch(r"diffusers>=[\d.]+", line), line


def test_project_metadata_asks_for_the_same_packages():
    declared = re.search(r"^dependencies = (\[.*\])$", (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    assert declared is not None
    assert ast.literal_eval(declared[1]) == (ROOT / "requirements.txt").read_text("utf-8").split()


def test_the_pack_imports_without_comfyui_and_without_torch():
    code = (
        "import importlib.util as u, sys\n"
        f"spec = u.spec_from_file_location('some-pack', {str(ROOT / '__init__.py')!r},"
        f" submodule_search_locations=[{str(ROOT)!r}])\n"
        "module = u.module_from_spec(spec); sys.modules['some-pack'] = module\n"
        "spec.loader.exec_module(module)\n"
        "assert module.WEB_DIRECTORY\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'peft'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_no_file_of_the_project_names_a_place_on_the_machine_it_was_made_on():
    tracked = [*TRAINER, *NODES, *SCRIPTS, *(ROOT / "tests").rglob("*.py"), ROOT / "README.md"]
    tracked += [*ROOT.glob("*requirements.txt"), *(ROOT / "workflows").glob("*.json")]
    # put together here so that this file does not find itself
    places = ["/".join(("", name, "")) for name in ("work", "root")]
    found = [name_of(f) for f in tracked if any(p in f.read_text("utf-8") for p in places)]
    assert found == []
