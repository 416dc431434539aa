"""The settings that a trainer node shows before a run are those of the run and of its report."""

import pytest


@pytest.fixture
def look():
    """A function: the look of a request's body, with a dataset or without."""
    from sdxl_trainer.nodes.browser.settings_look import SettingsChoice, settings_look

    return lambda content, dataset=None: settings_look(SettingsChoice.of(content), dataset)


@pytest.fixture
def dataset(example_folder):
    from sdxl_trainer.trainer.config import DatasetConfig
    from sdxl_trainer.trainer.data.dataset import load_dataset

    return load_dataset(example_folder, DatasetConfig(resolution=128))


def value_of(look, setting):
    (row,) = [row for row in look["rows"] if row["setting"] == setting]
    return row["value"], row["origin"], row["kind"]


@pytest.mark.parametrize("preset", ["person", "style", "huggy", "web_style", "kohya_avatar"])
def test_rows_and_arithmetic_are_those_of_a_runs_report(look, dataset, preset):
    from sdxl_trainer.trainer.config import RunConfig, ValidationConfig
    from sdxl_trainer.trainer.runs.run_report import describe_arithmetic
    from sdxl_trainer.trainer.settings.presets import Settings, Widgets, explain, prepared, resolve

    sections = {"run": {"gradient_accumulation": 2}, "validation": {"validation_share": 0.25}}
    widgets = {"rank": 8, "learning_rate": 2e-4, "seed": 7}
    told = look({"preset": preset, "widgets": widgets, "settings": sections}, dataset)

    settings = Settings(
        run=RunConfig(**sections["run"]), validation=ValidationConfig(**sections["validation"])
    )
    chosen = preset, Widgets(name="x", **widgets), settings, prepared(preset, dataset)
    lines = [f"{row['setting']} {row['value']} ({row['origin']}" for row in told["rows"]]
    report = explain(*chosen)
    assert len(lines) > 5
    assert all(line.startswith(row) for line, row in zip(report, lines, strict=False))
    assert told["note"] == "; ".join(report[len(lines) :])
    config = resolve(*chosen)
    trained = chosen[3].split(0.25)[0]
    assert told["arithmetic"] == describe_arithmetic(config, trained)
    assert told["numbers"] == {
        "pictures": len(trained.pictures),
        "samples": trained.num_samples,
        "batch": config.batch_size,
        "accumulation": 2,
        "an_epoch": trained.batches_per_epoch(config.batch_size) / 2,
    }
    assert f"{config.steps} steps" in told["arithmetic"]


def test_each_value_tells_who_set_it(look, dataset):
    body = {"preset": "person", "widgets": {"rank": 8, "steps": 24}, "settings": {"optimizer": {}}}
    told = look(body, dataset)
    assert value_of(told, "rank") == ("8", "node", "widget")
    assert value_of(told, "targets")[1:] == ("preset person", "preset")
    assert value_of(told, "alpha") == ("8", "same as rank", "usual")
    assert value_of(told, "schedule")[1:] == ("optimizer settings", "settings")
    assert value_of(told, "steps") == ("24", "node", "widget")
    assert (told["steps"], told["epochs"]) == (24, 2)


def test_without_a_dataset_the_length_is_as_the_preset_puts_it(look):
    told = look({"preset": "person", "widgets": {}})
    assert told["arithmetic"] == ""
    value, _, kind = value_of(told, "length")
    assert "steps a picture" in value
    assert kind == "preset"
    assert value_of(look({"preset": "person", "widgets": {"epochs": 3}}), "epochs")[0] == "3"
    pivotal = look({"preset": "huggy", "widgets": {"token": "TOK"}})
    assert not any("of 1" in row["value"] for row in pivotal["rows"])


def test_a_preset_says_what_else_it_asks_for(look):
    assert "Load Dataset: resolution 1024" in look({"preset": "tutorial", "widgets": {}})["note"]


def test_what_another_node_sets_is_left_out_and_so_is_a_length_that_hangs_on_it(look, dataset):
    body = {"preset": "person", "widgets": {}, "unknown": ["lora", "learning_rate"]}
    told = look(body, dataset)
    assert not {"rank", "alpha", "targets", "learning rate"} & {row["setting"] for row in told["rows"]}
    assert told["arithmetic"]
    told = look({**body, "unknown": ["batch_size"]}, dataset)
    assert told["arithmetic"] == ""
    told = look({**body, "unknown": ["steps"]}, dataset)
    assert not {"steps", "epochs", "length"} & {row["setting"] for row in told["rows"]}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"preset": "nobody", "widgets": {}}, "nobody"),
        ({"preset": "person", "widgets": {"rank": -3}}, "rank"),
        ({"preset": "person", "widgets": {"learning_rate": float("nan")}}, "learning_rate"),
        ({"preset": "person", "widgets": {}, "settings": {"lora": {"rank": 10**9}}}, "rank"),
    ],
)
def test_values_that_a_run_refuses_are_refused_in_its_words(look, dataset, body, named):
    from sdxl_trainer.nodes.browser.json_body import BadRequestError
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises((InputError, BadRequestError), match=named):
        look(body, dataset)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"preset": 3},
        {"preset": "person", "widgets": []},
        {"preset": "person", "widgets": {"colour": 1}},
        {"preset": "person", "widgets": {"steps": 1.5}},
        {"preset": "person", "widgets": {}, "settings": ["lora"]},
        {"preset": "person", "widgets": {}, "settings": {"nothing": {}}},
        {"preset": "person", "widgets": {}, "settings": {"lora": None}},
        {"preset": "person", "widgets": {}, "unknown": ["nothing"]},
        {"preset": "person", "widgets": {}, "unknown": [[]]},
        {"preset": "person", "widgets": {}, "dataset": "input/zorp"},
        {"preset": "person", "widgets": {}, "dataset": []},
        {"preset": "person", "widgets": {}, "dataset": [{"folder": "input/zorp"}] * 5},
    ],
)
def test_what_no_widget_can_send_is_malformed(look, body):
    from sdxl_trainer.nodes.browser.json_body import BadRequestError

    with pytest.raises(BadRequestError):
        look(body)


def test_every_section_and_widget_of_a_trainer_can_be_sent(look):
    """No type of a setting is unknown to the check: all defaults pass through it."""
    import dataclasses

    from sdxl_trainer.trainer.config import SECTIONS
    from sdxl_trainer.trainer.settings.presets import Widgets

    sections = {name: dataclasses.asdict(kind()) for name, kind in SECTIONS.items()}
    widgets = dataclasses.asdict(Widgets(name="x"))
    assert look({"preset": "person", "widgets": widgets, "settings": sections})["rows"]
