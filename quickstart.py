"""Train a LoRA on twelve bundled pictures and draw with it: python3 quickstart.py [--headless].

Needs nothing but Python 3.10 or newer. Where a ComfyUI is found, the shipped workflow runs in it, in
folders of its own and with ComfyUI's environment left as it is; else, or with --headless, training
runs without ComfyUI in an environment that is made here. `--data` and `--checkpoint` train on yours.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0])

import argparse
import filecmp
import io
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_queue import Prompt, QueueError, get_json, run_prompt, to_prompt
from environment import (
    ROOT,
    ComfyUI,
    Server,
    SetupError,
    comfy_environment,
    find_comfyui,
    make_environment,
    start_comfyui,
)

EXAMPLE_DATA = ROOT / "assets" / "example_dataset"
STAND_IN = ROOT / "assets" / "tiny_sdxl"
STAND_IN_NODES = ROOT / "tests" / "host" / "stand_in_pack"
WORKFLOW = ROOT / "workflows" / "train_and_sample.json"
STAND_IN_SIDE, SDXL_SIDE = 128, 1024
# a pair that was in the pictures, two that were not, and something else that must stay as it was
EXAMPLE_PROMPTS = (
    "a large zorp on a blue background",
    "a large zorp on a black background",
    "a small zorp on a purple background",
    "a large red star on a white background",
)
# for the stand-in, which is so small that it wants more layers and a higher rate than any real model
EXAMPLE_TRAINING = {
    "preset": "character",
    "steps": 900,
    "batch_size": 4,
    "learning_rate": 1.5e-3,
    "targets": "attention+ff+conv",
}
DRAWING_STEPS, DRAWING_GUIDANCE, DRAWING_SEED = 20, 6.0, 1
BAR_WIDTH = 30
WROTE = "wrote "  # how the trainer's command line begins the line that names its file
TRAIN_NODE, LORA_FILE_OUTPUT = "SDXLTrainer_TrainSDXLLoRA", 3
LORA_NAME_NODE = "lora_name"
NODE_WORDS = {
    "SDXLTrainer_LoadDataset": "reading pictures",
    TRAIN_NODE: "training",
    "KSampler": "drawing",
}


@dataclass(frozen=True)
class Plan:
    """What to train on and where to put it."""

    data: Path
    checkpoint: Path
    output: Path
    name: str
    prompts: list[str]
    training: dict[str, Any]

    @property
    def side(self) -> int:
        return STAND_IN_SIDE if self.checkpoint == STAND_IN else SDXL_SIDE

    def keep(self, lora: Path, sheet: Path) -> "Made":
        """Copy what was made into the output folder, beside what is there."""
        return Made(
            lora=copy_beside(lora, self.output / f"{self.name}.safetensors"),
            sheet=copy_beside(sheet, self.output / f"{self.name}_before_after.png"),
        )


@dataclass(frozen=True)
class Made:
    """The files that a run leaves in the output folder."""

    lora: Path
    sheet: Path


def copy_beside(source: Path, target: Path) -> Path:
    """Copy to `target`, or to its next free name where another file has that one; returns the name."""
    place, number = target, 1
    while place.exists() and not filecmp.cmp(source, place, shallow=False):
        number += 1
        place = target.with_stem(f"{target.stem}-{number}")
    if not place.exists():
        shutil.copyfile(source, place)
    return place


def read_plan(options: argparse.Namespace) -> Plan:
    data, checkpoint = options.data.expanduser().resolve(), options.checkpoint.expanduser().resolve()
    is_example = data == EXAMPLE_DATA and checkpoint == STAND_IN
    prompts = options.prompt or (EXAMPLE_PROMPTS if data == EXAMPLE_DATA else [first_caption(data)])
    training = dict(EXAMPLE_TRAINING) if is_example else {}
    if options.steps:
        training["steps"] = options.steps
    name = options.name or ("zorp" if data == EXAMPLE_DATA else re.sub(r"[^\w-]+", "_", data.name))
    output = options.output.expanduser().resolve()
    return Plan(data, checkpoint, output, name, list(prompts), training)


def first_caption(data: Path) -> str:
    """What the first caption file says, else the folder's name: something to draw after training."""
    for file in sorted([*data.rglob("*.txt"), *data.rglob("*.caption")]):
        words = " ".join(file.read_text("utf-8-sig", errors="replace").split())
        if words:
            return words[:300]
    return re.sub(r"^\d+_|[\W_]+", " ", data.name).strip()


class Bar:
    """A progress bar on a terminal; into a file, a line at each tenth, or quarter of a small number."""

    def __init__(self) -> None:
        self._last = ("", -1)
        self._is_open = False

    def show(self, title: str, done: int, total: int) -> None:
        if sys.stdout.isatty():
            filled = BAR_WIDTH * done // total
            bar = "#" * filled + "-" * (BAR_WIDTH - filled)
            print(f"\r  {title:<20} [{bar}] {done}/{total} ", end="", flush=True)
            self._is_open = True
            return
        part = (title, (10 if total > 50 else 4) * done // total)
        if part != self._last:
            self._last = part
            print(f"  {title}: {done} of {total}", flush=True)

    def close(self) -> None:
        if self._is_open:
            print()
        self._is_open = False

    def on_node(self, node: str, done: int, total: int) -> None:
        if total > 1 and node in NODE_WORDS:
            self.show(NODE_WORDS[node], done, total)
            if done == total:
                self.close()


def run_headless(plan: Plan) -> Made:
    """Train and draw without ComfyUI; the trainer's own command line does all of it."""
    python = make_environment(ROOT / ".venv")
    work = plan.output / "headless"
    sheet = work / "before_after.png"
    command = [str(python), "-m", "trainer", "--data", str(plan.data), "--checkpoint", str(plan.checkpoint)]
    command += ["--name", plan.name, "--output", str(work), "--sheet", str(sheet)]
    command += ["--prompts", *plan.prompts]
    for option, value in plan.training.items():
        command += [f"--{option.replace('_', '-')}", str(value)]
    written = None
    utf8 = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", env=utf8) as trainer:
        for line in trainer.stdout or ():
            print(line, end="", flush=True)
            written = Path(line[len(WROTE) :].rstrip()) if line.startswith(WROTE) else written
    if trainer.returncode or written is None:
        raise SetupError("Training did not finish; what stopped it stands above.")
    return plan.keep(written, sheet)


def run_in_comfyui(plan: Plan, comfy: ComfyUI) -> Made:
    """Run the shipped workflow in a server of its own, then draw each prompt without and with the LoRA."""
    python = comfy_environment(comfy)
    base = plan.output / "comfyui"
    base.mkdir(parents=True, exist_ok=True)
    print(f"Starting ComfyUI {comfy.version} ...", flush=True)
    with start_comfyui(comfy, python, base, [STAND_IN_NODES], share_folders(plan, base)) as server:
        workflow = json.loads(WORKFLOW.read_text("utf-8"))
        prompt = adapt(to_prompt(workflow, get_json(f"{server.url}/object_info")), plan)
        bar = Bar()
        try:
            outputs = run_prompt(server.url, prompt, bar.on_node, workflow)["outputs"]
            lora_name = outputs[LORA_NAME_NODE]["text"][0]
            pictures = draw_before_and_after(server, plan, lora_name)
        finally:
            bar.close()
    code = "import sys, quickstart; quickstart.write_sheet(*sys.argv[1:])"
    sheet = base / "before_after.png"
    arguments = [str(sheet), json.dumps(plan.prompts), json.dumps([str(p) for p in pictures])]
    subprocess.run([str(python), "-c", code, *arguments], cwd=ROOT, check=True)
    return plan.keep(base / "models" / "loras" / lora_name, sheet)


def share_folders(plan: Plan, base: Path) -> list[str]:
    """Put the bundled pictures under input/, or show the user's own folders; ComfyUI's arguments for it."""
    shared = {"checkpoints": plan.checkpoint.parent}
    if plan.data == EXAMPLE_DATA:
        shutil.copytree(plan.data, base / "input" / plan.data.name, dirs_exist_ok=True)
    else:
        shared["datasets"] = plan.data.parent
    paths = base / "extra_model_paths.yaml"
    # a JSON string is a YAML string too, backslashes and colons of Windows included
    lines = [f"  {kind}: {json.dumps(str(folder))}\n" for kind, folder in shared.items()]
    paths.write_text("quickstart:\n" + "".join(lines), "utf-8")
    return ["--extra-model-paths-config", str(paths)]


def loader(plan: Plan) -> dict[str, Any]:
    if plan.checkpoint == STAND_IN:
        return {"class_type": "StandInLoader", "inputs": {}}
    return {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": plan.checkpoint.name}}


def adapt(prompt: Prompt, plan: Plan) -> Prompt:
    """The workflow with what its user would choose on the canvas: checkpoint, folder, name, prompt, size."""
    root = "input" if plan.data == EXAMPLE_DATA else "datasets"
    chosen = {
        "SDXLTrainer_LoadDataset": {"folder": f"{root}/{plan.data.name}", "resolution": plan.side},
        TRAIN_NODE: {"name": plan.name, "preset": "object", **plan.training},
        "EmptyLatentImage": {"width": plan.side, "height": plan.side},
        "KSampler": {"steps": DRAWING_STEPS, "cfg": DRAWING_GUIDANCE},
    }
    adapted: Prompt = {}
    for node_id, node in prompt.items():
        kind = node["class_type"]
        inputs = {**node["inputs"], **chosen.get(kind, {})}
        adapted[node_id] = (
            loader(plan) if kind == "CheckpointLoaderSimple" else {"class_type": kind, "inputs": inputs}
        )
    for sampler in [n for n in adapted.values() if n["class_type"] == "KSampler"]:
        adapted[sampler["inputs"]["positive"][0]]["inputs"]["text"] = plan.prompts[0]
        adapted[sampler["inputs"]["negative"][0]]["inputs"]["text"] = ""
    trainer = next(i for i, n in adapted.items() if n["class_type"] == TRAIN_NODE)
    # a node of our own tells the name of the file, which is not `name` when that was taken
    adapted[LORA_NAME_NODE] = {"class_type": "PreviewAny", "inputs": {"source": [trainer, LORA_FILE_OUTPUT]}}
    return adapted


def draw_before_and_after(server: Server, plan: Plan, lora_name: str) -> list[Path]:
    """Draw each prompt with the plain model and with the file in ComfyUI's own LoRA loader.

    Returns:
        The pictures row by row: before, after.
    """
    graph: Prompt = {
        "model": loader(plan),
        "lora": {
            "class_type": "LoraLoader",
            "inputs": {
                "model": ["model", 0],
                "clip": ["model", 1],
                "lora_name": lora_name,
                "strength_model": 1.0,
                "strength_clip": 1.0,
            },
        },
        "negative": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": ""}},
        "size": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": plan.side, "height": plan.side, "batch_size": 1},
        },
    }
    cells = []
    for row, text in enumerate(plan.prompts):
        graph[f"text{row}"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": text}}
        for source in ("model", "lora"):
            cells.append(f"{source}{row}")
            add_drawing(graph, source, row)
    record = run_prompt(server.url, graph, lambda *_: None)
    saved = [record["outputs"][f"save_{cell}"]["images"][0] for cell in cells]
    return [server.base_directory / "output" / s["subfolder"] / s["filename"] for s in saved]


def add_drawing(graph: Prompt, source: str, row: int) -> None:
    """Sampler, decoder and saver for the prompt of `row`; `source` is the node that gives the model."""
    cell = f"{source}{row}"
    graph[f"draw_{cell}"] = {
        "class_type": "KSampler",
        "inputs": {
            "model": [source, 0],
            "positive": [f"text{row}", 0],
            "negative": ["negative", 0],
            "latent_image": ["size", 0],
            "seed": DRAWING_SEED + row,
            "steps": DRAWING_STEPS,
            "cfg": DRAWING_GUIDANCE,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
        },
    }
    graph[f"decode_{cell}"] = {
        "class_type": "VAEDecode",
        "inputs": {"samples": [f"draw_{cell}", 0], "vae": ["model", 2]},
    }
    graph[f"save_{cell}"] = {
        "class_type": "SaveImage",
        "inputs": {"images": [f"decode_{cell}", 0], "filename_prefix": f"quickstart/{cell}"},
    }


def write_sheet(path: str, prompts: str, pictures: str) -> None:
    """Called in ComfyUI's environment, where there is Pillow; arguments after the first are JSON lists."""
    from PIL import Image

    from trainer.data.contact_sheet import SheetStyle, contact_sheet

    images = [Image.open(picture) for picture in json.loads(pictures)]
    style = SheetStyle(column_titles=("before", "after"), row_titles=json.loads(prompts))
    contact_sheet(images, [], 2, style).save(path)


def choose_host(options: argparse.Namespace, plan: Plan) -> ComfyUI | None:
    """The ComfyUI to run in, or None; says which and why."""
    hosts = [] if options.headless else find_comfyui()
    if options.headless:
        print("Training without ComfyUI.")
    elif not hosts:
        print("No ComfyUI found (COMFYUI_PATH names one): training without it.")
    elif plan.checkpoint != STAND_IN and plan.checkpoint.is_dir():
        print("ComfyUI's checkpoint loader reads files, and this is a diffusers folder: training without it.")
        return None
    else:
        print(f"Training inside ComfyUI {hosts[0].version} in {hosts[0].folder} (--headless: without it).")
        for other in hosts[1:]:
            print(f"There is ComfyUI {other.version} in {other.folder} too; COMFYUI_PATH chooses.")
    return hosts[0] if hosts else None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="quickstart.py", description=__doc__)
    parser.add_argument("--headless", action="store_true", help="train without ComfyUI")
    parser.add_argument("--data", type=Path, default=EXAMPLE_DATA, help="folder of your pictures")
    parser.add_argument("--checkpoint", type=Path, default=STAND_IN, help="SDXL: .safetensors or folder")
    parser.add_argument("--output", type=Path, default=ROOT / "quickstart_output")
    parser.add_argument("--name", default="", help="of the LoRA; default: the folder's name")
    parser.add_argument("--prompt", action="append", help="to draw before and after; may be repeated")
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps; 0 = chosen for you")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a Windows console may lack a letter of a file's name
    options = parse(arguments)
    plan = read_plan(options)
    missing = [path for path in (plan.data, plan.checkpoint) if not path.exists()]
    if missing:
        print(f"There is no {missing[0]}: check --data and --checkpoint.")
        return 1

    if plan.checkpoint == STAND_IN:
        # so small a model loses more to threads that wait for one another than it gains
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    started = time.monotonic()
    try:
        host = choose_host(options, plan)
        made = run_in_comfyui(plan, host) if host else run_headless(plan)
    except (SetupError, QueueError) as fault:
        print(f"\n{fault}")
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from the last checkpoint.")
        return 130
    say_what_to_do_next(plan, made, time.monotonic() - started)
    return 0


def say_what_to_do_next(plan: Plan, made: Made, seconds: float) -> None:
    print(f"\nDone in {seconds:.0f} s.")
    print(f"  before and after: {made.sheet}")
    print(f"  the LoRA:         {made.lora}")
    if plan.checkpoint == STAND_IN:
        print("The model was the small stand-in that comes along, which only draws shapes. With a real one:")
        print("  python3 quickstart.py --data YOUR_PICTURES --checkpoint YOUR_SDXL.safetensors")
    else:
        print("Put the LoRA into ComfyUI's models/loras and load it with Load LoRA or Apply LoRA.")
    print(f"In ComfyUI, open {WORKFLOW.relative_to(ROOT).as_posix()} to train on your own pictures.")


if __name__ == "__main__":
    sys.exit(main())
