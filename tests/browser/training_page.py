"""What the browser tests do with a trainer node and its panel."""

import contextlib
import json

from playwright.sync_api import TimeoutError, expect

TRAIN = "SDXLTrainer_TrainSDXLLoRA"
TRIES = 5

PANEL = ".sdxlt-panel[data-node='{node}']"
NUMBERS = """(selector) => {
    const chart = document.querySelector(selector)?.querySelector(".sdxlt-chart");
    const points = Number(chart?.dataset.points ?? 0), lastStep = Number(chart?.dataset.lastStep ?? 0);
    return { points, lastStep };
}"""


class Panel:
    """The panel of one trainer node, by the node's execution id."""

    def __init__(self, page, node):
        self.page, self.selector = page, PANEL.format(node=node)
        self.root = page.tab.locator(self.selector).first

    @property
    def run(self):
        return self.root.get_attribute("data-run")

    @property
    def state(self):
        return self.root.get_attribute("data-state")

    def wait_for_state(self, *states, seconds=90):
        self.page.wait(
            """([selector, states]) =>
                states.includes(document.querySelector(selector)?.dataset.state)""",
            [self.selector, states],
            seconds,
        )

    def wait_for_points(self, count, seconds=90):
        """Wait until the chart draws at least `count` points of the loss."""
        self.page.wait(
            f"([selector, count]) => ({NUMBERS})(selector).points >= count", [self.selector, count], seconds
        )

    def numbers(self):
        """How many points the chart draws, and the last one's step."""
        found = self.page.do(NUMBERS, self.selector)
        return found["points"], found["lastStep"]

    def press(self, wish):
        """Press a button; ending a run asks for a second press."""
        button = self.root.locator(f"button[data-wish={wish}]")
        expect(button).to_be_enabled(timeout=20_000)
        for _ in range(TRIES):
            # a frontend that has just opened a graph may still move it out of view
            self.bring_into_view(f"button[data-wish={wish}]")
            with contextlib.suppress(TimeoutError):
                button.click(timeout=3000)
                if wish == "finish":
                    button.click(timeout=2000)
                return
        raise AssertionError(f"the button {wish} cannot be pressed")

    def bring_into_view(self, part=".sdxlt-chart"):
        """Move the canvas until a part of the panel is in the middle of the page."""
        self.page.do(
            """([selector, part]) => {
                const box = document.querySelector(selector).querySelector(part).getBoundingClientRect();
                const { ds } = app.canvas;
                ds.offset[0] += (innerWidth / 3 - box.left) / ds.scale;
                ds.offset[1] += (innerHeight / 2 - box.top) / ds.scale;
                app.canvas.setDirty(true, true);
            }""",
            [self.selector, part],
        )
        self.page.settle()

    def wait_for_pictures(self, count, seconds=90):
        """Wait until the strip shows at least `count` pictures that have really loaded."""
        self.page.wait(
            """([selector, count]) => {
                const strip = document.querySelector(selector)?.querySelector(".sdxlt-strip");
                const images = [...(strip?.querySelectorAll("img") ?? [])];
                return images.filter((image) => image.complete && image.naturalWidth > 0).length >= count;
            }""",
            [self.selector, count],
            seconds,
        )

    def pictures(self):
        """Where the strip's pictures come from, in its order."""
        return self.root.locator(".sdxlt-strip img").evaluate_all("(all) => all.map((image) => image.src)")

    def values(self):
        """The figures above the chart; the smoothed loss among them hangs on every step of the curve."""
        return self.root.locator(".sdxlt-values").inner_text()


def execution_id(page, node_type=TRAIN):
    return str(page.do("(type) => app.graph.nodes.find((node) => node.type === type).id", node_type))


def panel_of(page, node_type=TRAIN):
    return Panel(page, execution_id(page, node_type))


def make_small(page, name, steps):
    """Set the widgets of an opened training workflow so that it trains the stand-in on input/zorp."""
    page.change("SDXLTrainer_LoadDataset", folder="input/zorp", trigger="zorp", resolution=128)
    page.change(TRAIN, name=name, steps=steps, rank=4)
    page.change("EmptyLatentImage", width=128, height=128)
    page.change("KSampler", steps=2)


def metrics(base_directory, name):
    """What the run wrote for each step."""
    file = base_directory / "output" / "sdxl_trainer" / name / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]
