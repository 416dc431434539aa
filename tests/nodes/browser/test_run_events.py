"""Events to browsers: few a second for all runs together, and the last state of each is never lost."""

import itertools
import threading
import time

import pytest
from sdxl_trainer.trainer.events import StepReport

BETWEEN = 0.05


class Clock:
    """Goes only when it is told to."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sent():
    return []


@pytest.fixture
def make_events(sent):
    def make(**values):
        from sdxl_trainer.nodes.browser.run_events import RunEvents

        return RunEvents(lambda name, data: sent.append((time.monotonic(), name, data)), BETWEEN, **values)

    return make


def open_run(events, number):
    from sdxl_trainer.nodes.browser.live_run import LiveRun, RunPlace

    return LiveRun(f"{number:016x}", RunPlace(str(number)), events.changed)


def report(step):
    values = {"num_steps": 300, "epoch": 0.0, "grad_norm": 1.0, "learning_rate": 1e-4, "seconds": 0.001}
    return StepReport(step=step, loss=0.5, **values)


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_the_default_leaves_room_for_four_a_second():
    from sdxl_trainer.nodes.browser.run_events import SECONDS_BETWEEN

    assert 4 * SECONDS_BETWEEN > 1


def test_many_changes_are_one_event_for_as_long_as_the_next_must_wait(make_events, sent, clock):
    run = open_run(make_events(clock=clock), 1)
    run.step(report(1))
    wait_until(lambda: len(sent) == 1)
    for step in range(2, 301):
        run.step(report(step))
    run.end("done")
    clock.seconds = 0.9 * BETWEEN
    time.sleep(4 * BETWEEN)  # of real time, which it does not go by
    assert len(sent) == 1
    clock.seconds = 1.01 * BETWEEN
    wait_until(lambda: len(sent) == 2)
    assert {name for _, name, _ in sent} == {"sdxl_trainer.run"}
    assert [data["revision"] for _, _, data in sent] == [1, 2]
    assert [step for _, _, data in sent for step in data["points"]["step"]] == list(range(1, 301))
    assert sent[-1][2]["state"] == "done"


def test_all_runs_together_keep_to_the_measure_and_each_has_its_last_word(make_events, sent):
    events = make_events()
    runs = [open_run(events, number) for number in range(5)]
    threads = [
        threading.Thread(target=lambda run=run: [run.step(report(n)) for n in range(1, 101)]) for run in runs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: {data["id"] for _, _, data in sent if data["step"] == 100} == {run.id for run in runs})
    assert all(later[0] - earlier[0] >= BETWEEN for earlier, later in itertools.pairwise(sent))


def test_an_event_that_takes_long_to_make_does_not_bring_the_next_one_nearer(make_events, sent):
    """A slow disk: each event is sent late, and the next waits from then on."""
    run = open_run(make_events(), 1)
    took, take_event = iter([3 * BETWEEN, 0, 3 * BETWEEN, 0, 0]), run.take_event

    def slow():
        time.sleep(next(took, 0))
        run.step(report(run.light()["step"] + 1)) if run.light()["step"] < 5 else None
        return take_event()

    run.take_event = slow
    run.step(report(1))
    wait_until(lambda: len(sent) >= 5)
    assert all(later[0] - earlier[0] >= BETWEEN for earlier, later in itertools.pairwise(sent))


def test_a_line_that_breaks_once_does_not_end_the_events(monkeypatch):
    from sdxl_trainer.nodes.browser.run_events import RunEvents

    sent, raised = [], []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: raised.append(arguments.exc_type))

    def send(_, data):
        sent.append(data["id"])
        if len(sent) == 1:
            first.set()
            go_on.wait(60)
            raise OSError("broken line")

    first, go_on = threading.Event(), threading.Event()
    events = RunEvents(send, 0.01)
    runs = [open_run(events, number) for number in (1, 2)]
    runs[0].step(report(1))
    assert first.wait(60)
    runs[1].step(report(1))  # waits while the line breaks
    go_on.set()
    wait_until(lambda: sent == [run.id for run in runs])
    runs[0].step(report(2))
    wait_until(lambda: len(sent) == 3)
    assert raised == [OSError]


def test_a_thread_that_cannot_start_ends_no_training_and_events_go_on_after(make_events, sent, monkeypatch):
    run = open_run(make_events(), 1)
    start = threading.Thread.start

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    run.step(report(1))
    monkeypatch.setattr(threading.Thread, "start", start)
    assert sent == []
    run.step(report(2))
    wait_until(lambda: len(sent) == 1)
    assert sent[0][2]["points"]["step"] == [1, 2]


def test_all_events_come_from_one_thread_that_ends_when_nothing_is_left(make_events, sent, monkeypatch):
    from sdxl_trainer.nodes.browser import run_events

    monkeypatch.setattr(run_events, "IDLE_SECONDS", 0.2)
    started, start = [], threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread) or start(thread))
    run = open_run(make_events(), 1)
    for step in (1, 2, 3):
        run.step(report(step))
        wait_until(lambda step=step: sent and sent[-1][2]["step"] == step)
    wait_until(lambda: not started[-1].is_alive())
    run.step(report(4))
    wait_until(lambda: sent[-1][2]["step"] == 4)
    assert all(thread.daemon for thread in started)
