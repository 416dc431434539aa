"""What a run shows on its node: text, bar and newest pictures, through ComfyUI's own progress call."""

import math
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def shown():
    """Calls that reach ComfyUI's progress hook: (done, total, picture)."""
    import comfy.utils

    calls = []

    def hook(value, total, preview, **_):
        calls.append((value, total, preview))

    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(hook)
    yield calls
    comfy.utils.set_progress_bar_global_hook(before)


@pytest.fixture
def listener():
    from sdxl_trainer.nodes.comfy_bridge.progress import HostListener

    class Heard(HostListener):
        """Writes the node's text down; there is no server here that could show it."""

        texts: list

        def _say(self, text):
            self.texts.append(text)

    heard = Heard(None)
    heard.texts = []
    return heard


def report(**changes):
    from sdxl_trainer.trainer.events import StepReport

    values = {"step": 5, "num_steps": 10, "epoch": 1.5, "loss": 0.25, "grad_norm": 1.0, "seconds": 2.0}
    return StepReport(**{**values, "learning_rate": 1e-4, **changes})


def test_a_step_tells_loss_rate_and_time(listener, shown):
    listener.step(report())
    assert shown == [(5, 10, None)]
    assert listener.texts[-1].startswith("step 5 of 10 (epoch 1.5)")
    assert "loss 0.2500, rate 1.00e-04, 2.00 s a step" in listener.texts[-1]
    listener.step(report(loss=math.nan))
    assert "skipped" in listener.texts[-1]
    listener.step(report(learning="the new tokens"))
    assert listener.texts[-1].startswith("the new tokens: step 5 of 10")


def test_prodigys_effective_rate_is_shown_and_others_not_twice(listener, shown):
    listener.step(report(learning_rate=1.0, effective_learning_rate=3e-5))
    assert "rate 1.00e+00, effective 3.00e-05" in listener.texts[-1]
    listener.step(report(effective_learning_rate=1e-4))
    assert "effective" not in listener.texts[-1]


def test_the_validation_loss_stays_on_the_node(listener, shown):
    listener.validation(4, 0.125, True)
    assert "validation loss 0.1250 after step 4, the best so far" in listener.texts[-1]
    listener.step(report())
    assert "validation loss 0.1250 after step 4" in listener.texts[-1]
    listener.validation(8, 0.25, False)
    assert "best" not in listener.texts[-1]


@pytest.mark.parametrize(("number", "size"), [(1, (64, 32)), (4, (3 * 256 + 4 * 14, 2 * 128 + 3 * 14))])
def test_the_newest_pictures_are_sent_to_the_node(listener, shown, tmp_path: Path, number, size):
    paths = [tmp_path / f"{n}.png" for n in range(number)]
    for path in paths:
        Image.new("RGB", (64, 32), "red").save(path)
    listener.step(report())
    listener.preview(5, paths)
    done, total, (kind, picture, longest) = shown[-1]
    assert (done, total, kind) == (5, 10, "JPEG")
    assert picture.size == size
    assert longest >= max(size) or number > 1
    assert f"drew {number} picture" in listener.texts[-1]


def test_a_preview_before_the_first_step_and_one_without_pictures_do_no_harm(listener, shown, tmp_path):
    listener.preview(0, [])
    assert shown == []
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    listener.preview(0, [tmp_path / "a.png"])
    assert shown[-1][2][1].size == (8, 8)
