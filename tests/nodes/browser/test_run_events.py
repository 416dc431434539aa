"""Events to browsers: few a second for all runs together, and the last state of each is never lost."""

import itertools
import threading
import time

import pytest
from sdxl_trainer.trainer.events import StepReport


@pytest.fixture
def sent():
    return []


@pytest.fixture
def events(sent):
    from sdxl_trainer.nodes.browser.run_events import RunEvents

    return RunEvents(lambda name, data: sent.append((time.monotonic(), name, data)), 0.05)


def open_run(events, number):
    from sdxl_trainer.nodes.browser.live_run import LiveRun, RunPlace

    return LiveRun(f"{number:016x}", RunPlace(str(number)), events.changed)


def report(step):
    values = {"num_steps": 300, "epoch": 0.0, "grad_norm": 1.0, "learning_rate": 1e-4, "seconds": 0.001}
    return StepReport(step=step, loss=0.5, **values)


def wait_until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_the_default_leaves_room_for_four_a_second():
    from sdxl_trainer.nodes.browser.run_events import SECONDS_BETWEEN

    assert 4 * SECONDS_BETWEEN > 1


def test_many_changes_are_few_events_and_the_last_is_among_them(events, sent):
    run = open_run(events, 1)
    began = time.monotonic()
    for step in range(1, 301):
        run.step(report(step))
        time.sleep(0.001)
    run.end("done")
    wait_until(lambda: sent[-1][2]["state"] == "done")
    assert 2 < len(sent) <= (sent[-1][0] - began) / 0.05 + 2
    assert all(later[0] - earlier[0] >= 0.049 for earlier, later in itertools.pairwise(sent))
    assert {name for _, name, _ in sent} == {"sdxl_trainer.run"}
    assert [data["revision"] for _, _, data in sent] == list(range(1, len(sent) + 1))
    assert [step for _, _, data in sent for step in data["points"]["step"]] == list(range(1, 301))
    time.sleep(0.15)
    assert sent[-1][2]["step"] == 300


def test_all_runs_together_keep_to_the_measure_and_each_has_its_last_word(events, sent):
    runs = [open_run(events, number) for number in range(5)]
    threads = [
        threading.Thread(target=lambda run=run: [run.step(report(n)) for n in range(1, 101)]) for run in runs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: {data["id"] for _, _, data in sent if data["step"] == 100} == {run.id for run in runs})
    assert all(later[0] - earlier[0] >= 0.049 for earlier, later in itertools.pairwise(sent))


def test_a_line_that_breaks_once_does_not_end_the_events(monkeypatch):
    from sdxl_trainer.nodes.browser.run_events import RunEvents

    sent, raised = [], []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: raised.append(arguments.exc_type))

    def send(_, data):
        sent.append(data["step"])
        if len(sent) == 1:
            raise OSError("broken line")

    events = RunEvents(send, 0.01)
    run = open_run(events, 1)
    run.step(report(1))
    wait_until(lambda: sent == [1])
    run.step(report(2))
    wait_until(lambda: sent == [1, 2])
    assert raised == [OSError]
