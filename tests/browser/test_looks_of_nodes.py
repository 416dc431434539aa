"""What LoadDataset and the trainer show before anything runs, as their widgets change."""

import pytest

LOAD, TRAIN = "SDXLTrainer_LoadDataset", "SDXLTrainer_TrainSDXLLoRA"
DATASET_LOOK = "[data-sdxl-trainer=dataset-look]"
PRESET_LOOK = ".sdxl-trainer-preset-look"
SHOWN = """(selector) => {
    const look = document.querySelector(selector);
    const text = (name) => look?.querySelector(`[data-sdxl-trainer=${name}]`)?.textContent ?? "";
    const sheet = look?.querySelector("[data-sdxl-trainer=sheet]");
    const rows = [...(look?.querySelectorAll("[data-setting]") ?? [])];
    return look && look.dataset.busy !== "true" && {
        words: look.textContent, error: text("error"),
        sheet: sheet?.checkVisibility() && sheet.complete && sheet.naturalWidth > 0 ? sheet.src : "",
        rows: Object.fromEntries(rows.map((row) => [
            row.dataset.setting, row.querySelector("[data-sdxl-trainer=value]").textContent])),
    };
}"""


@pytest.fixture
def opened(shared_page, open_training):
    open_training(shared_page, "looked_at", 60)
    return shared_page


def shown(page, selector, condition):
    """What a look shows once a condition in JavaScript on it (as `look`) is true."""
    return page.wait(
        f"(selector) => {{ const look = ({SHOWN})(selector); return look && ({condition}) && look; }}",
        selector,
    )


def test_the_sheet_and_the_arithmetic_follow_the_widgets(opened, shoot):
    page = opened
    page.show(LOAD)
    before = shown(page, DATASET_LOOK, "look.sheet && look.words.includes('12 pictures')")
    assert before["error"] == ""
    shoot(page, "look_dataset")
    page.change(LOAD, repeats=3)
    after = shown(page, DATASET_LOOK, "look.words.includes('3 repeats')")
    assert after["words"] != before["words"]
    page.change(LOAD, resolution=64)
    smaller = shown(page, DATASET_LOOK, f"look.sheet && look.words !== {after['words']!r}")
    assert smaller["error"] == ""


@pytest.mark.parametrize("bad", [{"folder": "input/nowhere"}, {"background": "no colour"}], ids=str)
def test_a_bad_value_is_said_in_a_sentence(opened, shoot, bad):
    page = opened
    page.show(LOAD)
    shown(page, DATASET_LOOK, "look.sheet")
    page.change(LOAD, **bad)
    found = shown(page, DATASET_LOOK, "look.error")
    assert len(found["error"].split()) > 4
    assert found["sheet"] == ""
    assert not any(word in found["error"] for word in ("Traceback", "Error:", "/root", "/tmp"))
    shoot(page, f"look_error_{next(iter(bad))}")
    page.change(LOAD, folder="input/zorp", background="#ffffff")
    assert shown(page, DATASET_LOOK, "look.sheet")["error"] == ""


def test_the_presets_look_follows_the_preset_and_the_widgets(opened, shoot):
    page = opened
    page.show(TRAIN)
    person = shown(page, PRESET_LOOK, "Object.keys(look.rows).length > 3")["rows"]
    shoot(page, "look_preset")
    assert person["rank"] == "4"  # typed into the widget
    page.change(TRAIN, rank=0, preset="style")
    style = shown(page, PRESET_LOOK, "look.rows.rank !== '4'")["rows"]
    assert style["rank"] != "4"
    assert {key for key in style if style[key] != person.get(key)} > {"rank"}


def test_looks_are_seen_in_nodes_2_and_afterwards(opened, shoot):
    page = opened
    page.use_nodes_2(True)
    try:
        page.show(LOAD)
        page.settle()
        shoot(page, "look_nodes_2")
        if not page.is_early_nodes_2():  # which shows no DOM widget of anybody
            shown(page, DATASET_LOOK, "look.sheet")
            page.tab.locator(DATASET_LOOK).first.wait_for(state="visible")
    finally:
        page.use_nodes_2(False)
    page.show(LOAD)
    shown(page, DATASET_LOOK, "look.sheet")


def test_looks_add_nothing_to_what_is_saved_or_queued(opened):
    page = opened
    shown(page, DATASET_LOOK, "look.sheet")
    for node in page.graph()["nodes"]:
        if node["type"] in (LOAD, TRAIN):
            assert len(node["widgets_values"]) == {LOAD: 12, TRAIN: 11}[node["type"]]
    prompt = page.do("async () => JSON.stringify((await app.graphToPrompt()).output)")
    assert "sdxl_trainer_look" not in prompt
    assert "sdxl_trainer_panel" not in prompt
    assert "data:image" not in prompt
