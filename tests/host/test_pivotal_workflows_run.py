"""The shipped workflows of pivotal tuning through POST /prompt of a real ComfyUI, on the stand-in."""

import json

import pytest
from PIL import Image
from safetensors import safe_open

STEPS = 6
SIZE = 128
SPACING = 16  # pixels between the two pictures of with_and_without_embedding.json
PIVOTAL, APPLY = "SDXLTrainer_PivotalTuning", "SDXLTrainer_ApplyLoRA"


@pytest.fixture
def client(server, graphs):
    return graphs.Client(server)


@pytest.fixture
def shipped(client, graphs, pack_folder):
    """A shipped workflow as (prompt, workflow), small enough for the stand-in; its TOK is the zorp."""

    def make(name):
        ui = json.loads((pack_folder / "workflows" / name).read_text())
        prompt = graphs.stand_in_instead_of_checkpoint(graphs.api_prompt(ui, client.get("/object_info")))
        for node in prompt.values():
            inputs = node["inputs"]
            for widget in ("text", "value", "token", "prompt"):
                if isinstance(inputs.get(widget), str):
                    inputs[widget] = inputs[widget].replace("TOK", "zorp")
            if node["class_type"] == "EmptyLatentImage":
                inputs |= {"width": SIZE, "height": SIZE}
            if node["class_type"] == "KSampler":
                inputs |= {"steps": 3}
        return prompt, ui

    return make


@pytest.fixture
def pivotal(client, graphs, shipped):
    """pivotal_tuning.json on the example pictures, whose captions hold the zorp."""

    def make(name):
        prompt, ui = shipped("pivotal_tuning.json")
        (dataset,) = graphs.nodes_of(prompt, "SDXLTrainer_LoadDataset")
        dataset |= {"folder": "input/zorp", "resolution": SIZE}
        (train,) = graphs.nodes_of(prompt, PIVOTAL)
        assert train["token"] == "zorp"
        train |= {"name": name, "steps": STEPS, "rank": 4, "learning_rate": 1e-2}
        # far faster than is good, so that six steps can be seen
        train |= {"token_learning_rate": 0.1}
        return prompt, ui

    return make


@pytest.fixture
def with_and_without(client, graphs, shipped, base_directory):
    """The two halves of with_and_without_embedding.json's picture, its history entry, and the workflow."""

    def draw(lora_name, text):
        prompt, ui = shipped("with_and_without_embedding.json")
        loaders = [*graphs.nodes_of(prompt, APPLY), *graphs.nodes_of(prompt, "LoraLoader")]
        assert len(loaders) == 2
        for loader in loaders:
            loader |= {"lora_name": lora_name}
        (both,) = graphs.nodes_of(prompt, "PrimitiveStringMultiline")
        both |= {"value": text}
        ended = client.run(prompt, ui)
        pair = saved_picture(ended, base_directory)
        assert pair.size == (2 * SIZE + SPACING, SIZE)
        left, right = (pair.crop((x, 0, x + SIZE, SIZE)) for x in (0, SIZE + SPACING))
        return left, right, ended, ui

    return draw


def title_id(ui, title):
    return next(str(node["id"]) for node in ui["nodes"] if node.get("title") == title)


def saved_picture(ended, base_directory):
    (saved,) = [
        image
        for output in ended["outputs"].values()
        for image in output.get("images", [])
        if image["type"] == "output"
    ]
    return Image.open(base_directory / "output" / saved["subfolder"] / saved["filename"]).convert("RGB")


@pytest.fixture
def trained(client, pivotal, base_directory):
    """The finished run of the shipped workflow: its history entry, and the workflow."""
    prompt, ui = pivotal("my_zorp")
    return client.run(prompt, ui), ui


def test_a_word_and_a_lora_are_trained_and_the_picture_is_drawn(trained, graphs, base_directory):
    ended, ui = trained
    models = base_directory / "models"
    with safe_open(models / "embeddings" / "my_zorp_emb.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["clip_g", "clip_l"]
    with safe_open(models / "loras" / "my_zorp.safetensors", "pt") as file:
        assert json.loads(file.metadata()["workflow"]) == ui
        assert str(base_directory) not in json.dumps(file.metadata())
    (name,) = [n["title"] for n in ui["nodes"] if n.get("title", "").startswith("For other nodes")]
    assert graphs.texts(ended, title_id(ui, name)) == "my_zorp_emb"
    assert "every key fits" in graphs.texts(ended, title_id(ui, "Report of the run"))
    assert saved_picture(ended, base_directory).size == (SIZE, SIZE)


def test_left_is_what_the_trainer_drew_and_right_lacks_the_word(
    trained, graphs, with_and_without, base_directory
):
    own = saved_picture(trained[0], base_directory)
    text = "a photo of a zorp on a beach"  # the prompt of pivotal_tuning.json
    left, right, ended, ui = with_and_without("my_zorp.safetensors", text)
    assert left.tobytes() == own.tobytes()
    assert right.tobytes() != own.tobytes()
    assert graphs.texts(ended, title_id(ui, "Trigger words")) == "zorp"
    assert "applied" in graphs.texts(ended, title_id(ui, "What was applied"))


def test_left_and_right_differ_by_the_word_alone_though_the_lora_has_text_layers(
    client, graphs, pivotal, with_and_without, base_directory
):
    prompt, ui = pivotal("text_zorp")
    prompt["text"] = graphs.node_of_defaults(client.get("/object_info"), "SDXLTrainer_TextEncoderSettings")
    prompt["text"]["inputs"] |= {"train_text_encoder": "both", "clip_l_learning_rate": 0.01}
    (train,) = graphs.nodes_of(prompt, PIVOTAL)
    train |= {"text_encoder_settings": ["text", 0]}
    client.run(prompt, ui)
    with safe_open(base_directory / "models" / "loras" / "text_zorp.safetensors", "pt") as file:
        assert any(key.startswith("lora_te1") for key in file.keys())  # noqa: SIM118
    same_left, same_right, *_ = with_and_without("text_zorp.safetensors", "a red circle")
    assert same_left.tobytes() == same_right.tobytes()
    left, right, *_ = with_and_without("text_zorp.safetensors", "a zorp")
    assert left.tobytes() != right.tobytes()


def test_cores_own_loader_draws_the_same_from_lora_and_embedding(
    trained, client, graphs, pivotal, base_directory
):
    own = saved_picture(trained[0], base_directory)
    prompt, _ = pivotal("never")
    (train_id,) = [key for key, node in prompt.items() if node["class_type"] == PIVOTAL]
    wires = {name: prompt[train_id]["inputs"][name] for name in ("model", "clip")}
    strengths = {"lora_name": "my_zorp.safetensors", "strength_model": 1.0, "strength_clip": 1.0}
    prompt[train_id] = {"class_type": "LoraLoader", "inputs": {**wires, **strengths}}
    for key in [k for k, n in prompt.items() if n["class_type"] in ("PreviewAny", "PreviewImage")]:
        prompt.pop(key)
    for encode in graphs.nodes_of(prompt, "CLIPTextEncode"):
        encode["text"] = encode["text"].replace("zorp", "embedding:my_zorp_emb")
    ended = client.run(prompt)
    assert saved_picture(ended, base_directory).tobytes() == own.tobytes()


def test_queueing_again_trains_nothing(trained, client, pivotal, base_directory):
    files = [*base_directory.joinpath("models").rglob("my_zorp*.safetensors")]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert len(before) == 2
    client.run(*pivotal("my_zorp"))
    assert {path: path.stat().st_mtime_ns for path in files} == before
