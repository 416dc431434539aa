"""Prompts, captions and names with markup are shown as what they are, and run nothing."""

import json
import shutil

import pytest

SCRIPT = "<script>window.wasRun = 1</script>"
IMAGE = '<img src=x onerror="window.wasRun = 2">'
WAS_RUN = "() => window.wasRun ?? 0"


@pytest.fixture
def hostile_folder(base_directory, example_folder):
    folder = base_directory / "input" / "hostile"
    if not folder.exists():
        folder.mkdir()
        for file in sorted(example_folder.glob("zorp_0[1-3].png")):
            shutil.copy(file, folder)
            (folder / f"{file.stem}.txt").write_text(f"{IMAGE} a zorp {SCRIPT}", "utf-8")
    return "input/hostile"


def test_prompts_captions_and_triggers_show_as_text(page, open_training, client, hostile_folder):
    panel = open_training(page, "hostile", 4, preview_every=10, prompts=f"a zorp {IMAGE}\n{SCRIPT}")
    page.change("SDXLTrainer_LoadDataset", folder=hostile_folder, trigger=IMAGE)
    page.queue()
    panel.wait_for_state("done")
    panel.wait_for_pictures(1)
    page.tab.locator(".sdxl-trainer-tab-button").click()
    sidebar = page.tab.locator(".sdxlt-sidebar")
    sidebar.get_by_role("gridcell").first.wait_for()
    for root in (panel.root, sidebar):
        assert IMAGE in root.evaluate("(root) => root.textContent")
        assert root.locator("script, img[src=x]").count() == 0
    page.tab.locator(".p-toast-message", has_text="hostile").first.wait_for()
    look = page.tab.locator("[data-sdxl-trainer=dataset-look]").first
    look.locator("[data-sdxl-trainer=sheet]").wait_for()
    assert look.locator("script, img[src=x]").count() == 0
    assert page.do(WAS_RUN) == 0
    assert IMAGE in json.dumps(client.get(f"/sdxl_trainer/runs/{panel.run}")["previews"]).replace('\\"', '"')


def test_an_event_made_of_markup_shows_as_text(page, open_training):
    panel = open_training(page, "plain", 4)
    page.queue()
    panel.wait_for_state("done")
    page.do(
        """async ([run, script, image]) => {
            const answer = await app.api.fetchApi(`/sdxl_trainer/runs/${run}`);
            const { history, ...state } = await answer.json();
            const texts = { message: image, name: script, lora_file: image, trigger_words: script };
            const detail = { ...state, ...texts, revision: state.revision + 1000, state: "failed" };
            app.api.dispatchEvent(new CustomEvent("sdxl_trainer.run", { detail }));
        }""",
        [panel.run, SCRIPT, IMAGE],
    )
    panel.wait_for_state("failed")
    assert IMAGE in panel.root.evaluate("(root) => root.textContent")
    assert panel.root.locator("script, img[src=x]").count() == 0
    assert page.do(WAS_RUN) == 0


def test_the_report_page_runs_nothing(page, open_training, open_tab, client, server, hostile_folder):
    panel = open_training(page, "reported", 4, preview_every=10, prompts=f"a zorp {IMAGE}")
    page.change("SDXLTrainer_LoadDataset", folder=hostile_folder, trigger=IMAGE)
    page.queue()
    panel.wait_for_state("done")
    assert client.get(f"/sdxl_trainer/runs/{panel.run}")["has_report"]
    tab = page.tab.context.new_page()
    answer = tab.goto(f"{server.url}/api/sdxl_trainer/runs/{panel.run}/report")
    assert "default-src 'none'" in answer.all_headers()["content-security-policy"]
    assert IMAGE in tab.locator("body").inner_text()
    assert tab.locator("script, img[src=x]").count() == 0
    assert tab.evaluate(WAS_RUN) == 0
