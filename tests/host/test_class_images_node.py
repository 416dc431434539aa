"""Class images in a real ComfyUI: the missing ones are drawn once, as KSampler draws them, and kept."""

import shutil
import time

import numpy as np
import pytest
from PIL import Image

PROMPT = "a large red circle on a white background"


@pytest.fixture
def client(server, graphs):
    return graphs.Client(server)


@pytest.fixture
def graph(client):
    """A graph that adds class images to input/zorp; every widget at its default but those given."""
    info = client.get("/object_info")

    def node(class_type, **values):
        defaults = {}
        for name, spec in info[class_type]["input"].get("required", {}).items():
            options = spec[1] if len(spec) > 1 else {}
            if "default" in options:
                defaults[name] = options["default"]
        return {"class_type": class_type, "inputs": {**defaults, **values}}

    def make(**values):
        drawn = {"class_prompt": PROMPT, "steps": 2, "dataset": ["data", 0], **values}
        wires = {"model": ["load", 0], "clip": ["load", 1], "vae": ["load", 2]}
        return {
            "load": node("StandInLoader"),
            "data": node("SDXLTrainer_LoadDataset", folder="input/zorp", resolution=128, trigger="zorp"),
            "class": node("SDXLTrainer_ClassImages", **wires, **drawn),
            "report": node("PreviewAny", source=["class", 2]),
            "sheet": node("PreviewImage", images=["class", 1]),
        }

    return make


@pytest.fixture
def class_folder(base_directory):
    """An empty folder name under input/, gone before and after."""
    folder = base_directory / "input" / "shapes"
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def state(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.iterdir())}


def test_of_five_wanted_two_are_there_three_are_drawn_and_none_the_next_time(
    client, graphs, graph, class_folder, example_folder
):
    class_folder.mkdir()
    for name in ("zorp_01", "zorp_02"):  # other bytes than the dataset's own
        Image.open(example_folder / f"{name}.png").rotate(180).save(class_folder / f"{name}.png")
    real = state(class_folder)
    prompt = graph(new_folder="shapes", num_class_images=5, seed=7)
    said = graphs.texts(client.run(prompt), "report")
    first = state(class_folder)
    assert len(first) == 5 and real.items() <= first.items()
    assert [name[:6] for name in first if name not in real] == ["00000-", "00001-", "00002-"]
    assert "3 class images drawn into input/shapes, 5 are there now." in said
    assert "Each step sees as many of them as of the others" in said
    again = graphs.texts(client.run(prompt), "report")
    assert state(class_folder) == first
    assert "0 class images drawn into input/shapes, 5 are there now." in again
    # more are wanted: the next ones follow, the old ones stay
    client.run(graph(new_folder="shapes", num_class_images=6, seed=7))
    more = state(class_folder)
    assert first.items() <= more.items() and len(more) == 6
    assert [name[:6] for name in more if name not in first] == ["00003-"]


def test_a_class_image_is_what_ksampler_draws_with_the_seed_counted_up(
    client, graph, class_folder, base_directory
):
    client.run(graph(new_folder="shapes", num_class_images=2, seed=7, steps=3))
    (drawn,) = class_folder.glob("00001-*.png")
    core = graph()
    for name in ("class", "report", "sheet", "data"):
        core.pop(name)
    sampling = {
        "seed": 8, "steps": 3, "cfg": 6.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
    }  # fmt: skip
    core |= {
        "yes": {"class_type": "CLIPTextEncode", "inputs": {"text": PROMPT, "clip": ["load", 1]}},
        "no": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["load", 1]}},
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
        "draw": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["load", 0],
                "positive": ["yes", 0],
                "negative": ["no", 0],
                "latent_image": ["empty", 0],
                **sampling,
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["draw", 0], "vae": ["load", 2]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "core"}},
    }
    (image,) = client.run(core)["outputs"]["save"]["images"]
    theirs = np.asarray(Image.open(base_directory / "output" / image["filename"]), dtype=int)
    ours = np.asarray(Image.open(drawn), dtype=int)
    assert ours.std() > 10
    assert np.abs(ours - theirs).max() <= 1  # SaveImage cuts what is rounded here


def test_cancel_keeps_what_is_drawn_and_the_next_queue_goes_on(client, graphs, graph, class_folder):
    queued = client.queue(graph(new_folder="shapes", num_class_images=500, steps=4, seed=7))
    deadline = time.monotonic() + 300
    while not class_folder.is_dir() or len(list(class_folder.glob("*.png"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    client.post("/interrupt", {})
    ended = client.wait(queued)
    assert "execution_interrupted" in [message[0] for message in ended["status"]["messages"]]
    kept = state(class_folder)
    assert 3 <= len(kept) < 500
    assert not [path for path in class_folder.iterdir() if path.suffix != ".png"]
    wanted = len(kept) + 1
    said = graphs.texts(
        client.run(graph(new_folder="shapes", num_class_images=wanted, steps=4, seed=7)), "report"
    )
    after = state(class_folder)
    assert kept.items() <= after.items() and len(after) == wanted
    assert f"1 class images drawn into input/shapes, {wanted} are there now." in said
    # as if it had never been stopped: every picture hangs on seed and index alone
    shutil.rmtree(class_folder)
    client.run(graph(new_folder="shapes", num_class_images=wanted, steps=4, seed=7))
    assert list(state(class_folder)) == list(after)


def test_masks_class_images_and_a_second_dataset_train_together(
    client, graphs, graph, class_folder, base_directory, example_folder
):
    shutil.copytree(example_folder, base_directory / "input" / "more", dirs_exist_ok=True)
    info = client.get("/object_info")["SDXLTrainer_TrainSDXLLoRA"]["input"]["required"]
    defaults = {name: spec[1]["default"] for name, spec in info.items() if "default" in spec[1]}
    prompt = graph(new_folder="shapes", num_class_images=2)
    more = {**prompt["data"]["inputs"], "folder": "input/more", "resolution": 64, "trigger": "blik"}
    joined = {
        "dataset_1": ["masked", 0],
        "dataset_2": ["more", 0],
        "loss_weight_1": 1.0,
        "loss_weight_2": 0.5,
    }
    wires = {"model": ["load", 0], "clip": ["load", 1], "vae": ["load", 2], "dataset": ["class", 0]}
    prompt |= {
        "white": {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 64, "height": 64}},
        "masked": {
            "class_type": "SDXLTrainer_DatasetMasks",
            "inputs": {"dataset": ["data", 0], "source": "mask", "mask": ["white", 0]},
        },
        "more": {"class_type": "SDXLTrainer_LoadDataset", "inputs": more},
        "joined": {"class_type": "SDXLTrainer_JoinDatasets", "inputs": joined},
        "train": {
            "class_type": "SDXLTrainer_TrainSDXLLoRA",
            "inputs": {**defaults, **wires, "name": "together", "steps": 3, "rank": 2, "batch_size": 2},
        },
        "trained": {"class_type": "PreviewAny", "inputs": {"source": ["train", 5]}},
    }
    prompt["class"]["inputs"]["dataset"] = ["joined", 0]
    ended = client.run(prompt)
    said = graphs.texts(ended, "report")
    assert "Dataset 'zorp + more': 24 pictures in use." in said
    assert "Masks: 12 of 24 pictures" in said and "12 pictures x 0.5, 12 pictures x 1" in said
    assert "Class images from 'shapes': 2 pictures (2 at 128 x 128)" in said
    assert (base_directory / "models" / "loras" / "together.safetensors").exists()
    assert "zorp, blik" in graphs.texts(ended, "trained")


def test_nothing_is_drawn_and_nothing_made_where_no_model_is_wired(client, graphs, graph, class_folder):
    prompt = graph(new_folder="shapes", num_class_images=5)
    for name in ("model", "clip", "vae"):
        del prompt["class"]["inputs"][name]
    said = graphs.failure(client.wait(client.queue(prompt)))
    assert "input/shapes holds 0 class images, but num_class_images is 5: wire model, clip, vae" in said
    assert not class_folder.exists()
