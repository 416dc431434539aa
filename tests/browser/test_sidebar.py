"""The sidebar's tab: the runs, the wide panel, the grid of pictures and the keys that walk it."""

import pytest

NAME, PROMPTS = "walked", 2
CHOSEN = """() => {
    const cell = document.querySelector(".sdxlt-sidebar [role=gridcell][aria-selected=true] img");
    return cell ? [Number(cell.dataset.step), Number(cell.dataset.prompt)] : null;
}"""
LARGE = """() => {
    const image = document.querySelector(".sdxlt-sidebar .sdxlt-picture img");
    return image?.checkVisibility() && image.complete && image.naturalWidth > 0 ? image.src : "";
}"""


@pytest.fixture(scope="module")
def trained(shared_page, open_training):
    """(page, panel) of a finished run with two prompts at three steps."""
    panel = open_training(shared_page, NAME, 20, preview_every=10)
    shared_page.queue()
    panel.wait_for_state("done")
    return shared_page, panel


@pytest.fixture
def sidebar(trained):
    page, panel = trained
    root = page.tab.locator(".sdxlt-sidebar")
    if not root.is_visible():
        page.tab.locator(".sdxl-trainer-tab-button").click()
    root.wait_for()
    root.get_by_role("option").filter(has_text=NAME).first.click()
    root.get_by_role("gridcell").first.wait_for()
    return page, panel, root


def test_the_tab_shows_the_run_with_prompts_as_rows_and_steps_as_columns(sidebar, shoot):
    page, panel, root = sidebar
    assert root.locator(".sdxlt-panel").get_attribute("data-run") == panel.run
    cells = (
        root.get_by_role("gridcell")
        .locator("img")
        .evaluate_all(
            "(all) => all.map((image) => [Number(image.dataset.prompt), Number(image.dataset.step)])"
        )
    )
    steps = sorted({step for _, step in cells})
    assert steps == [0, 10, 20]
    assert cells == [[prompt, step] for prompt in range(PROMPTS) for step in steps]
    page.wait(
        """() => [...document.querySelectorAll(".sdxlt-sidebar [role=gridcell] img")]
            .every((image) => image.complete && image.naturalWidth > 0)"""
    )
    shoot(page, "sidebar")


def test_arrow_keys_walk_the_grid_and_escape_leaves_the_large_picture(sidebar, shoot):
    page, _, root = sidebar
    root.get_by_role("gridcell").first.click()
    first = page.wait(LARGE)
    assert page.do(CHOSEN) == [0, 0]
    shoot(page, "sidebar_large_picture")
    for key, place in (
        ("ArrowRight", [10, 0]),
        ("ArrowDown", [10, 1]),
        ("ArrowRight", [20, 1]),
        ("ArrowRight", [20, 1]),
        ("ArrowUp", [20, 0]),
        ("ArrowLeft", [10, 0]),
    ):
        page.tab.keyboard.press(key)
        page.wait(
            f"(place) => JSON.stringify(({CHOSEN})()) === JSON.stringify(place)",
            place,
        )
    page.wait(f"(first) => {{ const now = ({LARGE})(); return now && now !== first; }}", first)
    page.tab.keyboard.press("Escape")
    page.wait("() => !document.querySelector('.sdxlt-sidebar .sdxlt-picture')?.checkVisibility()")


def test_a_picture_of_the_strip_opens_large_in_the_sidebar(sidebar):
    page, panel, root = sidebar
    page.tab.locator(".sdxl-trainer-tab-button").click()
    root.wait_for(state="hidden")
    page.show("SDXLTrainer_TrainSDXLLoRA")
    panel.root.locator(".sdxlt-strip img").last.click()
    root.wait_for()
    assert "/20/0" in page.wait(LARGE)


def test_the_tab_closes_and_opens_again_as_it_was(sidebar):
    page, panel, root = sidebar
    for state in ("hidden", "visible"):
        page.tab.locator(".sdxl-trainer-tab-button").click()
        root.wait_for(state=state)
    page.wait(
        "(run) => document.querySelector('.sdxlt-sidebar .sdxlt-panel')?.dataset.run === run", panel.run
    )
