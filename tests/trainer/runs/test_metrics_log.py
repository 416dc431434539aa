import json
import math

from sdxl_trainer.trainer.events import StepReport
from sdxl_trainer.trainer.runs.metrics_log import (
    MetricsLog,
    forget_measurement,
    logged_held_out_losses,
    logged_losses,
)


def a_step(number, loss=0.5):
    return StepReport(
        step=number,
        num_steps=10,
        epoch=number / 3,
        loss=loss,
        grad_norm=loss,
        learning_rate=1e-4,
        seconds=0.1,
        effective_learning_rate=2e-4,
    )


def test_skipped_steps_are_null_and_no_loss(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    log.step(a_step(1, 0.25))
    log.step(a_step(2, math.nan))
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first == {
        "step": 1,
        "epoch": 0.3333,
        "loss": 0.25,
        "grad_norm": 0.25,
        "learning_rate": 1e-4,
        "effective_learning_rate": 2e-4,
        "seconds": 0.1,
    }
    assert second["loss"] is None
    assert logged_losses(path) == [0.25]


def test_lines_after_the_resumed_step_go(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    for number in (1, 2, 3):
        log.step(a_step(number))
    MetricsLog(path, 2).step(a_step(3, 0.125))
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [0.5, 0.5, 0.125]


def test_losses_of_a_log_that_is_gone_are_none(tmp_path):
    assert logged_losses(tmp_path / "none") == []


def test_a_log_that_cannot_be_written_ends_no_run(tmp_path):
    MetricsLog(tmp_path / "no folder" / "metrics.jsonl", 0).step(a_step(1))


def test_held_out_losses_are_lines_of_their_own_and_read_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    log.validation(0, 0.5)
    for number, held_out in ((1, 0.4), (2, 0.3), (3, math.nan), (4, 0.35)):
        log.step(a_step(number, 0.25))
        log.validation(number, held_out)
    assert json.loads(path.read_text().splitlines()[0]) == {"step": 0, "validation_loss": 0.5}
    assert logged_losses(path) == [0.25] * 4
    losses = logged_held_out_losses(path)
    assert (losses.base_loss, losses.best_step, losses.best_loss, losses.since_best) == (0.5, 2, 0.3, 2)
    assert (losses.last_step, losses.last_loss) == (4, 0.35)


def test_one_measurement_is_taken_out_and_nothing_else(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        '{"step": 2, "validation_loss": 0.5}',
        '{"step": 3, "loss": 0.25}',
        '{"step": 3, "validation_loss": 0.125}',
        '{"step": 3, "lo',
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    forget_measurement(path, 3)
    assert path.read_text().splitlines() == [*lines[:2], lines[3]]
    assert logged_held_out_losses(path).last_step == 2
    forget_measurement(tmp_path / "none", 3)
    assert not (tmp_path / "none").exists()
