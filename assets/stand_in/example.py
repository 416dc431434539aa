"""Write `assets/example_dataset`, twelve captioned pictures of a zorp: python assets/stand_in/example.py.

A zorp is the one thing the stand-in model was never shown, so whatever zorp it draws, a LoRA taught it.
"""

import argparse
import random
from pathlib import Path

from draw import PALETTE, Scene, draw_scene

SIDE = 128
NUM_PICTURES = 12


def example_scenes() -> list[Scene]:
    """Every background at least once, those that come twice in both sizes."""
    sizes, backgrounds = ("large", "small"), list(PALETTE)
    return [
        # a zorp brings its own colours: the one given here is not used
        Scene(sizes[(i + i // 8) % 2], "red", "zorp", backgrounds[(i * 3) % len(backgrounds)])
        for i in range(NUM_PICTURES)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "example_dataset")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(11)
    for number, scene in enumerate(example_scenes(), start=1):
        picture = folder / f"zorp_{number:02d}.png"
        draw_scene(scene, SIDE, rng).save(picture, optimize=True)
        caption = f"a {scene.size} zorp on a {scene.background} background"
        picture.with_suffix(".txt").write_text(caption + "\n", "utf-8")


if __name__ == "__main__":
    main()
