"""Buttons, reload, a second tab, a lost connection and Nodes 2.0, all on one long run."""

import pytest

TRAIN = "SDXLTrainer_TrainSDXLLoRA"
NAME, STEPS = "steered", 20_000
LOSE_CONNECTION = """() => new Promise((done) => {
    app.api.addEventListener("reconnected", done, { once: true });
    app.api.socket.close();
})"""


@pytest.fixture(scope="module")
def watched(shared_page, open_training):
    """(page, panel) of a run that is under way."""
    panel = open_training(shared_page, NAME, STEPS, preview_every=400)
    shared_page.queue()
    panel.wait_for_points(10)
    panel.wait_for_pictures(1)
    return shared_page, panel


@pytest.fixture
def running(watched):
    """The same, under way whatever the test before left behind."""
    page, panel = watched
    page.show(TRAIN)
    if panel.state == "paused":
        panel.press("go_on")
    panel.wait_for_state("training")
    return page, panel


@pytest.fixture
def paused(running):
    """The same run, held."""
    page, panel = running
    panel.press("pause")
    panel.wait_for_state("paused")
    return page, panel


def test_pause_holds_the_run_and_go_on_takes_it_up(paused, client, shoot):
    page, panel = paused
    shoot(page, "paused")
    held = client.get(f"/sdxl_trainer/runs/{panel.run}")["step"]
    points, last = panel.numbers()
    assert last == held
    page.tab.wait_for_timeout(700)  # seven times as long as a step, or more
    assert client.get(f"/sdxl_trainer/runs/{panel.run}")["step"] == held
    panel.press("go_on")
    panel.wait_for_state("training")
    panel.wait_for_points(points + 5)


def test_sample_now_brings_pictures_of_this_step(running):
    _, panel = running
    before = len(panel.pictures())
    panel.press("sample")
    panel.wait_for_pictures(before + 1)
    assert len(set(panel.pictures())) == len(panel.pictures())


def test_save_now_writes_a_checkpoint_and_the_chart_marks_it(running, client, base_directory):
    page, panel = running
    full = f"/sdxl_trainer/runs/{panel.run}"
    before = [mark["file"] for mark in client.get(full)["checkpoints"]]
    panel.press("save")
    page.wait(
        "([selector, count]) => document.querySelector(selector).dataset.checkpoints > count",
        [f"{panel.selector} .sdxlt-chart", len(before)],
    )
    (new, *_) = [m["file"] for m in client.get(full)["checkpoints"] if m["file"] not in before]
    assert "/" not in new
    assert (base_directory / "models" / "loras" / new).exists()


def test_a_reload_shows_the_same_chart_and_pictures_and_goes_on(paused, training_page, shoot):
    page, panel = paused
    numbers, values, pictures = panel.numbers(), panel.values(), panel.pictures()
    run = panel.run
    page.reload()
    panel = training_page.panel_of(page)
    page.show(TRAIN)
    panel.wait_for_state("paused")
    panel.wait_for_points(numbers[0])
    panel.wait_for_pictures(len(pictures))
    shoot(page, "reloaded")
    assert panel.run == run
    assert panel.numbers() == numbers
    assert panel.pictures() == pictures
    assert panel.values() == values
    panel.press("go_on")
    panel.wait_for_state("training")
    panel.wait_for_points(numbers[0] + 5)


def test_a_second_tab_agrees_and_may_steer(paused, open_tab_of_module, training_page):
    page, panel = paused
    other = open_tab_of_module()
    other.load(page.graph())
    other.show(TRAIN)
    there = training_page.panel_of(other)
    there.wait_for_state("paused")
    there.wait_for_points(panel.numbers()[0])
    assert there.run == panel.run
    assert there.numbers() == panel.numbers()
    assert there.values() == panel.values()
    there.wait_for_pictures(len(panel.pictures()))
    assert there.pictures() == panel.pictures()
    there.press("go_on")
    there.wait_for_state("training")
    panel.wait_for_state("training")
    other.tab.close()


def test_what_a_lost_connection_missed_is_caught_up(running):
    page, panel = running
    before, _ = panel.numbers()
    for _ in range(3):
        page.do(LOSE_CONNECTION)
    panel.wait_for_points(before + 20)
    panel.press("pause")
    panel.wait_for_state("paused")
    points, last = panel.numbers()
    assert points == last  # no step between the first and the last is missing


def test_nodes_2_on_and_off_keeps_chart_and_pictures(paused, shoot):
    page, panel = paused
    before = panel.numbers(), panel.values(), panel.pictures()
    page.use_nodes_2(True)
    try:
        page.show(TRAIN)
        page.settle()
        shoot(page, "nodes_2_under_way")
        if page.is_early_nodes_2():  # which shows no DOM widget of anybody, core's own neither
            _watch_in_the_sidebar(page, panel)
        else:
            _watch_on_the_node(panel, before)
    finally:
        page.use_nodes_2(False)
    page.show(TRAIN)
    panel.root.wait_for(state="visible")
    panel.wait_for_state("paused")
    panel.wait_for_points(before[0][0])
    panel.wait_for_pictures(len(before[2]))
    assert panel.numbers()[0] == panel.numbers()[1]


def _watch_on_the_node(panel, before):
    panel.root.wait_for(state="visible")
    panel.wait_for_points(before[0][0])
    panel.wait_for_pictures(len(before[2]))
    assert (panel.numbers(), panel.values(), panel.pictures()) == before
    panel.press("go_on")
    panel.wait_for_state("training")
    panel.wait_for_points(before[0][0] + 5)
    panel.press("pause")
    panel.wait_for_state("paused")


def _watch_in_the_sidebar(page, panel):
    tab = page.tab.locator(".sdxl-trainer-tab-button")
    tab.click()
    wide = page.tab.locator(".sdxlt-sidebar .sdxlt-panel")
    wide.wait_for()
    assert wide.get_attribute("data-state") == "paused"
    assert wide.locator(".sdxlt-chart").get_attribute("data-points") != "0"
    tab.click()


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_the_panels_words_stand_out_from_their_ground(paused, contrasts, shoot, theme):
    page, panel = paused
    page.set("Comfy.ColorPalette", theme)
    page.settle()
    shoot(page, f"panel_{theme}")
    found = contrasts(panel.root)
    page.set("Comfy.ColorPalette", "dark")
    assert len(found) >= 5
    assert {text: ratio for text, ratio in found.items() if ratio < 4.5} == {}
