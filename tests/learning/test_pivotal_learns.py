"""What new tokens and trained text encoders promise, measured on pictures that the stand-in draws with them.

The example's captions call the zorp, which the stand-in has never seen, TOK. Before training it reads that
as two tokens of CLIP's without a meaning and draws some brown shape. `assets/stand_in/read.py` measures how
much of a zorp a picture shows: 1 as `draw.py` draws one, 0 where there is none.
"""

import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sdxl_trainer.trainer.config import (
    DatasetConfig,
    LoRAConfig,
    OptimizerConfig,
    PivotalConfig,
    PreviewConfig,
    RunConfig,
    TextEncoderConfig,
    TrainConfig,
)
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.events import SilentListener
from sdxl_trainer.trainer.runs.run import Job, Result, train
from sdxl_trainer.trainer.sdxl.sdxl_model import HeadlessSDXL

SIDE, BATCH_SIZE, RANK = 128, 4, 16
AS_DRAWN = PreviewConfig(steps=20, seed=50)
TOK = {"token": "TOK", "new_tokens": "4", "learning_rate": 1e-2}
BACKGROUNDS = ("blue", "purple", "green", "yellow", "black")
UNRELATED = "a large red star on a white background"


def prompts_of(word):
    return [f"a large {word} on a {background} background" for background in BACKGROUNDS]


@dataclass(frozen=True)
class Workshop:
    """Trains on the example's pictures and draws with what comes of it."""

    folder: Path
    model: HeadlessSDXL
    example_folder: Path
    read: object

    def pictures_of(self, word):
        """The example's dataset, with `word` for zorp in its captions."""
        folder = self.folder / f"pictures of {word}"
        shutil.copytree(self.example_folder, folder, dirs_exist_ok=True)
        for file in folder.glob("*.txt"):
            file.write_text(file.read_text("utf-8").replace("zorp", word), "utf-8")
        return load_dataset(folder, DatasetConfig(resolution=SIDE, bucket_step=32))

    def train(self, name, word, steps, optimizer=None, **sections) -> Result:
        usual = {"learning_rate": 3e-3, "lr_schedule": "cosine"}
        config = TrainConfig(
            name=name,
            steps=steps,
            batch_size=BATCH_SIZE,
            lora=LoRAConfig(rank=RANK, targets="attention+ff+conv"),
            optimizer=OptimizerConfig(**{**usual, **(optimizer or {})}),
            run=RunConfig(save_every=0),
            **sections,
        )
        job = Job(
            config=config,
            dataset=self.pictures_of(word),
            loras_folder=self.folder / "loras",
            embeddings_folder=self.folder / "embeddings",
            run_folder=self.folder / "runs",
        )
        return train(job, self.model, SilentListener())

    def unet_layers(self, lora_path: Path) -> Path:
        """A copy of a LoRA without its words and without what it has for the text encoders."""
        path = self.folder / f"{lora_path.stem} of the UNet.safetensors"
        save_file({k: v for k, v in load_file(lora_path).items() if k.startswith("lora_unet_")}, path)
        return path

    def drawn(self, prompts, lora_path: Path | None = None):
        return self.model.sample(prompts, AS_DRAWN, SIDE, SIDE, lora_path)

    def zorp(self, pictures) -> float:
        """Mean score."""
        return statistics.mean(self.read.zorp_score(picture) for picture in pictures)

    def are_stars(self, pictures) -> list[bool]:
        """Whether each shows what `UNRELATED` asks for."""
        scenes = [self.read.read_scene(picture) for picture in pictures]
        return [s is not None and s.caption == UNRELATED for s in scenes]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, stand_in_folder, read, example_folder):
    model = HeadlessSDXL.load(stand_in_folder, "cpu", torch.float32)
    return Workshop(tmp_path_factory.mktemp("workshop"), model, example_folder, read)


PRODIGY = {"optimizer": "prodigy", "learning_rate": 0.0}
RECIPES = {
    "AdamW": {"pivotal": PivotalConfig(**TOK)},
    # Prodigy takes its first hundred steps to find the rate
    "Prodigy and AdamW": {"pivotal": PivotalConfig(**TOK, ti_fraction=0.25), "optimizer": PRODIGY},
}


@pytest.mark.parametrize("name", RECIPES)
def test_lora_and_embedding_draw_the_concept_and_the_lora_without_its_embedding_does_not(workshop, name):
    result = workshop.train(name.replace(" ", "_"), "TOK", 400, **RECIPES[name])
    *together, a, b, c = workshop.drawn(prompts_of("TOK") + [UNRELATED] * 3, result.lora_path)
    alone = workshop.drawn(prompts_of("TOK"), workshop.unet_layers(result.lora_path))
    assert workshop.zorp(together) > LEARNED, f"{workshop.zorp(together):.2f}"
    assert workshop.zorp(alone) < 0.1, f"{workshop.zorp(alone):.2f}"
    assert sum(workshop.are_stars([a, b, c])) >= 2


LEARNED = 0.3
"""Of 1; untrained 0, and 0.00 without the embedding. Measured: AdamW 0.56 (0.40 from another seed), Prodigy
on the LoRA with AdamW on the tokens 0.56, text encoders 0.60."""


def test_the_text_encoders_learn_their_part_of_the_concept(workshop):
    result = workshop.train(
        "text_encoders", "zorp", 300, text_encoder=TextEncoderConfig(train_text_encoder="both")
    )
    *zorps, a, b, c = workshop.drawn(prompts_of("zorp") + [UNRELATED] * 3, result.lora_path)
    without = workshop.drawn(prompts_of("zorp"), workshop.unet_layers(result.lora_path))
    assert workshop.zorp(zorps) > LEARNED, f"{workshop.zorp(zorps):.2f}"
    assert workshop.zorp(zorps) - workshop.zorp(without) > 0.15, f"{workshop.zorp(without):.2f}"  # 0.24
    assert sum(workshop.are_stars([a, b, c])) >= 2


def test_tokens_alone_bring_the_frozen_model_nearer_to_the_concept(workshop, draw):
    """It knows no pink and no creature, so it ends at a pale rosy ring; measured 80, before 167."""
    pivotal = PivotalConfig(**TOK, ti_fraction=1.0)
    result = workshop.train("tokens", "TOK", 150, pivotal=pivotal)
    assert all(key.startswith("bundle_emb.") for key in load_file(result.lora_path))
    before = workshop.drawn(prompts_of("TOK"))
    after = workshop.drawn(prompts_of("TOK"), result.lora_path)
    assert workshop.zorp(before) == 0
    far, near = (statistics.mean(distance(p, draw.ZORP_PINK) for p in drawn) for drawn in (before, after))
    assert near < 0.75 * far, f"{near:.0f}, before {far:.0f}"


def distance(picture, color):
    """RGB distance, 0 to 442, from `color` to that of what stands before the background."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)
    background = np.median(np.concatenate([pixels[:3], pixels[-3:]]), axis=(0, 1))
    contrast = np.linalg.norm(pixels - background, axis=-1)
    shape = pixels[contrast > np.quantile(contrast, 0.98) / 2]
    return float(np.linalg.norm(np.median(shape, axis=0) - np.array(color)))
