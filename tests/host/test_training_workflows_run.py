"""The shipped workflows that train, beside the shortest, through POST /prompt of a real ComfyUI."""

import json
import time

import pytest

STEPS = 6
TRAIN, REPORT = "SDXLTrainer_TrainSDXLLoRA", "Report of the run"


@pytest.fixture
def client(server, graphs):
    return graphs.Client(server)


@pytest.fixture
def workflow(pack_folder):
    return lambda name: json.loads((pack_folder / "workflows" / name).read_text("utf-8"))


def title_id(ui, title):
    return next(str(node["id"]) for node in ui["nodes"] if node.get("title") == title)


def metrics(base_directory, name):
    lines = (base_directory / "output" / "sdxl_trainer" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def opened(client, graphs, workflow):
    """A shipped training workflow on the example pictures, made small; (prompt, workflow)."""

    def make(file, name, **changes):
        ui = workflow(file)
        prompt = graphs.stand_in_instead_of_checkpoint(graphs.api_prompt(ui, client.get("/object_info")))
        smaller = {
            "SDXLTrainer_LoadDataset": {"folder": "input/zorp", "resolution": 128, "trigger": "zorp"},
            "SDXLTrainer_PreviewSettings": {"prompts": "a zorp\na cat", "steps": 2, "preview_every": 4},
            TRAIN: {"name": name, "steps": STEPS, "rank": 4, **changes},
            "EmptyLatentImage": {"width": 128, "height": 128},
            "KSampler": {"steps": 2},
        }
        for node in prompt.values():
            node["inputs"] |= smaller.get(node["class_type"], {})
        return prompt, ui

    return make


def pictures_by_title(ui, ended):
    titles = {str(node["id"]): node.get("title") for node in ui["nodes"]}
    return {titles[key]: output["images"] for key, output in ended["outputs"].items() if "images" in output}


def test_a_face_is_checked_trained_and_drawn_with_and_without(client, graphs, opened, base_directory):
    prompt, ui = opened("train_a_face.json", "face")
    ended = client.run(prompt, ui)
    assert "12 pictures looked at" in graphs.texts(ended, title_id(ui, "The doctor's report"))
    assert "every key fits" in graphs.texts(ended, title_id(ui, REPORT))
    kinds = [set(entry) for entry in metrics(base_directory, "face")]
    assert any("validation_loss" in kind for kind in kinds)
    folder = base_directory / "output" / "sdxl_trainer" / "face" / "samples"
    assert {path.name[:11] for path in folder.iterdir()} >= {"step-000000", "step-000004"}
    drawn = pictures_by_title(ui, ended)
    temp = base_directory / "temp"
    pair = [
        (temp / image["subfolder"] / image["filename"]).read_bytes()
        for title in ("With the LoRA", "Without it, same seed")
        for image in drawn[title]
    ]
    assert len(pair) == 2 and pair[0] != pair[1]


def test_a_style_is_trained_on_variants_of_its_captions(client, graphs, opened, base_directory):
    prompt, ui = opened("train_a_style.json", "style")
    ended = client.run(prompt, ui)
    assert len(metrics(base_directory, "style")) == STEPS
    assert "zorp" in graphs.texts(ended, title_id(ui, "Captions as they will be read"))
    assert "style" in graphs.texts(ended, title_id(ui, "The doctor's report"))
    assert len(pictures_by_title(ui, ended)["In the style"]) == 1


def test_resuming_refuses_without_a_run_and_goes_on_with_one(client, graphs, opened, base_directory):
    prompt, ui = opened("resume_training.json", "resumed", steps=40)
    said = graphs.failure(client.wait(client.queue(prompt, ui)))
    assert "there is no run 'resumed' to go on with" in said
    prompt, ui = opened("resume_training.json", "resumed", steps=40, resume="auto")
    (run,) = graphs.nodes_of(prompt, "SDXLTrainer_RunSettings")
    run |= {"save_every": 5}
    queued = client.queue(prompt, ui)
    deadline = time.monotonic() + 300
    while not (base_directory / "models" / "loras" / "resumed-step000005.safetensors").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    client.post("/interrupt", {})
    client.wait(queued)
    assert 5 <= len(metrics(base_directory, "resumed")) < 40
    prompt, ui = opened("resume_training.json", "resumed", steps=40)
    ended = client.run(prompt, ui)
    assert [entry["step"] for entry in metrics(base_directory, "resumed")] == list(range(1, 41))
    assert "every key fits" in graphs.texts(ended, title_id(ui, REPORT))
