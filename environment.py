"""Python environments for the pack, made with the standard library alone, and the ComfyUIs of this machine.

`make_environment` builds the pack's own `.venv`; `comfy_environment` builds one that lends a ComfyUI's
packages and adds what requirements.txt names, so that ComfyUI's own environment never changes.
`start_comfyui` runs a server in a folder of its own.
"""

import contextlib
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OWN_REQUIREMENTS = ROOT / "tests" / "requirements.txt"
PACK_REQUIREMENTS = ROOT / "requirements.txt"
TEST_RUNNER = "pytest==9.2.0"
STAMP = "sdxl_trainer_stamp.txt"
PACK_LINK = "sdxl-trainer"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_CHROMIUM = (
    "No Chromium found: the browser tests are skipped. Install Chromium, or set CHROMIUM_PATH to its program."
)
START_SECONDS = 300


class SetupError(Exception):
    """An environment or a server could not be made; the message says why and what to do."""


@dataclass(frozen=True)
class ComfyUI:
    """A ComfyUI folder on this machine, the Python it runs with, and its version."""

    folder: Path
    python: Path
    version: str


def python_of(environment: Path) -> Path:
    """The interpreter inside a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def find_comfyui() -> list[ComfyUI]:
    """Every ComfyUI here: COMFYUI_PATH, the folder that holds the pack, and ~/comfy/ComfyUI*."""
    places = [Path(p).expanduser() for p in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if p]
    # the folder the pack was started from, so that a pack linked into custom_nodes finds its host too
    for start in (ROOT, Path(os.path.abspath(sys.argv[0])).parent):
        places += [parent.parent for parent in (start, *start.parents) if parent.name == "custom_nodes"]
    places += sorted((Path.home() / "comfy").glob("ComfyUI*"))
    folders = dict.fromkeys(p.resolve() for p in places if _is_comfyui(p))
    return [ComfyUI(f, _comfyui_python(f), _comfyui_version(f)) for f in folders]


def _is_comfyui(folder: Path) -> bool:
    return all((folder / part).exists() for part in ("main.py", "folder_paths.py", "comfy"))


def _comfyui_python(folder: Path) -> Path:
    inside = [python_of(folder / name) for name in (".venv", "venv")]
    portable = folder.parent / "python_embeded" / "python.exe"
    return next((p for p in [*inside, portable] if p.exists()), Path(sys.executable))


def _comfyui_version(folder: Path) -> str:
    with contextlib.suppress(OSError):
        found = re.search(r'"([\d.]+)"', (folder / "comfyui_version.py").read_text("utf-8"))
        if found:
            return found[1]
    return "unknown"


def find_chromium() -> Path | None:
    """The browser of the browser tests: CHROMIUM_PATH, else a Chromium or Chrome on PATH."""
    chosen = os.environ.get("CHROMIUM_PATH")
    names = [chosen] if chosen else CHROMIUM_NAMES
    found = (shutil.which(name) for name in names)
    return next((Path(program) for program in found if program), None)


def make_environment(folder: Path, requirements: Path = OWN_REQUIREMENTS) -> Path:
    """Make the virtual environment `folder` with `requirements` in it, unless it is there already.

    Returns:
        Its Python.
    """
    return _prepare(folder, Path(sys.executable), [requirements], [])


def comfy_environment(comfy: ComfyUI, packages: Sequence[str] = ()) -> Path:
    """An environment that sees ComfyUI's packages and adds what requirements.txt names, and pytest.

    Args:
        comfy: whose packages are lent.
        packages: installed as well.

    Returns:
        Its Python, to run ComfyUI's main.py with.
    """
    digest = hashlib.sha256(str(comfy.folder).encode()).hexdigest()[:8]
    folder = ROOT / f".venv-{comfy.folder.name}-{digest}"
    return _prepare(folder, comfy.python, [PACK_REQUIREMENTS], [TEST_RUNNER, *packages], lend=True)


def _prepare(
    folder: Path, base: Path, requirements: Sequence[Path], extra: Sequence[str], lend: bool = False
) -> Path:
    python = python_of(folder)
    lent = _package_folders(base) if lend else []
    wanted = "\n".join([*(r.read_text("utf-8") for r in requirements), *extra, *lent])
    stamp = folder / STAMP
    # what is there may be more, as the tests ask for more than the quickstart
    known = stamp.read_text("utf-8").splitlines() if stamp.is_file() else []
    if known and set(wanted.splitlines()) <= set(known) and _runs(python):
        return python

    if not _runs(python):
        print(f"Making a Python environment in {folder.name} ...", flush=True)
        _run([str(base), "-m", "venv", "--clear", str(folder)], f"{folder.name} could not be made")
    if lent:
        # site.addsitedir, not the bare path: ComfyUI's environment may hold .pth files of its own
        lines = [f"import site; site.addsitedir({place!a})\n" for place in lent]
        (Path(_package_folders(python)[0]) / "comfyui_packages.pth").write_text("".join(lines), "utf-8")
    _install(python, requirements, extra)
    stamp.write_text(wanted, "utf-8")
    return python


def _runs(python: Path) -> bool:
    if not python.exists():
        return False
    try:
        return subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def _package_folders(python: Path) -> list[str]:
    """Where `python` itself keeps its packages."""
    code = "import site; print('\\n'.join(site.getsitepackages() + [site.getusersitepackages()]))"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    if found.returncode != 0:
        raise SetupError(f"{python} does not run: {found.stderr.strip()[-300:]}")
    return [line for line in found.stdout.splitlines() if Path(line).is_dir()]


def _run(command: list[str], problem: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SetupError(f"{problem}:\n{(done.stdout + done.stderr).strip()[-2000:]}")


def _install(python: Path, requirements: Sequence[Path], extra: Sequence[str]) -> None:
    """Run pip; on a terminal one line shows where it is, and a failure shows what pip said last."""
    names = ", ".join([os.path.relpath(file, ROOT) for file in requirements] + list(extra))
    print(f"Installing {names} (takes some minutes the first time) ...", flush=True)
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off"]
    for file in requirements:
        command += ["-r", str(file)]
    pip = subprocess.Popen(
        [*command, *extra], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert pip.stdout is not None
    said: list[str] = []
    for line in pip.stdout:
        said.append(line.rstrip())
        if sys.stdout.isatty() and line.startswith(("Collecting", "Installing collected")):
            print(f"\r  {line.strip():.70}".ljust(74), end="", flush=True)
    if sys.stdout.isatty():
        print("\r".ljust(75), end="\r")
    if pip.wait() != 0:
        last = "\n  ".join(said[-12:])
        raise SetupError(
            f"pip could not install {names}. It said last:\n  {last}\nMend that and run the command again."
        )


def has_accelerator(python: Path) -> bool:
    """Whether `python`'s torch sees a GPU, so that ComfyUI need not be told --cpu."""
    code = "import torch,sys; sys.exit(not (torch.cuda.is_available() or torch.backends.mps.is_available()))"
    return subprocess.run([str(python), "-c", code], capture_output=True).returncode == 0


def link_folder(link: Path, target: Path) -> None:
    """Make `link` show `target`; on Windows a junction, which needs no special rights."""
    link.parent.mkdir(parents=True, exist_ok=True)
    unlink_folder(link)
    if os.name == "nt":
        _run(["cmd", "/c", "mklink", "/J", str(link), str(target)], f"{link} could not be made")
    else:
        link.symlink_to(target, target_is_directory=True)


def unlink_folder(link: Path) -> None:
    """Remove a link that `link_folder` made; what it shows stays as it is."""
    if os.path.lexists(link):
        # neither removes a real folder that has anything in it
        (link.rmdir if os.name == "nt" else link.unlink)()


@dataclass(frozen=True)
class Server:
    """A running ComfyUI: where it listens, which folder is its own, where it logs."""

    port: int
    base_directory: Path
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def last_words(self, lines: int = 25) -> str:
        return "\n".join(self.log.read_text("utf-8", errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def start_comfyui(
    comfy: ComfyUI,
    python: Path,
    base_directory: Path,
    node_packs: Sequence[Path] = (),
    options: Sequence[str] = (),
) -> Iterator[Server]:
    """Run ComfyUI on this machine only, with this pack and `node_packs`, until the block ends.

    Args:
        comfy: the ComfyUI to run.
        python: an interpreter with its packages, from `comfy_environment`.
        base_directory: folder of its own for input, output, models and log; ComfyUI's are not used.
        node_packs: further folders with custom nodes.
        options: further arguments of main.py.

    Raises:
        SetupError: it ended or did not answer; the message holds the end of its log.
    """
    packs = {PACK_LINK: ROOT, **{pack.name: pack for pack in node_packs}}
    links = [base_directory / "custom_nodes" / name for name in packs]
    # a server that runs in the same folder still needs its own
    own_links = [link for link in links if not link.exists()]
    for link, target in zip(links, packs.values(), strict=True):
        link_folder(link, target.resolve())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(python), str(comfy.folder / "main.py"), "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base_directory), "--disable-auto-launch", *options]
    command += ["--database-url", "sqlite:///:memory:"]
    if not has_accelerator(python):
        command.append("--cpu")
    log = base_directory / "comfyui.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=base_directory, stdout=sink, stderr=subprocess.STDOUT)
    server = Server(port, base_directory, log, process)
    try:
        _wait_until_ready(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for link in own_links:
            unlink_folder(link)


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise SetupError(f"ComfyUI ended while it started:\n{server.last_words()}")
        try:
            with urllib.request.urlopen(f"{server.url}/system_stats", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    raise SetupError(f"ComfyUI did not answer within {START_SECONDS} s:\n{server.last_words()}")
