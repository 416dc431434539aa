"""Draws the thumbnails of the shipped workflows from what the trainer really makes with the stand-in.

    .venv/bin/python assets/stand_in/thumbnails.py WORK_FOLDER

trains twice there (ten minutes on two cores; a second call trains nothing) and writes `workflows/*.jpg`.
"""

import json
import math
import random
import subprocess
import sys
from pathlib import Path

from draw import PALETTE, SHAPES, draw_shape
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "assets" / "example_dataset"
SIDE = 384
BAND = 70
"""Height of the words at the foot. The template browser lays a badge over the upper left corner."""
GROUND, INK, FAINT, ACCENT = (24, 25, 29), (245, 244, 240), (110, 114, 124), (255, 120, 180)
STEPS, EVERY = 900, 150
ZORP = ("a large zorp on a blue background", "a large zorp on a black background")
STYLE = ("a large red star on a white background", "a large blue circle on a yellow background")
SEED = 11
MOST_BYTES = 45_000


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    work = Path(sys.argv[1]).resolve()
    zorp = train(work, "zorp", EXAMPLE, (*ZORP, STYLE[0]))
    style = train(work, "striped", striped_pictures(work / "pictures"), STYLE)
    for name, picture in thumbnails(zorp, style).items():
        save(picture, ROOT / "workflows" / f"{name}.jpg")
    return 0


def train(work: Path, name: str, data: Path, prompts: tuple[str, ...]) -> Path:
    """Train the stand-in on `data`, with a picture of each prompt every so many steps; the run's folder."""
    run = work / "sdxl_trainer" / name
    last = run / "samples" / f"step-{STEPS:06d}-{len(prompts) - 1:02d}.png"
    if not last.exists():
        command = [sys.executable, "-m", "trainer", "--name", name, "--data", str(data)]
        command += ["--checkpoint", "assets/tiny_sdxl", "--output", str(work), "--resolution", "128"]
        command += ["--preset", "character", "--steps", str(STEPS), "--batch-size", "4"]
        command += ["--learning-rate", "1.5e-3", "--targets", "attention+ff+conv"]
        command += ["--preview-every", str(EVERY), "--validation-share", "0.15", "--prompts", *prompts]
        subprocess.run(command, cwd=ROOT, check=True)
    return run


def striped_pictures(folder: Path) -> Path:
    """Shapes with a thick black line around them, on striped paper: a style for the stand-in to learn."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, side = random.Random(SEED), 512
    for number in range(24):
        color, background = rng.sample([name for name in PALETTE if name != "black"], 2)
        shape = SHAPES[number % len(SHAPES)]
        picture = Image.new("RGB", (side, side), PALETTE[background])
        pen = ImageDraw.Draw(picture)
        for x in range(-side, side, 64):
            pen.line([(x, side), (x + side, 0)], PALETTE["black"], 12)
        radius = rng.uniform(0.33, 0.4) * side
        x, y = (rng.uniform(radius, side - radius) for _ in range(2))
        draw_shape(pen, shape, PALETTE["black"], (x, y, radius * 1.2))
        draw_shape(pen, shape, PALETTE[color], (x, y, radius * 0.9))
        picture.resize((128, 128), Image.Resampling.LANCZOS).save(folder / f"{number:02d}.png")
        caption = f"a large {color} {shape} on a {background} background"
        (folder / f"{number:02d}.txt").write_text(caption, "utf-8")
    return folder


def sample(run: Path, step: int, prompt: int) -> Image.Image:
    return Image.open(run / "samples" / f"step-{step:06d}-{prompt:02d}.png").convert("RGB")


def thumbnails(zorp: Path, style: Path) -> dict[str, Image.Image]:
    """Workflow -> its picture."""
    late = [sample(zorp, step, 0) for step in range(STEPS - 2 * EVERY, STEPS, EVERY)]
    before, after = sample(zorp, 0, 0), sample(zorp, STEPS, 0)
    night = sample(zorp, STEPS, 1)
    pictures = [Image.open(path).convert("RGB") for path in sorted(EXAMPLE.glob("*.png"))]
    captions = [path.read_text("utf-8").strip() for path in sorted(EXAMPLE.glob("*.txt"))]
    drawn = [sample(zorp, step, prompt) for prompt in (0, 1) for step in (0, 300, STEPS)]
    ways = [sample(style, step, prompt) for prompt in (0, 1) for step in (0, STEPS)]
    return {
        "train_and_sample": words(halves(before, after), "train and sample"),
        "train_a_face": words(over(after, curve(zorp)), "train a face"),
        "train_a_style": words(grid(ways, 2), "train a style"),
        "resume_training": words(over(sample(zorp, 450, 1), curve(zorp, stop=0.55)), "resume training"),
        "pivotal_tuning": words(token(night), "pivotal tuning"),
        "compare_checkpoints": words(grid(drawn, 3), "compare checkpoints"),
        "check_a_dataset": words(checked(pictures), "check a dataset"),
        "caption_a_folder": words(captioned(pictures[0], captions[0]), "caption a folder"),
        "sample_with_lora": words(grid([after, night, *late], 2), "use a LoRA"),
        "with_and_without_embedding": words(halves(sample(zorp, 0, 1), night), "with and without"),
    }


def empty() -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE - BAND), GROUND)


def words(picture: Image.Image, text: str) -> Image.Image:
    """The picture with words below it."""
    whole = Image.new("RGB", (SIDE, SIDE), GROUND)
    whole.paste(picture, (0, 0))
    pen = ImageDraw.Draw(whole)
    pen.text((SIDE / 2, SIDE - BAND / 2), text, INK, ImageFont.load_default(34), anchor="mm")
    return whole


def halves(left: Image.Image, right: Image.Image) -> Image.Image:
    """One picture that changes from `left` to `right` along a slanted line."""
    size = (SIDE, SIDE - BAND)
    a, b = (ImageOps.fit(picture, size, Image.Resampling.LANCZOS) for picture in (left, right))
    mask = Image.new("L", size, 0)
    edge = [(SIDE * 0.58, 0), (SIDE * 0.42, size[1])]
    ImageDraw.Draw(mask).polygon([*edge, (SIDE, size[1]), (SIDE, 0)], fill=255)
    a.paste(b, mask=mask)
    ImageDraw.Draw(a).line(edge, INK, 5)
    return a


def grid(pictures: list[Image.Image], columns: int) -> Image.Image:
    sheet, rows = empty(), len(pictures) // columns
    gap = 4
    wide, high = (SIDE + gap) // columns, (SIDE - BAND + gap) // rows
    for number, picture in enumerate(pictures):
        cell = ImageOps.fit(picture, (wide - gap, high - gap), Image.Resampling.LANCZOS)
        sheet.paste(cell, (number % columns * wide, number // columns * high))
    return sheet


def curve(run: Path, stop: float = 0.0) -> Image.Image:
    """The loss of a run, smoothed; from the share `stop` on in another colour, with a mark."""
    losses = [
        entry["loss"]
        for entry in map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines())
        if entry.get("loss")
    ]
    wide, high, scale = SIDE, 120, 3
    smooth, running = [], losses[0]
    for loss in losses:
        running += 0.03 * (loss - running)
        smooth.append(math.log(running))  # a straight scale would show one fall and a flat line
    low, top = min(smooth), max(smooth)
    picture = Image.new("RGB", (wide * scale, high * scale), GROUND)
    pen = ImageDraw.Draw(picture)
    across, down = wide * scale / (len(smooth) - 1), (high - 40) * scale / (top - low)
    points = [(x * across, (top - y) * down + 20 * scale) for x, y in enumerate(smooth)]
    turn = int(stop * len(points))
    if turn:
        pen.line(points[: turn + 1], FAINT, 5 * scale, joint="curve")
    pen.line(points[turn:], ACCENT, 5 * scale, joint="curve")
    if turn:
        x, y = points[turn]
        pen.ellipse([x - 9 * scale, y - 9 * scale, x + 9 * scale, y + 9 * scale], fill=INK)
    return picture.resize((wide, high), Image.Resampling.LANCZOS)


def over(picture: Image.Image, chart: Image.Image) -> Image.Image:
    """A picture above a chart."""
    whole = empty()
    high = SIDE - BAND - chart.height
    whole.paste(ImageOps.fit(picture, (SIDE, high), Image.Resampling.LANCZOS, centering=(0.5, 0.4)), (0, 0))
    whole.paste(chart, (0, high))
    return whole


def token(picture: Image.Image) -> Image.Image:
    """A word in the prompt, and what it stands for."""
    whole = empty()
    whole.paste(ImageOps.fit(picture, (SIDE, 236), Image.Resampling.LANCZOS), (0, 0))
    pen = ImageDraw.Draw(whole)
    font = ImageFont.load_default(28)
    start = (SIDE - pen.textlength("a photo of  TOK ", font)) / 2
    pen.text((start, 276), "a photo of", FAINT, font, anchor="lm")
    left = start + pen.textlength("a photo of ", font)
    pen.rounded_rectangle([left, 254, left + pen.textlength(" TOK ", font) + 6, 298], 10, fill=ACCENT)
    pen.text((left + 3, 276), " TOK ", GROUND, font, anchor="lm")
    return whole


def checked(pictures: list[Image.Image]) -> Image.Image:
    """A contact sheet with two pictures found wanting: one blurred, one there twice."""
    shown = [*pictures[:5], pictures[5].filter(ImageFilter.GaussianBlur(7)), *pictures[6:8], pictures[1]]
    sheet, wide, high = empty(), SIDE // 3, (SIDE - BAND) // 3
    pen = ImageDraw.Draw(sheet)
    for number, picture in enumerate(shown):
        x, y = number % 3 * wide, number // 3 * high
        sheet.paste(ImageOps.fit(picture, (wide - 6, high - 6), Image.Resampling.LANCZOS), (x + 3, y + 3))
        if number in (5, 8):
            pen.rectangle([x + 3, y + 3, x + wide - 4, y + high - 4], outline=(240, 60, 60), width=7)
    return sheet


def captioned(picture: Image.Image, caption: str) -> Image.Image:
    """A picture with its caption in a bubble."""
    whole = empty()
    whole.paste(ImageOps.fit(picture, (SIDE, 210), Image.Resampling.LANCZOS), (0, 0))
    pen = ImageDraw.Draw(whole)
    pen.rounded_rectangle([20, 190, SIDE - 20, 300], 18, fill=INK)
    font, lines = ImageFont.load_default(28), [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if pen.textlength(longer, font) < SIDE - 70 else [*lines, word]
    pen.multiline_text((SIDE / 2, 245), "\n".join(lines[:3]), GROUND, font, anchor="mm", align="center")
    return whole


def save(picture: Image.Image, place: Path) -> None:
    """Write as JPEG, in the best quality that is small enough."""
    for quality in (92, 85, 78, 70):
        picture.save(place, "JPEG", quality=quality, optimize=True)
        if place.stat().st_size <= MOST_BYTES:
            return


if __name__ == "__main__":
    sys.exit(main())
