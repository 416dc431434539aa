"""Curves in TensorBoard and Weights & Biases, from the real packages, offline."""

import importlib
import sys
import time

import pytest
from sdxl_trainer.trainer.runs.trackers import Trackers

FILES = "*tfevents*"


@pytest.fixture
def no_login(monkeypatch, tmp_path):
    """Nobody is logged in at Weights & Biases, whoever runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))


def read_curves(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return events


VALUES = {
    "validation": {"validation_share": 0.2, "validate_every": 3},
    "preview": {"preview_every": 3, "steps": 1},
}


def test_tensorboard_gets_every_figure_and_picture(tiny_run, tmp_path):
    pytest.importorskip("tensorboard")
    listener = tiny_run.StopAfter()
    tiny_run.run_tiny(tmp_path, listener, logging={"tracker": "tensorboard"}, **VALUES)
    events = read_curves(tmp_path / "runs" / "cat" / "tensorboard")
    losses = [(e.step, e.value) for e in events.Scalars("loss")]
    assert losses == [(r.step, pytest.approx(r.loss)) for r in listener.reports]
    assert [e.step for e in events.Scalars("validation_loss")] == [0, 3, 6]
    assert [e.step for e in events.Images("preview/00")] == [0, 3, 6]
    assert {"learning_rate", "effective_learning_rate", "grad_norm"} <= set(events.Tags()["scalars"])
    for path in (tmp_path / "runs" / "cat" / "tensorboard").rglob(FILES):
        assert str(tmp_path).encode() not in path.read_bytes()


def test_a_resumed_run_goes_on_in_the_same_curve(tiny_run, tmp_path):
    pytest.importorskip("tensorboard")
    values = {"logging": {"tracker": "tensorboard"}}
    with pytest.raises(Exception, match="stopped at step 3"):
        tiny_run.run_tiny(tmp_path, tiny_run.StopAfter(3), **values)
    tiny_run.run_tiny(tmp_path, **values)
    events = read_curves(tmp_path / "runs" / "cat" / "tensorboard")
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_wandb_offline_gets_the_figures_and_no_place_of_this_machine(
    tiny_run, tmp_path, monkeypatch, no_login
):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_TOKEN", "hf_aSecretThatNobodyMaySee")
    result = tiny_run.run_tiny(tmp_path, steps=2, logging={"tracker": "wandb", "project": "cats"}, **VALUES)
    assert "shows nothing more" not in result.report
    (log,) = (tmp_path / "runs" / "cat" / "wandb").glob("offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 20
    while b"preview/00" not in log.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.05)  # its own process closes the file a little after the run has ended
    content = log.read_bytes()
    for name in (b"loss", b"effective_learning_rate", b"validation_loss", b"preview/00", b"cats"):
        assert name in content
    for secret in (str(tmp_path), "hf_aSecretThatNobodyMaySee", sys.executable):
        assert secret.encode() not in content


def test_wandb_without_login_asks_nobody_and_is_one_sentence(tiny_run, tmp_path, no_login):
    pytest.importorskip("wandb")
    result = tiny_run.run_tiny(tmp_path, logging={"tracker": "wandb"})
    assert result.trained_steps == 6
    assert (
        "Weights & Biases shows nothing more of this run: nobody is logged in: run `wandb login`, or set "
        "WANDB_MODE to offline"
    ) in result.report


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_sentence(tiny_run, tmp_path, monkeypatch, package):
    loaded = [name for name in sys.modules if name.split(".")[0] == package or "tensorboard" in name]
    for name in loaded:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    result = tiny_run.run_tiny(tmp_path, steps=2, logging={"tracker": package})
    assert result.trained_steps == 2
    assert f"the package {package} is missing, install it with `pip install {package}`" in result.report


def test_no_tracker_is_imported_unless_it_is_chosen(tiny_run, tmp_path, monkeypatch):
    asked = []
    import_module = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: asked.append(name) or import_module(name))
    tiny_run.run_tiny(tmp_path, steps=1)
    assert not {"wandb", "torch.utils.tensorboard"} & set(asked)


def test_errors_of_a_tracker_are_noted_once(tiny_run, tmp_path):
    class Broken:
        errors = (KeyboardInterrupt,)  # as a package's own errors, which have no ancestor among Python's

        def log(self, step, figures):
            raise KeyboardInterrupt("first line\nsecond line")

    config = tiny_run.tiny_config().logging
    trackers = Trackers(config, tiny_run.tiny_files(tmp_path), {}, "f", 0)
    trackers._trackers["wandb"] = Broken()
    trackers.validation(1, 0.5)
    trackers.validation(2, 0.5)
    assert trackers.failures == [
        "Weights & Biases shows nothing more of this run: first line; all figures are in metrics.jsonl"
    ]
