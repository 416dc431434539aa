"""The course of a run in few points: means stay means, no end is lost, logs are read as heard."""

import json
import math
import random

import pytest
from sdxl_trainer.trainer.runs.loss_history import MOST_POINTS, LossHistory, read_end, read_history


def history_of(losses, most_points=MOST_POINTS):
    history = LossHistory(most_points)
    for step, loss in enumerate(losses, start=1):
        history.add(step, loss, step * 1e-6)
    return history


def test_few_steps_are_points_of_their_own():
    assert history_of([0.5, 0.25, math.nan]).columns() == {
        "step": [1, 2, 3],
        "loss": [0.5, 0.25, None],
        "low": [0.5, 0.25, None],
        "high": [0.5, 0.25, None],
        "learning_rate": [1e-6, 2e-6, 3e-6],
    }
    assert LossHistory().columns()["step"] == []
    assert LossHistory().last_step == 0


def test_neighbours_merge_in_pairs_and_the_last_step_stays_the_last():
    columns = history_of([1.0, 3.0, 2.0, 6.0, 5.0], most_points=4).columns()
    assert columns["step"] == [2, 4, 5]
    assert columns["loss"] == [2.0, 4.0, 5.0]
    assert columns["low"] == [1.0, 2.0, 5.0]
    assert columns["high"] == [3.0, 6.0, 5.0]
    assert columns["learning_rate"] == [2e-6, 4e-6, 5e-6]


def test_skipped_steps_spoil_no_mean():
    columns = history_of([1.0, math.nan, math.inf, math.nan, 4.0], most_points=4).columns()
    assert columns["step"] == [2, 4, 5]
    assert columns["loss"] == [1.0, None, 4.0]
    assert columns["high"] == [1.0, None, 4.0]


@pytest.mark.parametrize("num_steps", [1, 1999, 2000, 2001, 3999, 4000, 4001, 20_000])
def test_any_number_of_steps_stays_few_points_with_the_mean_of_all(num_steps):
    losses = [random.Random(step).random() for step in range(num_steps)]
    history = history_of(losses)
    columns = history.columns()
    assert len(history) == len(columns["loss"]) <= MOST_POINTS
    assert len(history) >= min(num_steps, MOST_POINTS // 2)
    assert columns["step"][-1] == history.last_step == num_steps
    assert columns["step"] == sorted(set(columns["step"]))
    sizes = [b - a for a, b in zip([0, *columns["step"]], columns["step"], strict=False)]
    weighted = sum(size * loss for size, loss in zip(sizes, columns["loss"], strict=True))
    assert weighted / num_steps == pytest.approx(sum(losses) / num_steps, rel=1e-5)
    assert min(columns["low"]) == pytest.approx(min(losses), rel=1e-5)
    assert max(columns["high"]) == pytest.approx(max(losses), rel=1e-5)


def test_twenty_thousand_steps_are_far_below_a_megabyte():
    text = json.dumps(history_of([math.pi / step for step in range(1, 20_001)]).columns())
    assert len(text) < 150_000
    assert "3.141592653" not in text


def write_log(path, lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def step_line(step, loss=0.5):
    return {"step": step, "loss": loss, "learning_rate": 1e-4, "seconds": 0.25}


def test_a_log_gives_the_same_course_as_having_heard_it(tmp_path):
    losses = [0.1 + 0.001 * (step % 7) for step in range(5000)]
    heard = LossHistory()
    for step, loss in enumerate(losses, start=1):
        heard.add(step, loss, 1e-4)
    lines = [step_line(step, loss) for step, loss in enumerate(losses, start=1)]
    read = read_history(write_log(tmp_path / "metrics.jsonl", lines))
    assert read.losses.columns() == heard.columns()
    assert read.seconds == pytest.approx(5000 * 0.25)


def test_a_log_is_read_up_to_a_step(tmp_path):
    lines = [{"step": 0, "validation_loss": 0.9}, step_line(1), step_line(2)]
    lines += [{"step": 2, "validation_loss": 0.8}, step_line(3), {"step": 3, "validation_loss": None}]
    path = write_log(tmp_path / "metrics.jsonl", lines)
    until = read_history(path, 2)
    assert until.losses.columns()["step"] == [1, 2]
    assert until.validation == [(0, 0.9), (2, 0.8)]
    assert read_history(path).validation[-1] == (3, None)


def test_lines_that_cannot_be_read_are_passed_over(tmp_path):
    odd = ["", "null", "[1]", '{"step": 2, "lo', "\x00", "[" * 100_000, '{"step": "4"}', '{"step": true}']
    odd += ['{"step": 2.5, "loss": 1}', f'{{"step": 5, "loss": 1{"0" * 400}, "learning_rate": "x"}}']
    odd += ['{"step": 6, "loss": NaN, "seconds": Infinity}', {"step": 3, "validation_loss": "low"}]
    run = read_history(
        write_log(tmp_path / "metrics.jsonl", [step_line(1), *odd, step_line(7), step_line(2)])
    )
    assert run.losses.columns()["step"] == [1, 5, 6, 7]
    assert run.losses.columns()["loss"] == [0.5, None, None, 0.5]
    assert run.validation == [(3, None)]
    assert run.step_seconds == [0.25, 0.25]


def test_a_missing_log_or_a_folder_in_its_place_is_an_empty_course(tmp_path):
    assert len(read_history(tmp_path / "none.jsonl").losses) == 0
    assert len(read_history(tmp_path).losses) == 0


def test_the_end_of_a_long_log_tells_where_the_run_stands(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": n, "loss": n / 10, "learning_rate": 1e-4} for n in range(1, 3001)]
    lines += [{"step": 3000, "validation_loss": 0.5}]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"step": 3001, "lo')
    end = read_end(path)
    assert end.losses.last_step == 3000
    assert end.losses.columns()["loss"][-1] == 300.0
    assert end.validation == [(3000, 0.5)]
    assert len(end.losses) < 1000
    assert read_end(tmp_path / "none").losses.last_step == 0
