"""ComfyUI's frontend in a real Chromium, driven the way a user drives it.

Plain functions and one class, for the browser tests and for the scripts that make pictures of the pack. The
pages work the same in both frontends that the tests run in (1.27 and 1.49); where these differ, it is here.
"""

import contextlib
import copy
import json
import re
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--force-color-profile=srgb",
    # nothing off this machine can be found, so that what asks for it cannot slow a test or change it
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
QUIET = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.VueNodes.Enabled": False,
    "Comfy.Locale": "en",
    "Comfy.ColorPalette": "dark",
    "Comfy.Sidebar.Location": "left",
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.RightSidePanel.ShowErrorsTab": False,
    "Comfy.RightSidePanel.IsOpen": False,
}
"""Settings of a user who has been here before: no dialog lies over the canvas."""
READY = """() => window.app?.graph && window.LiteGraph?.registered_node_types
    && Object.keys(LiteGraph.registered_node_types).some((name) => name.startsWith("SDXLTrainer_"))"""
OURS = re.compile(r"sdxl[-_ ]?trainer|sdxlt", re.IGNORECASE)
# core looks for a help page in the visitor's language first, whatever the pack has
CORES_QUESTION = re.compile(r"\b404\b.*/docs/\w+/[\w-]+\.md")
QUEUE_BUTTON = "[data-testid=queue-button], button.p-splitbutton-button[aria-label=Run]"
TRAINERS = ("SDXLTrainer_TrainSDXLLoRA", "SDXLTrainer_PivotalTuning")
SECONDS = 60
ACTION_SECONDS = 20
POLL = 100  # milliseconds


@contextlib.contextmanager
def open_chromium(program):
    """A headless Chromium, as a playwright Browser, until the block ends."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(program), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def quiet_settings(base_directory, **changes):
    """Write the settings that a server in `base_directory` hands to the page; before it starts."""
    file = Path(base_directory) / "user" / "default" / "comfy.settings.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**QUIET, **changes}), "utf-8")


def with_stand_in(workflow):
    """A copy of a saved workflow whose checkpoint loaders are the test-only loader of the stand-in."""
    workflow = copy.deepcopy(workflow)
    for node in workflow["nodes"]:
        if node["type"] == "CheckpointLoaderSimple":
            node["type"], node["widgets_values"] = "StandInLoader", []
            node["properties"] = {"Node name for S&R": "StandInLoader"}
    return workflow


class ComfyPage:
    """One tab with ComfyUI in it."""

    def __init__(self, tab, url):
        self.tab, self.url = tab, url
        self.complaints = []
        tab.set_default_timeout(ACTION_SECONDS * 1000)
        tab.set_default_navigation_timeout(SECONDS * 1000)
        tab.on("console", self._hear)
        tab.on("pageerror", lambda error: self._note(f"page error: {error} {error.stack or ''}"))

    def _hear(self, message):
        if message.type in ("error", "warning"):
            self._note(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def _note(self, text):
        if OURS.search(text) and not CORES_QUESTION.search(text):
            self.complaints.append(text[:600])

    def open(self, **settings):
        """Go to ComfyUI with `settings` (Comfy_Locale="zh" for Comfy.Locale), and wait for our nodes."""
        named = {key.replace("_", "."): value for key, value in settings.items()}
        body = json.dumps({**QUIET, **named}).encode()
        request = urllib.request.Request(f"{self.url}/settings", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=60).close()
        self.tab.goto(self.url)
        self.wait(READY)
        return self

    def reload(self):
        """Press F5; the graph that was open comes back by itself."""
        count = self.do("() => app.graph.nodes.length")
        self.tab.reload()
        self.wait(READY)
        self.wait("(count) => app.graph.nodes.length === count", count)

    def do(self, code, argument=None):
        """Evaluate JavaScript in the page."""
        return self.tab.evaluate(code, argument)

    def wait(self, code, argument=None, seconds=SECONDS):
        """Wait until JavaScript in the page gives something true; that."""
        found = self.tab.wait_for_function(code, arg=argument, timeout=seconds * 1000, polling=POLL)
        return found.json_value()

    def set(self, name, value):
        """Change one of ComfyUI's settings as the settings dialog does."""
        self.do("([name, value]) => app.extensionManager.setting.set(name, value)", [name, value])

    def use_nodes_2(self, is_on):
        self.set("Comfy.VueNodes.Enabled", is_on)
        self.wait("(on) => Boolean(LiteGraph.vueNodesMode) === on", is_on)

    def load(self, graph):
        """Open a graph as the file menu does."""
        self.do("async (graph) => { await app.loadGraphData(graph); }", graph)
        self.wait("(count) => app.graph.nodes.length === count", len(graph["nodes"]))

    def graph(self):
        """The open graph as the file menu would save it."""
        return json.loads(self.do("() => JSON.stringify(app.graph.serialize())"))

    def is_early_nodes_2(self):
        """Whether nodes are drawn by the first form of Nodes 2.0, which keeps no sizes and no positions."""
        return self.do("() => LiteGraph.vueNodesMode && __COMFYUI_FRONTEND_VERSION__ < '1.30'")

    def change(self, node_type, **widgets):
        """Set widgets of every node of a type, as typing would."""
        self.do(
            """([type, widgets]) => {
                for (const node of app.graph.nodes.filter((node) => node.type === type)) {
                    for (const [name, value] of Object.entries(widgets)) {
                        const widget = node.widgets.find((widget) => widget.name === name);
                        widget.value = value;
                        widget.callback?.(value, app.canvas, node);
                    }
                }
            }""",
            [node_type, widgets],
        )

    def plug(self, settings_type, socket, **widgets):
        """Add a settings node and connect it to every trainer of the graph."""
        self.do(
            """([type, socket, trainers]) => {
                const made = LiteGraph.createNode(type);
                app.graph.add(made);
                const targets = app.graph.nodes.filter((node) => trainers.includes(node.type));
                made.pos = [targets[0].pos[0], targets[0].pos[1] - made.computeSize()[1] - 80];
                for (const node of targets) {
                    made.connect(0, node, node.inputs.findIndex((input) => input.name === socket));
                }
            }""",
            [settings_type, socket, list(TRAINERS)],
        )
        self.change(settings_type, **widgets)

    def queue(self):
        """Press the Run button."""
        self.tab.locator(QUEUE_BUTTON).first.click()

    def show(self, node_type, zoom=1.0):
        """Bring the first node of a type to the left of the canvas, under the menu."""
        self._bring("app.canvas.graph.nodes.find((node) => node.type === wanted)", node_type, zoom)

    def show_node(self, node, zoom=1.0):
        """Bring the node of an id to the left of the canvas."""
        self._bring("app.graph.nodes.find((node) => String(node.id) === wanted)", node, zoom)

    def _bring(self, finding, wanted, zoom):
        self.do(
            f"""([wanted, zoom]) => {{
                const node = {finding};
                app.canvas.ds.scale = zoom;
                app.canvas.ds.offset[0] = 120 / zoom - node.pos[0];
                app.canvas.ds.offset[1] = 130 / zoom - node.pos[1];
                app.canvas.setDirty(true, true);
            }}""",
            [wanted, zoom],
        )

    def fit(self):
        """Bring the whole graph into view."""
        self.do(
            """() => {
                const nodes = app.canvas.graph.nodes;
                const left = Math.min(...nodes.map((node) => node.pos[0]));
                const top = Math.min(...nodes.map((node) => node.pos[1])) - 40;
                const width = Math.max(...nodes.map((node) => node.pos[0] + node.size[0])) - left;
                const height = Math.max(...nodes.map((node) => node.pos[1] + node.size[1])) - top;
                const scale = Math.min((innerWidth - 150) / width, (innerHeight - 150) / height, 1.2);
                app.canvas.ds.scale = scale;
                app.canvas.ds.offset[0] = 80 / scale - left;
                app.canvas.ds.offset[1] = 110 / scale - top;
                app.canvas.setDirty(true, true);
            }"""
        )

    def settle(self):
        """Wait until two frames are drawn, so that what was changed is on the screen."""
        self.do("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def shot(self, path):
        self.settle()
        self.tab.screenshot(path=str(path))
