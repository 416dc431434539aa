import dataclasses
import io
import math
import os
import signal
import sys

import pytest
from sdxl_trainer.trainer.events import StepReport
from sdxl_trainer.trainer.terminal import TerminalListener, stop_on_interrupt


def a_step(number, loss=0.5):
    return StepReport(
        step=number, num_steps=10, epoch=1.0, loss=loss, grad_norm=1.0, learning_rate=1e-4, seconds=0.1
    )


def test_bar_shows_phase_steps_and_loss(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    listener = TerminalListener()
    listener.phase("encoding pictures", 1, 2)
    listener.phase("encoding pictures", 2, 2)
    for number in range(5, 11):
        listener.step(a_step(number, math.nan if number == 7 else 0.5))
    listener.close()
    shown = sys.stderr.getvalue()
    assert "encoding pictures: 100%" in shown
    assert "10/10" in shown
    assert "loss 0.5000, rate 1.0e-04" in shown


def test_what_happens_on_the_way_is_a_line_each(monkeypatch, capsys, tmp_path):
    listener = TerminalListener()
    listener.checkpoint(5, tmp_path / "cat-step000005.safetensors")
    listener.validation(5, 0.25, True)
    listener.validation(6, 0.5, False)
    listener.preview(6, [tmp_path / "step-000006-00.png", tmp_path / "step-000006-01.png"])
    assert capsys.readouterr().out.splitlines() == [
        "step 5: wrote cat-step000005.safetensors",
        "step 5: held-out loss 0.2500, the lowest so far",
        "step 6: held-out loss 0.5000",
        "step 6: drew step-000006-00.png, step-000006-01.png",
    ]


def test_the_rate_shown_is_the_one_that_moves_the_weights(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    listener = TerminalListener()
    listener.step(dataclasses.replace(a_step(10), learning_rate=1.0, effective_learning_rate=2e-5))
    listener.close()
    assert "rate 2.0e-05" in sys.stderr.getvalue()


def test_first_interrupt_asks_and_the_second_ends_at_once():
    listener, before = TerminalListener(), signal.getsignal(signal.SIGINT)
    with stop_on_interrupt(listener):
        assert not listener.should_stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert listener.should_stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_asks_to_save_and_stop():
    listener = TerminalListener()
    with stop_on_interrupt(listener):
        os.kill(os.getpid(), signal.SIGTERM)
    assert listener.should_stop()
