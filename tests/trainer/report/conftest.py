"""A run as it lies on the disk at its end, made without training: what a report is written from."""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sdxl_trainer.trainer.report.write_report import write_report
from sdxl_trainer.trainer.runs.metrics_log import logged_held_out_losses
from sdxl_trainer.trainer.runs.run_report import RunOutcome

HELD_OUT = {0: 0.30, 10: 0.20, 20: 0.15, 30: 0.25}


@dataclass
class MadeRun:
    """`written()` writes its report."""

    files: Any
    config: Any
    dataset: Any
    report: str = "a report of one line"
    checks: tuple = ("every tensor is as it was trained",)
    notes: tuple = ("2 of 7 pictures are held out",)
    trained_steps: int = 30
    title: str = "base.safetensors"

    def log(self, losses, held_out, seconds=0.5):
        lines = [{"step": 0, "validation_loss": held_out[0]}] if 0 in held_out else []
        for step, loss in enumerate(losses, start=1):
            lines.append({"step": step, "loss": loss, "learning_rate": 1e-4, "seconds": seconds})
            if step in held_out:
                lines.append({"step": step, "validation_loss": held_out[step]})
        self.files.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def draw(self, steps, prompts, size=(64, 64)):
        """A picture of one colour of its own for each step and prompt."""
        self.files.samples.mkdir(exist_ok=True)
        recipe = self.files.folder / "drawn_with.json"
        recipe.write_text(json.dumps([list(prompts), list(size), {}]))
        for column, step in enumerate(steps):
            for row in range(len(prompts)):
                picture = Image.new("RGB", size, color_of(column, row))
                picture.save(self.files.samples / f"step-{step:06d}-{row:02d}.png")

    def write(self):
        """Sentences about what could not be written."""
        return self.written().problems

    def written(self):
        held_out = logged_held_out_losses(self.files.metrics)
        outcome = replace(
            RunOutcome.of(self.files, self.title, held_out),
            steps=self.config.steps,
            trained_steps=self.trained_steps,
            seconds_per_step=0.5,
            precision="fp32",
            notes=self.notes,
        )
        return write_report(self.files, outcome, self.config, self.dataset, self.report, self.checks)

    @property
    def page(self):
        return self.files.report.read_text("utf-8")

    @property
    def picture(self):
        with Image.open(self.files.report_picture) as picture:
            return picture.convert("RGB")


def color_of(column, row):
    return (40 + 12 * column, 200 - 20 * row, 60 + 40 * row)


def place_of(picture, color, tolerance=6):
    """How many pixels of about this colour there are."""
    distance = np.abs(np.asarray(picture).astype(np.int16) - np.int16(color)).max(axis=2)
    return int((distance <= tolerance).sum())


@pytest.fixture
def made_run(tiny_run, tmp_path):
    """Thirty steps, measured at every tenth, with two prompts drawn at four steps and two checkpoints."""
    files = tiny_run.tiny_files(tmp_path)
    files.folder.mkdir(parents=True)
    files.loras_folder.mkdir()
    for path in (files.lora, files.kept_lora(10), files.kept_lora(20)):
        path.write_bytes(b"0" * 3 * 2**20)
    run = MadeRun(files, tiny_run.tiny_config(steps=30), tiny_run.tiny_dataset(tmp_path, trigger="zorp"))
    run.log([0.1 + 0.001 * (step % 7) for step in range(30)], HELD_OUT)
    run.draw((0, 10, 20, 30), ("a zorp", "a dog"))
    return run


@pytest.fixture
def pixels_of():
    return place_of


@pytest.fixture
def preview_color():
    return color_of
