"""Time the loss chart in a real Chromium: browser.py [--steps 20000] [--repeats 15] [--appends 200].

Needs a Python with playwright (the environments that tests/run.py makes for ComfyUI have it) and a Chromium
(CHROMIUM_PATH, or on PATH). The history is thinned by the server's own code, then drawn through
web/panel/chart.js at the size it has on a node; then single points are added. Drawing all steps unthinned is
measured for comparison. Every time ends after the canvas was read back, so that all of it is painted.
Ends non-zero when the thinned history takes more than 100 ms to draw, or a new point more than 8 ms.
"""

import argparse
import importlib
import importlib.util
import json
import math
import random
import statistics
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MOST_TO_DRAW, MOST_TO_APPEND = 100.0, 8.0  # milliseconds
MEASURE = """
async ({ curve, steps, repeats, appends }) => {
    const { LossChart } = await import("/panel/chart.js");
    const { RunHistory } = await import("/panel/run_history.js");
    document.body.replaceChildren();
    const host = document.createElement("div");
    host.style.cssText = "width: 420px; height: 220px";
    document.body.append(host);
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    const readBack = () => host.querySelector("canvas").getContext("2d").getImageData(0, 0, 1, 1);
    const timed = (work) => {
        const start = performance.now();
        work();
        readBack();
        return performance.now() - start;
    };
    const checkpoints = [], validation = { step: [], loss: [], best_step: null };
    for (let step = 0; step <= steps; step += steps / 20) {
        validation.step.push(step);
        validation.loss.push(0.1 + 0.05 * Math.exp(-step / 5000));
        checkpoints.push({ step, file: `a-step${step}.safetensors` });
    }
    const draws = [];
    let run = null, chart = null;
    for (let i = 0; i < repeats; i++) {
        chart?.destroy();
        host.replaceChildren();
        draws.push(timed(() => {
            const history = new RunHistory();
            history.replace(curve);
            run = { history, validation, checkpoints, numSteps: steps * 2, bestStep: null };
            chart = new LossChart(host);
            chart.setRun(run);
        }));
        await frame();
    }
    const added = [];
    for (let i = 1; i <= appends; i++) {
        const point = { step: [steps + i], loss: [0.1 + 0.02 * Math.sin(i)], learning_rate: [1e-4] };
        added.push(timed(() => { run.history.append(point); chart.update(run); }));
        if (i % 10 === 0) await frame();
    }
    return { points: curve.step.length, draws, added };
}
"""


def load(name: str, path: Path) -> ModuleType:
    """The module of one file, without the packages above it, which want torch."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def curves(steps: int) -> dict[str, dict[str, list[Any]]]:
    """The same noisy run as the server thins it, and with a point for every step."""
    chance = random.Random(0)
    losses = [0.1 + 0.1 * math.exp(-step / 4000) + chance.gauss(0, 0.03) for step in range(1, steps + 1)]
    rates = [1e-4 * 0.5 * (1 + math.cos(math.pi * step / steps / 2)) for step in range(1, steps + 1)]
    loss_history = load("loss_history", ROOT / "trainer" / "runs" / "loss_history.py")
    found = {}
    for name, most in (("thinned", loss_history.MOST_POINTS), ("unthinned", steps)):
        history = loss_history.LossHistory(most)
        for step, (loss, rate) in enumerate(zip(losses, rates, strict=True), 1):
            history.add(step, loss, rate)
        found[name] = history.columns()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--appends", type=int, default=200)
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser")]
    environment, comfy_page = (
        load("environment", ROOT / "environment.py"),
        importlib.import_module("comfy_page"),
    )
    program = environment.find_chromium()
    if program is None:
        print("No Chromium found: set CHROMIUM_PATH to its program.")
        return 1

    slow = False
    with comfy_page.open_chromium(program) as browser:
        print(f"Chromium {browser.version}, {options.steps:,} steps, 420 x 220 px")
        tab = importlib.import_module("web_page").open_web_page(browser.new_context())
        for name, curve in curves(options.steps).items():
            times = tab.evaluate(MEASURE, {"curve": curve, **vars(options)})
            size = len(json.dumps(curve)) / 1024
            print(f"{name}: {times['points']:,} points, {size:.0f} KiB as JSON")
            for what, figures in (("draw", times["draws"]), ("new point", times["added"])):
                print(f"  {what}: median {statistics.median(figures):.2f} ms, max {max(figures):.2f} ms")
            if name == "thinned":
                slow = (
                    statistics.median(times["draws"]) > MOST_TO_DRAW
                    or statistics.median(times["added"]) > MOST_TO_APPEND
                )
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
