"""What of a run is in its chart."""

import math

import pytest
from sdxl_trainer.trainer.report.loss_chart import Proposal, loss_chart, propose
from sdxl_trainer.trainer.runs.loss_history import read_history
from sdxl_trainer.trainer.runs.validation import HeldOutLosses


def measured(*losses):
    held_out = HeldOutLosses()
    for number, loss in enumerate(losses):
        held_out.add(10 * number, loss)
    return held_out


def series_of(chart):
    return {series.kind: series for panel in chart.panels for series in (*panel.series, *panel.right_series)}


@pytest.mark.parametrize(
    ("losses", "has_file", "proposal", "words"),
    [
        ((), False, Proposal(), ""),
        ((0.3, 0.2, 0.1), False, Proposal(20, has_file=True), "the last measurement"),
        ((0.3, 0.1, 0.2), True, Proposal(10, has_file=True), "try checkpoint_step 10"),
        ((0.3, 0.1, 0.2), False, Proposal(10, has_file=False), "was not kept"),
        ((0.1, 0.2, 0.3), True, Proposal(), "never below"),
        ((math.nan, 0.2, 0.3), True, Proposal(10, has_file=True), "try checkpoint_step 10"),
    ],
)
def test_the_proposed_step_is_that_of_the_sentence(losses, has_file, proposal, words):
    held_out = measured(*losses)
    assert propose(held_out, 20, has_file) == proposal
    assert words in held_out.describe(has_file)


def test_dots_line_rate_and_held_out_points_are_those_of_the_log(made_run):
    chart = loss_chart(read_history(made_run.files.metrics), [10, 20], 30, Proposal(20, has_file=True))
    series = series_of(chart)
    assert series["raw"].points == [(n, round(0.1 + 0.001 * ((n - 1) % 7), 6)) for n in range(1, 31)]
    assert [step for step, _ in series["smooth"].points] == list(range(1, 31))
    assert series["rate"].points == [(n, 1e-4) for n in range(1, 31)]
    assert series["held_out"].points == [(0, 0.30), (10, 0.20), (20, 0.15), (30, 0.25)]
    assert series["held_out"].titles[2] == "step 20: held-out loss 0.1500"
    assert series["base"].points == [(0, 0.30), (30, 0.30)]
    assert series["best"].points == [(20, 0.15)]


def test_checkpoints_are_marked_and_the_proposed_one_is_told_apart(made_run):
    chart = loss_chart(read_history(made_run.files.metrics), [10, 20], 30, Proposal(20, has_file=True))
    assert [(mark.step, mark.label, mark.is_proposed) for mark in chart.marks] == [
        (10, "", False),
        (20, "proposed", True),
    ]


def test_a_long_run_keeps_its_extremes_in_few_points(made_run):
    losses = [0.1] * 9000
    losses[4321], losses[1234] = 0.9, None
    made_run.log(losses, {})
    chart = loss_chart(read_history(made_run.files.metrics), [], 9000, Proposal())
    raw = series_of(chart)["raw"].points
    assert len(raw) < 6000
    assert max(value for _, value in raw) == 0.9
    assert chart.panels[0].axis.high < 0.9  # one step out of 9,000 does not flatten the rest
    assert len(chart.panels) == 1


def test_nothing_logged_is_no_chart(tmp_path):
    assert loss_chart(read_history(tmp_path / "none.jsonl"), [10], 30, Proposal()) is None
