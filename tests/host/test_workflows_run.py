"""The shipped workflows through POST /prompt of a real ComfyUI, on the stand-in."""

import json
import time

import pytest
from safetensors import safe_open

STEPS = 6
TRAIN, REPORT, DATASET_REPORT = "SDXLTrainer_TrainSDXLLoRA", "Report of the run", "Report of the dataset"


@pytest.fixture
def client(server, graphs):
    return graphs.Client(server)


@pytest.fixture
def workflow(pack_folder):
    return lambda name: json.loads((pack_folder / "workflows" / name).read_text())


@pytest.fixture
def training(client, graphs, workflow):
    """The shipped training graph, made small; returns (prompt, workflow)."""

    def make(name, **changes):
        ui = workflow("train_and_sample.json")
        prompt = graphs.stand_in_instead_of_checkpoint(graphs.api_prompt(ui, client.get("/object_info")))
        (dataset,) = graphs.nodes_of(prompt, "SDXLTrainer_LoadDataset")
        dataset |= {"folder": "input/zorp", "resolution": 128, "trigger": "zorp"}
        (train,) = graphs.nodes_of(prompt, TRAIN)
        train |= {"name": name, "steps": STEPS, "rank": 4, **changes}
        (latent,) = graphs.nodes_of(prompt, "EmptyLatentImage")
        latent |= {"width": 128, "height": 128}
        for sampler in graphs.nodes_of(prompt, "KSampler"):
            sampler |= {"steps": 2}
        add_settings(client, prompt, "Preview", prompts="a zorp\na cat", steps=2, preview_every=4)
        return prompt, ui

    return make


def title_id(ui, title):
    return next(str(node["id"]) for node in ui["nodes"] if node.get("title") == title)


def add_settings(client, prompt, name, **changes):
    """Plug a settings node into the trainer; what is not changed has its default."""
    info = client.get("/object_info")[f"SDXLTrainer_{name}Settings"]["input"]["required"]
    values = {widget: options["default"] for widget, (_, options) in info.items()}
    prompt[name] = {"class_type": f"SDXLTrainer_{name}Settings", "inputs": {**values, **changes}}
    train = next(n for n in prompt.values() if n["class_type"] == TRAIN)
    train["inputs"][f"{name.lower()}_settings"] = [name, 0]


def metrics(base_directory, name):
    lines = (base_directory / "output" / "sdxl_trainer" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def lora_path(base_directory, name):
    return base_directory / "models" / "loras" / f"{name}.safetensors"


def test_the_pack_loads_without_a_word_of_complaint(server, client, pack_folder):
    assert "IMPORT FAILED" not in server.log.read_text()
    ours = {name for name in client.get("/object_info") if name.startswith("SDXLTrainer_")}
    frozen = json.loads((pack_folder / "tests" / "nodes" / "frozen_nodes.json").read_text())
    assert ours == frozen.keys()


def test_training_and_sampling_run_and_the_file_carries_the_graph(client, graphs, training, base_directory):
    prompt, ui = training("first")
    ended = client.run(prompt, ui)
    assert len(metrics(base_directory, "first")) == STEPS
    with safe_open(lora_path(base_directory, "first"), "pt") as file:
        metadata = file.metadata()
        assert any(key.endswith(".alpha") for key in file.keys())  # noqa: SIM118
    assert json.loads(metadata["workflow"]) == ui
    assert json.loads(metadata["prompt"]).keys() == prompt.keys()
    assert str(base_directory) not in json.dumps(metadata)
    assert "every key fits" in graphs.texts(ended, title_id(ui, REPORT))
    assert "12 pictures" in graphs.texts(ended, title_id(ui, DATASET_REPORT))
    images = [entry for output in ended["outputs"].values() for entry in output.get("images", [])]
    assert sum(image["type"] == "output" for image in images) == 1
    assert sum(image["type"] == "temp" for image in images) == 3  # the sheet and both preview prompts


def test_the_file_loads_in_cores_loader_without_a_complaint(client, graphs, training, server, base_directory):
    if not lora_path(base_directory, "first").exists():
        client.run(*training("first"))
    prompt, _ = training("unused")
    (train_id,) = [key for key, node in prompt.items() if node["class_type"] == TRAIN]
    inputs = prompt.pop(train_id)["inputs"]
    wires = {"model": inputs["model"], "clip": inputs["clip"]}
    strengths = {"lora_name": "first.safetensors", "strength_model": 1.0, "strength_clip": 1.0}
    prompt[train_id] = {"class_type": "LoraLoader", "inputs": {**wires, **strengths}}
    prompt.pop("Preview")
    for key in [k for k, n in prompt.items() if n["class_type"] in ("PreviewAny", "PreviewImage")]:
        prompt.pop(key)
    mark = len(server.log.read_text())
    client.run(prompt)
    said = server.log.read_text()[mark:]
    assert "lora key not loaded" not in said
    assert "NOT LOADED" not in said


def test_sampling_with_the_finished_lora_runs(client, graphs, training, workflow, base_directory):
    if not lora_path(base_directory, "first").exists():
        client.run(*training("first"))
    ui = workflow("sample_with_lora.json")
    prompt = graphs.stand_in_instead_of_checkpoint(graphs.api_prompt(ui, client.get("/object_info")))
    (apply,) = graphs.nodes_of(prompt, "SDXLTrainer_ApplyLoRA")
    apply |= {"lora_name": "first.safetensors"}
    (latent,) = graphs.nodes_of(prompt, "EmptyLatentImage")
    latent |= {"width": 128, "height": 128}
    ended = client.run(prompt)
    assert graphs.texts(ended, title_id(ui, "Trigger words")) == "zorp"
    assert "applied" in graphs.texts(ended, title_id(ui, "What was applied"))


def test_pictures_on_the_way_are_kept_from_the_base_on(client, training, base_directory):
    if not lora_path(base_directory, "first").exists():
        client.run(*training("first"))
    folder = base_directory / "output" / "sdxl_trainer" / "first" / "samples"
    names = sorted(path.name for path in folder.iterdir())
    assert names[:4] == [f"step-{step:06d}-{n:02d}.png" for step in (0, 4) for n in (0, 1)]


def test_loaded_settings_are_the_same_run_again(client, graphs, training, base_directory):
    if not lora_path(base_directory, "first").exists():
        client.run(*training("first"))
    before = lora_path(base_directory, "first").stat().st_mtime_ns
    prompt, ui = training("first")
    info = client.get("/object_info")["SDXLTrainer_LoadTrainingSettings"]
    prompt["load"] = {"class_type": info["name"], "inputs": {"lora_name": "first.safetensors"}}
    (train,) = graphs.nodes_of(prompt, TRAIN)
    train |= {"rank": 0, "preset": "style"}
    train |= {name: ["load", n] for n, name in enumerate(info["output_name"]) if name != "report"}
    prompt.pop("Preview")
    ended = client.run(prompt, ui)
    assert lora_path(base_directory, "first").stat().st_mtime_ns == before
    assert not lora_path(base_directory, "first-2").exists()
    assert "'first'" in graphs.texts(ended, title_id(ui, REPORT))


def test_checkpoints_are_compared_on_one_sheet(client, graphs, training, workflow, base_directory):
    prompt, ui = training("kept")
    add_settings(client, prompt, "Run", save_every=2, keep_last=0)
    client.run(prompt, ui)
    ui = workflow("compare_checkpoints.json")
    prompt = graphs.stand_in_instead_of_checkpoint(graphs.api_prompt(ui, client.get("/object_info")))
    (compare,) = graphs.nodes_of(prompt, "SDXLTrainer_CompareLoRAs")
    compare |= {"lora_name": "kept.safetensors", "steps": 2, "width": 64, "height": 64}
    ended = client.run(prompt, ui)
    said = graphs.texts(ended, title_id(ui, "What was drawn"))
    assert "kept: 16 pictures of 64x64" in said
    assert "kept-step000002.safetensors, kept-step000004.safetensors, kept.safetensors" in said
    images = [entry for output in ended["outputs"].values() for entry in output.get("images", [])]
    assert sorted(image["type"] for image in images) == ["output", "temp"]


def test_queueing_again_trains_nothing_even_after_a_restart(graphs, training, start_server, base_directory):
    prompt, ui = training("second")
    with start_server() as first:
        graphs.Client(first).run(prompt, ui)
        before = (lora_path(base_directory, "second").stat().st_mtime_ns, metrics(base_directory, "second"))
        graphs.Client(first).run(prompt, ui)
    with start_server() as restarted:
        graphs.Client(restarted).run(prompt, ui)
    after = (lora_path(base_directory, "second").stat().st_mtime_ns, metrics(base_directory, "second"))
    assert after == before


def test_a_changed_caption_trains_anew(client, training, base_directory, graphs):
    prompt, ui = training("third")
    client.run(prompt, ui)
    caption = base_directory / "input" / "zorp" / "zorp_01.txt"
    text = caption.read_text()
    try:
        caption.write_text("something else")
        ended = client.run(prompt, ui)
    finally:
        caption.write_text(text)
    assert lora_path(base_directory, "third-2").exists()
    assert "third-2" in graphs.texts(ended, title_id(ui, REPORT))


def test_cancel_keeps_the_finished_steps_and_queueing_goes_on(client, training, base_directory):
    whole, ui = training("whole", steps=40)
    client.run(whole, ui)
    prompt, ui = training("cancelled", steps=40)
    add_settings(client, prompt, "Run", save_every=5, keep_last=0)
    queued = client.queue(prompt, ui)
    folder = base_directory / "models" / "loras"
    deadline = time.monotonic() + 300
    while not (folder / "cancelled-step000005.safetensors").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    client.post("/interrupt", {})
    ended = client.wait(queued)
    assert "execution_interrupted" in [message[0] for message in ended["status"]["messages"]]
    done = len(metrics(base_directory, "cancelled"))
    assert 5 <= done < 40
    kept = folder / f"cancelled-step{done:06d}.safetensors"
    assert kept.exists()
    client.run(prompt, ui)
    assert [entry["step"] for entry in metrics(base_directory, "cancelled")] == list(range(1, 41))
    with (
        safe_open(folder / "whole.safetensors", "pt") as a,
        safe_open(folder / "cancelled.safetensors", "pt") as b,
    ):
        assert list(a.keys()) == list(b.keys())
        assert all((a.get_tensor(key) == b.get_tensor(key)).all() for key in a.keys())  # noqa: SIM118


def test_bad_input_is_one_readable_sentence(client, graphs, training, base_directory):
    (base_directory / "input" / "bad").mkdir(exist_ok=True)
    (base_directory / "input" / "bad" / "broken.png").write_bytes(b"<html>")
    prompt, ui = training("never")
    (dataset,) = graphs.nodes_of(prompt, "SDXLTrainer_LoadDataset")
    dataset |= {"folder": "input/bad"}
    said = graphs.failure(client.wait(client.queue(prompt, ui))).splitlines()
    message = "\n".join(line for line in said if not line.lstrip().startswith("File "))
    assert "broken.png" in message
    assert str(base_directory) not in said[0]


def test_folders_outside_the_roots_are_refused(client, graphs, training):
    prompt, ui = training("never")
    (dataset,) = graphs.nodes_of(prompt, "SDXLTrainer_LoadDataset")
    dataset |= {"folder": "input/../../.."}
    try:
        said = graphs.failure(client.wait(client.queue(prompt, ui)))
    except AssertionError as refused:  # by ComfyUI itself, before the node is asked
        said = str(refused)
    assert "Value not in list" in said or "folder 'input/../../..' was not found" in said
