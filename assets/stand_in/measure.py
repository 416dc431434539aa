"""Measure how well the stand-in draws what it is told: python assets/stand_in/measure.py.

Draws random captions of its world, reads every picture back with `read.py`, and prints the share of
pictures in which each attribute was read as the caption has it. Guidance and steps are those of the
previews; the sheet shows the first pictures, whatever they turned out like.
"""

import argparse
import logging
import random
from collections import Counter
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from draw import Scene, random_scene
from PIL import Image
from read import read_scene, zorp_score
from train import SIDE

logger = logging.getLogger(__name__)

STEPS, GUIDANCE, BATCH = 20, 6.0, 16
COLUMNS, GAP = 8, 4


def draw_pictures(pipeline: StableDiffusionXLPipeline, captions: list[str], seed: int) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(seed)
    pictures: list[Image.Image] = []
    for start in range(0, len(captions), BATCH):
        drawn = pipeline(
            captions[start : start + BATCH],
            negative_prompt=[""] * len(captions[start : start + BATCH]),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            height=SIDE,
            width=SIDE,
            generator=generator,
        )
        pictures += drawn.images
        logger.info("%d of %d pictures drawn", len(pictures), len(captions))
    return pictures


def count_right(scenes: list[Scene], pictures: list[Image.Image]) -> Counter[str]:
    """How many pictures show each attribute as told; "all" = the whole caption."""
    right: Counter[str] = Counter()
    for scene, picture in zip(scenes, pictures, strict=True):
        seen = read_scene(picture)
        for attribute in Scene._fields if seen else ():
            right[attribute] += getattr(seen, attribute) == getattr(scene, attribute)
        right["all"] += seen == scene
    return right


def sheet(pictures: list[Image.Image]) -> Image.Image:
    pitch = SIDE + GAP
    rows = -(-len(pictures) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * pitch + GAP, rows * pitch + GAP), "white")
    for index, picture in enumerate(pictures):
        canvas.paste(picture, (GAP + index % COLUMNS * pitch, GAP + index // COLUMNS * pitch))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[1] / "tiny_sdxl")
    parser.add_argument("--pictures", type=int, default=160)
    parser.add_argument("--sheet", type=Path, default=Path(__file__).parents[1] / "tiny_sdxl" / "samples.png")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    pipeline = StableDiffusionXLPipeline.from_pretrained(options.model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    rng = random.Random(2026)
    scenes = [random_scene(rng) for _ in range(options.pictures)]
    pictures = draw_pictures(pipeline, [scene.caption for scene in scenes], seed=1)
    sheet(pictures[: 4 * COLUMNS]).quantize(192).save(options.sheet, optimize=True)
    for attribute, count in count_right(scenes, pictures).items():
        logger.info("%s: %d of %d, %.0f %%", attribute, count, len(scenes), 100 * count / len(scenes))

    zorps = draw_pictures(pipeline, ["a large zorp on a blue background"] * BATCH, seed=2)
    logger.info("zorp score untrained: at most %.2f of 1", max(map(zorp_score, zorps)))


if __name__ == "__main__":
    main()
