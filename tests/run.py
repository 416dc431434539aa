"""Run the whole suite: python3 tests/run.py [pytest options].

Needs nothing but Python 3.10 or newer: it makes `.venv`, runs the default suite there, then the tests
that train until something is learned, then the host tests in every ComfyUI it finds, each with that
ComfyUI's own packages and, where there is a Chromium, with its frontend in that browser, then the style
checks. Ends non-zero when anything failed.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0])

import os
import subprocess
import tempfile
import time
import xml.etree.ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from environment import (  # noqa: E402
    NO_CHROMIUM,
    ComfyUI,
    SetupError,
    comfy_environment,
    find_chromium,
    find_comfyui,
    make_environment,
)

NO_TESTS_COLLECTED = 5  # pytest's exit status
HOST_FOLDERS = ("tests/host", "tests/nodes", "tests/browser")
HOST_PACKAGES = ("timm==1.0.31", "playwright==1.65.2")
"""What is tested beside ComfyUI's packages: timm needs its torchvision, playwright drives its frontend."""
MOST_WORKERS = 4  # each takes 1 GB


def run_pytest(python: Path, options: Sequence[str], variables: Mapping[str, str]) -> Counter[str]:
    """Run pytest and count how its tests ended; a run that breaks off counts as one failure more."""
    # the stand-in is so small that threads which wait for one another cost more than they bring
    variables = {"OMP_NUM_THREADS": "1", **os.environ, **variables}
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "junit.xml"
        command = [str(python), "-m", "pytest", f"--junitxml={record}", *options]
        status = subprocess.run(command, cwd=ROOT, env=variables).returncode
        counts = _read_counts(record)
    if status not in (0, NO_TESTS_COLLECTED) and not counts["failed"]:
        print(f"\npytest broke off with exit status {status}; what it had passed is not counted", flush=True)
        counts["failed"] += 1
    return counts


def _read_counts(record: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    if record.exists():
        for suite in xml.etree.ElementTree.parse(record).getroot().iter("testsuite"):
            total, failures, errors, skipped = (
                int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")
            )
            counts["failed"] += failures + errors
            counts["skipped"] += skipped
            counts["passed"] += total - failures - errors - skipped
    return counts


def run_host_tests(comfy: ComfyUI, options: Sequence[str]) -> Counter[str]:
    """The tests marked `host`, beside the modules and packages of one ComfyUI."""
    announce(f"host and browser tests in ComfyUI {comfy.version} at {comfy.folder}")
    if not find_chromium():
        print(NO_CHROMIUM, flush=True)
    try:
        python = comfy_environment(comfy, HOST_PACKAGES)
    except SetupError as fault:
        print(fault, flush=True)
        return Counter(failed=1)
    variables = {"COMFYUI_PATH": str(comfy.folder), "SDXL_TRAINER_HOST_TESTS": "1"}
    # the other tests are not even collected: ComfyUI's environment lacks what they import
    chosen = [option for option in options if (ROOT / option.partition("::")[0]).exists()]
    return run_pytest(python, ["-m", "host", *options, *([] if chosen else HOST_FOLDERS)], variables)


def style_is_clean(python: Path) -> bool:
    announce("style")
    checks = (["check"], ["format", "--check"])
    return all([subprocess.run([str(python), "-m", "ruff", *c], cwd=ROOT).returncode == 0 for c in checks])


def announce(title: str) -> None:
    print(f"\n=== {title} ===", flush=True)


def main() -> int:
    started = time.monotonic()
    options = sys.argv[1:]
    try:
        python = make_environment(ROOT / ".venv")
    except SetupError as fault:
        print(fault)
        return 1

    hosts = find_comfyui()
    announce("default suite")
    if not hosts:
        print("No ComfyUI found: the host tests are skipped. Set COMFYUI_PATH to its folder to run them.")
    default = "not host and not learning" if hosts else "not learning"
    counts = run_pytest(
        python, ["-m", default, "-n", str(min(MOST_WORKERS, os.cpu_count() or 1)), *options], {}
    )
    announce("learning")
    counts += run_pytest(python, ["-m", "learning", *options], {})
    for comfy in hosts:
        counts += run_host_tests(comfy, options)
    clean = style_is_clean(python)

    seconds = time.monotonic() - started
    announce("style clean" if clean else "STYLE NOT CLEAN")
    ends = ", ".join(f"{counts[end]} {end}" for end in ("passed", "failed", "skipped"))
    print(f"{ends} in {seconds:.0f} s")
    return 0 if clean and not counts["failed"] and counts["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
