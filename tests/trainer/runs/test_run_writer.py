import math

import pytest
from sdxl_trainer.trainer.errors import InputError


def test_weights_that_are_not_finite_are_never_saved(tiny_run, tmp_path, monkeypatch):
    import sdxl_trainer.trainer.runs.run_setup as run_setup

    adapters = []
    attach = run_setup.attach_adapter
    monkeypatch.setattr(
        run_setup, "attach_adapter", lambda *values: adapters.append(attach(*values)) or adapters[-1]
    )

    class Ruined(tiny_run.StopAfter):
        """Ruins the weights themselves, as broken memory would."""

        def step(self, report):
            super().step(report)
            if report.step == 2:
                adapters[0].weights.master[0] = math.nan

    with pytest.raises(InputError, match="not finite"):
        tiny_run.run_tiny(tmp_path, Ruined(), steps=3)
    assert not (tmp_path / "loras" / "cat.safetensors").exists()
