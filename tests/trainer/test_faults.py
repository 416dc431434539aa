"""Killed, cut off from the disk, interrupted: nothing finished is lost, nothing half done has a name."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from sdxl_trainer.trainer.errors import CancelledError, InputError
from sdxl_trainer.trainer.runs.checkpoint import list_states

resource = pytest.importorskip("resource", reason="limits on file sizes are a matter of Unix")
PROGRAM = Path(__file__).with_name("tiny_run.py")


def start_program(folder, steps, save_every):
    command = [sys.executable, str(PROGRAM), str(folder), str(steps), str(save_every)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_run_redoes_at_most_save_every_steps_and_ends_the_same(tiny_run, tmp_path):
    dataset = tiny_run.tiny_dataset(tmp_path)
    values = {"steps": 400, "run": {"save_every": 5}}
    with start_program(tmp_path, 400, 5) as killed:
        kept = tmp_path / "loras" / "cat-step000010.safetensors"
        deadline = time.monotonic() + 120
        while not kept.exists() and killed.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        assert kept.exists(), killed.stderr.read()
    for path in (tmp_path / "loras").glob("*.safetensors"):
        assert load_file(path), path.name
    assert not (tmp_path / "loras" / "cat.safetensors").exists()
    lines = len((tmp_path / "runs" / "cat" / "metrics.jsonl").read_text().splitlines())

    listener = tiny_run.StopAfter(lines + 6)
    with pytest.raises(CancelledError):
        tiny_run.train(tiny_run.tiny_job(tmp_path, dataset, **values), tiny_run.TinyModel(), listener)
    assert listener.reports[0].step >= lines - 5
    assert list(tmp_path.rglob(".*.part")) == []

    other = tmp_path / "other"
    with pytest.raises(CancelledError):
        tiny_run.train(
            tiny_run.tiny_job(other, dataset, **values), tiny_run.TinyModel(), tiny_run.StopAfter(lines + 6)
        )
    name = f"cat-step{lines + 6:06d}.safetensors"
    assert (tmp_path / "loras" / name).read_bytes() == (other / "loras" / name).read_bytes()


@contextlib.contextmanager
def files_no_larger_than(num_bytes):
    """What a full disk is like: writes fail in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


class FullAfter:
    """A disk that is full from a step on."""

    def __init__(self, base, step, stack):
        self._base, self._step, self._stack = base, step, stack

    def __getattr__(self, name):
        return getattr(self._base, name)

    def step(self, report):
        self._base.step(report)
        if report.step == self._step:
            self._stack.enter_context(files_no_larger_than(20_000))


def test_full_disk_leaves_old_checkpoints_valid_and_says_so(tiny_run, tmp_path):
    values = {"run": {"save_every": 2}}
    whole = tiny_run.run_tiny(tmp_path / "a", **values)
    with contextlib.ExitStack() as stack:
        listener = FullAfter(tiny_run.StopAfter(), 3, stack)
        with pytest.raises(InputError, match=r"step 6 could not be saved.*free some disk space.*from step 2"):
            tiny_run.run_tiny(tmp_path / "b", listener, **values)
    folder = tmp_path / "b"
    assert [p.name for p in sorted((folder / "loras").iterdir())] == ["cat-step000002.safetensors"]
    assert load_file(folder / "loras" / "cat-step000002.safetensors")
    result = tiny_run.run_tiny(folder, **values)
    assert result.resumed_from == 2
    assert result.lora_path.read_bytes() == whole.lora_path.read_bytes()


def test_checkpoint_that_fails_on_the_way_does_not_end_the_run(tiny_run, tmp_path, monkeypatch):
    import sdxl_trainer.trainer.runs.run_writer as run_writer

    save_state = run_writer.save_state

    def full_once(folder, state, spared):
        if state.step == 2:
            raise OSError(28, "No space left on device")
        return save_state(folder, state, spared)

    monkeypatch.setattr(run_writer, "save_state", full_once)
    result = tiny_run.run_tiny(tmp_path, run={"save_every": 2})
    assert "the checkpoint of step 2 could not be written" in result.report
    assert (tmp_path / "loras" / "cat-step000004.safetensors").exists()


def test_too_small_a_disk_is_refused_before_the_first_step(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 3 * 2**20}))
    listener = tiny_run.StopAfter()
    with pytest.raises(InputError, match=r"has 3 MiB free, but the LoRA and its checkpoints need \d+ MiB"):
        tiny_run.run_tiny(tmp_path, listener)
    assert listener.reports == []


@pytest.mark.parametrize(
    ("values", "factor"),
    [
        ({"optimizer": {"optimizer": "sgd", "beta1": 0.0}}, 0.9),
        ({"optimizer": {"ema_decay": 0.9}}, 1.05),
        ({"validation": {"validation_share": 0.2}}, 1.15),
        ({"run": {"save_every": 1, "keep_last": 0}}, 1.15),
    ],
)
def test_the_estimate_counts_what_the_settings_write(tiny_run, tmp_path, monkeypatch, values, factor):
    def needed(folder, **values):
        with pytest.raises(InputError, match=r"need [\d,]+ MiB") as refused:
            tiny_run.run_tiny(folder, lora={"rank": 32, "targets": "attention+ff+conv"}, **values)
        return float(re.search(r"need ([\d,]+) MiB", str(refused.value))[1].replace(",", ""))

    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 0}))
    ratio = needed(tmp_path / "b", **values) / needed(tmp_path / "a")
    assert ratio <= factor if factor < 1 else ratio >= factor


def test_damaged_newest_state_falls_back_and_ends_the_same(tiny_run, tmp_path):
    values = {"run": {"save_every": 2}}
    whole = tiny_run.run_tiny(tmp_path / "a", **values)
    with pytest.raises(CancelledError):
        tiny_run.run_tiny(tmp_path / "b", tiny_run.StopAfter(5), **values)
    newest = list_states(tmp_path / "b" / "runs" / "cat" / "state")[0]
    newest.write_bytes(newest.read_bytes()[:-100])
    result = tiny_run.run_tiny(tmp_path / "b", **values)
    assert result.resumed_from == 4
    assert "step-000005.safetensors is damaged" in result.report
    assert result.lora_path.read_bytes() == whole.lora_path.read_bytes()


def test_exception_of_the_listener_loses_no_step(tiny_run, tmp_path):
    class HostInterruptError(Exception):
        pass

    class Interrupting(tiny_run.StopAfter):
        def step(self, report):
            if report.step == 4:
                raise HostInterruptError

    with pytest.raises(HostInterruptError):
        tiny_run.run_tiny(tmp_path, Interrupting())
    whole = tiny_run.run_tiny(tmp_path / "a").lora_path
    result = tiny_run.run_tiny(tmp_path)
    assert result.resumed_from == 4
    assert result.lora_path.read_bytes() == whole.read_bytes()


def test_bad_gradients_end_the_run_with_the_last_good_lora_saved(tiny_run, tmp_path):
    class Poisoned(tiny_run.StopAfter):
        model = tiny_run.TinyModel()

        def step(self, report):
            if report.step == 3:
                self.model.unet.conv_out.weight.data.fill_(float("nan"))

    listener = Poisoned()
    with pytest.raises(InputError, match="5 steps in a row up to step 8"):
        tiny_run.run_tiny(tmp_path, listener, listener.model, steps=20)
    kept = load_file(tmp_path / "loras" / "cat-step000008.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())
    assert not (tmp_path / "loras" / "cat.safetensors").exists()


def test_stopped_while_encoding_nothing_is_half_written(tiny_run, tmp_path):
    class StopAtOnce(tiny_run.StopAfter):
        def should_stop(self):
            return True

    model = tiny_run.TinyModel()
    with pytest.raises(CancelledError) as stopped:
        tiny_run.run_tiny(tmp_path, StopAtOnce(), model)
    assert (stopped.value.step, stopped.value.lora_path, model.encoded_pictures) == (0, None, 0)
    assert list((tmp_path / "loras").iterdir()) == []
    assert tiny_run.run_tiny(tmp_path).name == "cat"


def test_two_runs_of_one_name_at_once_are_refused(tiny_run, tmp_path):
    class Second(tiny_run.StopAfter):
        error = None

        def step(self, report):
            if report.step == 2:
                with pytest.raises(InputError, match="'cat' is training at this moment"):
                    tiny_run.run_tiny(tmp_path)
                self.error = True

    listener = Second()
    assert tiny_run.run_tiny(tmp_path, listener).trained_steps == 6
    assert listener.error


def test_leftovers_of_a_killed_run_are_swept(tiny_run, tmp_path):
    with pytest.raises(CancelledError):
        tiny_run.run_tiny(tmp_path, tiny_run.StopAfter(2))
    leftovers = [
        tmp_path / "loras" / ".cat.safetensors.0a.part",
        tmp_path / "loras" / ".cat-step000004.safetensors.0a.part",
        tmp_path / "runs" / "cat" / "state" / ".step-000004.safetensors.0a.part",
    ]
    other = tmp_path / "loras" / ".dog.safetensors.0a.part"
    for path in [*leftovers, other]:
        path.write_bytes(b"half")
    tiny_run.run_tiny(tmp_path)
    assert not any(path.exists() for path in leftovers)
    assert other.exists()
