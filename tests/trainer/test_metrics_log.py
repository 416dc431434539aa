import json
import math

import pytest
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.events import StepReport
from sdxl_trainer.trainer.run_writer import MetricsLog, logged_losses


def a_step(number, loss=0.5):
    return StepReport(
        step=number,
        num_steps=10,
        epoch=number / 3,
        loss=loss,
        grad_norm=loss,
        learning_rate=1e-4,
        seconds=0.1,
    )


def test_skipped_steps_are_null_and_no_loss(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    log.write(a_step(1, 0.25))
    log.write(a_step(2, math.nan))
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first == {
        "step": 1,
        "epoch": 0.3333,
        "loss": 0.25,
        "grad_norm": 0.25,
        "learning_rate": 1e-4,
        "seconds": 0.1,
    }
    assert second["loss"] is None
    assert logged_losses(path) == [0.25]


def test_lines_after_the_resumed_step_go(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    for number in (1, 2, 3):
        log.write(a_step(number))
    MetricsLog(path, 2).write(a_step(3, 0.125))
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [0.5, 0.5, 0.125]


def test_losses_of_a_log_that_is_gone_are_none(tmp_path):
    assert logged_losses(tmp_path / "none") == []


def test_a_log_that_cannot_be_written_ends_no_run(tmp_path):
    MetricsLog(tmp_path / "no folder" / "metrics.jsonl", 0).write(a_step(1))


def test_weights_that_are_not_finite_are_never_saved(tiny_run, tmp_path):
    class Ruined(tiny_run.StopAfter):
        """Ruins the weights themselves, as broken memory would."""

        def step(self, report):
            super().step(report)
            if report.step == 2:
                peft_layers = (m for m in model.unet.modules() if hasattr(m, "lora_A"))
                next(peft_layers).lora_A["default"].weight.data.fill_(math.nan)

    model = tiny_run.TinyModel()
    with pytest.raises(InputError, match="not finite"):
        tiny_run.run_tiny(tmp_path, Ruined(), model, steps=3)
    assert not (tmp_path / "loras" / "cat.safetensors").exists()
