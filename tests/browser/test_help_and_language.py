"""The template browser, the help pages and Chinese, as a visitor finds them."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NODES = sorted(json.loads((ROOT / "tests" / "nodes" / "frozen_nodes.json").read_text("utf-8")))
IMAGES_LOADED = """(selector) => {
    const images = [...document.querySelectorAll(selector)];
    return images.length > 0 && images.every((image) => image.complete && image.naturalWidth > 0);
}"""
# as core's help dialog does it: the page in the locale, else the English one, with pictures beside it
HELP_PICTURES = r"""async (names) => {
    const missing = [];
    for (const name of names) {
        const page = `/extensions/sdxl-trainer/docs/${name}.md`, answer = await fetch(page);
        const text = await answer.text();
        const pictures = [...text.matchAll(/!\[[^\]]*\]\(([^)\s]+)\)/g)].map((match) => match[1]);
        if (!answer.ok || pictures.length === 0) missing.push([name, answer.status, pictures.length]);
        for (const picture of pictures) {
            const image = new Image();
            image.src = new URL(picture, new URL(page, location.href)).href;
            await image.decode().catch(() => missing.push([name, picture]));
        }
    }
    return missing;
}"""


def test_the_template_browser_lists_every_workflow_with_its_picture(page, workflows, shoot):
    page.do("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = page.tab.get_by_role("dialog")
    dialog.get_by_text("sdxl-trainer", exact=True).first.click()
    page.wait("(count) => document.querySelectorAll('[role=dialog] img').length === count", len(workflows))
    for index in range(len(workflows)):  # each is fetched when it comes into view, and may be let go after it
        dialog.locator("img").nth(index).evaluate("(image) => image.parentElement.scrollIntoView()")
        page.wait("(n) => document.querySelectorAll('[role=dialog] img')[n].naturalWidth > 0", index)
    words = dialog.inner_text()
    missing = [name for name in workflows if Path(name).stem not in words.replace(" ", "_")]
    assert missing == []
    shoot(page, "template_browser")


def test_every_help_page_is_served_with_its_pictures(shared_page):
    assert shared_page.do(HELP_PICTURES, NODES) == []


@pytest.mark.parametrize("name", ["SDXLTrainer_TrainSDXLLoRA", "SDXLTrainer_LoadDataset"])
def test_help_opens_from_the_node(shared_page, shoot, name):
    page = shared_page
    page.do("() => app.graph.clear()")
    page.do(
        """(name) => {
            const node = LiteGraph.createNode(name);
            app.graph.add(node);
            node.pos = [200, 100];
            app.canvas.selectNode(node);
            app.canvas.ds.scale = 1;
            app.canvas.ds.offset = [700, 300];  // beside the help
            app.canvas.setDirty(true, true);
        }""",
        name,
    )
    page.tab.locator("[data-testid=info-button]").first.click()
    page.wait(IMAGES_LOADED, f"img[src*='docs/pictures/{name}']")
    shoot(page, f"help_{name}")


def test_chinese_reaches_nodes_and_panel(open_tab, open_training, shoot):
    page = open_tab(Comfy_Locale="zh")
    panel = open_training(page, "chinese", 4)
    page.queue()
    panel.wait_for_state("done")
    shoot(page, "chinese")
    chinese = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))
    title = page.do("() => app.graph.nodes.find((n) => n.type === 'SDXLTrainer_TrainSDXLLoRA').title")
    assert title == chinese["SDXLTrainer_TrainSDXLLoRA"]["display_name"]
    words = panel.root.inner_text()
    texts = json.loads((ROOT / "locales" / "zh" / "main.json").read_text("utf-8"))["sdxlTrainer"]
    assert texts["panel"]["smoothing"] in words
    page.tab.locator(".p-toast-message", has_text="chinese").first.wait_for()
    english = json.loads((ROOT / "locales" / "en" / "main.json").read_text("utf-8"))["sdxlTrainer"]["panel"]
    assert english["smoothing"] not in words
