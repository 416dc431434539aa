"""A WD tagger through Caption Images: timm beside ComfyUI's own torchvision."""

import shutil

import pytest

TAGGER = "tiny-tagger"


@pytest.fixture
def tagger(base_directory, tiny_captioners):
    """The tagger's folder name in models/captioners."""
    folder = base_directory / "models" / "captioners" / TAGGER
    folder.mkdir(parents=True)
    tiny_captioners.write_tiny_tagger(folder)
    yield TAGGER
    shutil.rmtree(folder)


@pytest.fixture
def bare(base_directory, example_folder):
    """input/untagged: three of the example pictures, without captions."""
    folder = base_directory / "input" / "untagged"
    folder.mkdir()
    for path in sorted(example_folder.glob("*.png"))[:3]:
        shutil.copy(path, folder)
    yield folder
    shutil.rmtree(folder)


def test_tags_become_captions_under_the_trigger(server, graphs, tagger, bare):
    client = graphs.Client(server)
    info = client.get("/object_info")
    data = graphs.node_of_defaults(info, "SDXLTrainer_LoadDataset")
    data["inputs"] |= {"folder": "input/untagged", "resolution": 128, "trigger": "zorp"}
    words = graphs.node_of_defaults(info, "SDXLTrainer_CaptionerSettings")
    words["inputs"] |= {"tag_threshold": 0.01, "character_threshold": 0.01}
    tags = graphs.node_of_defaults(info, "SDXLTrainer_CaptionImages")
    tags["inputs"] |= {"dataset": ["data", 0], "captioner_settings": ["words", 0], "captioner": tagger}
    tags["inputs"] |= {"style": "tags", "save": "txt"}
    prompt = {
        "data": data,
        "words": words,
        "tags": tags,
        "captions": {"class_type": "PreviewAny", "inputs": {"source": ["tags", 1]}},
    }
    captions = client.run(prompt)["outputs"]["captions"]["text"]
    written = {path.read_text("utf-8").strip() for path in bare.glob("*.txt")}
    assert len(captions) == 3 and written == set(captions)
    for caption in captions:
        trigger, *named = caption.split(", ")
        assert trigger == "zorp" and len(named) > 1 and not any("_" in tag for tag in named if len(tag) > 3)


def test_another_style_than_tags_is_refused_before_it_is_loaded(server, graphs, tagger, bare):
    client = graphs.Client(server)
    info = client.get("/object_info")
    data = graphs.node_of_defaults(info, "SDXLTrainer_LoadDataset")
    data["inputs"] |= {"folder": "input/untagged", "resolution": 128}
    tags = graphs.node_of_defaults(info, "SDXLTrainer_CaptionImages")
    tags["inputs"] |= {"dataset": ["data", 0], "captioner": tagger, "style": "detailed"}
    shown = {"class_type": "PreviewAny", "inputs": {"source": ["tags", 1]}}
    ended = client.wait(client.queue({"data": data, "tags": tags, "captions": shown}))
    assert "tags" in graphs.failure(ended)
    assert not list(bare.glob("*.txt"))
