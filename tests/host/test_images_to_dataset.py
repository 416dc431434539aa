"""Pictures wired from the graph, trained on in a real ComfyUI: a batch, lists, captions, masks, a restart."""

import pytest

TRAIN = "SDXLTrainer_TrainSDXLLoRA"


@pytest.fixture
def client(server, graphs):
    return graphs.Client(server)


@pytest.fixture
def graph(client, graphs):
    """A graph that trains two steps on what is wired to ImagesToDataset."""
    info = client.get("/object_info")

    def node(class_type, **values):
        if not class_type.startswith("SDXLTrainer_"):
            return {"class_type": class_type, "inputs": values}
        made = graphs.node_of_defaults(info, class_type)
        made["inputs"] = {k: v for k, v in made["inputs"].items() if v is not None} | values
        return made

    def make(name, sources, wires, **widgets):
        loaded = {"model": ["load", 0], "clip": ["load", 1], "vae": ["load", 2]}
        return {
            **{key: node(class_type, **values) for key, (class_type, values) in sources.items()},
            "load": node("StandInLoader"),
            "data": node("SDXLTrainer_ImagesToDataset", **{"resolution": 64, **wires, **widgets}),
            "report": node("PreviewAny", source=["data", 2]),
            "count": node("PreviewAny", source=["data", 3]),
            "sheet": node("PreviewImage", images=["data", 1]),
            "train": node(TRAIN, **loaded, dataset=["data", 0], name=name, steps=2, rank=2),
        }

    return make


LISTS = {"lists": ("PictureLists", {"seed": 3})}


def lora(base_directory, name):
    return (base_directory / "models" / "loras" / f"{name}.safetensors").read_bytes()


def test_a_batch_is_trained_on(client, graphs, graph, base_directory):
    empty = {"width": 96, "height": 64, "batch_size": 3, "color": 0x3366AA}
    sources = {"empty": ("EmptyImage", empty)}
    said = client.run(graph("batch", sources, {"images": ["empty", 0]}, trigger="zorp"))
    report = graphs.texts(said, "report")
    assert graphs.texts(said, "count") == "3"
    assert "Dataset 'images': 3 pictures in use." in report
    assert "3 of 3 pictures have no caption and train on the trigger word 'zorp' alone" in report
    assert "image 0001 is byte for byte the same picture as image 0002, image 0003" in report
    assert lora(base_directory, "batch")


def test_a_list_of_batches_is_as_good_as_one_batch(client, graph, graphs):
    sources = {
        "file": ("LoadImage", {"image": "zorp/zorp_01.png"}),
        "more": ("RepeatImageBatch", {"image": ["file", 0], "amount": 3}),
        "apart": ("RebatchImages", {"images": ["more", 0], "batch_size": 2}),
        "words": ("PrimitiveString", {"value": "a zorp\nin the sun"}),
        "opaque": ("InvertMask", {"mask": ["file", 1]}),
    }
    wires = {"images": ["apart", 0], "captions": ["words", 0], "mask": ["opaque", 0]}
    said = client.run(graph("apart", sources, wires))
    report = graphs.texts(said, "report")
    assert graphs.texts(said, "count") == "3"
    assert "3 pictures: from graph, such as image 0001: a zorp in the sun" in report
    assert "Masks: 3 of 3 pictures" in report and "masks let in 100% of the area" in report


def test_lists_of_pictures_captions_and_masks_of_many_sizes(client, graphs, graph, base_directory):
    wires = {"images": ["lists", 0], "captions": ["lists", 1]}
    plain = client.run(graph("plain", LISTS, wires))
    masked = client.run(graph("masked", LISTS, {**wires, "mask": ["lists", 2]}))
    report = graphs.texts(masked, "report")
    assert graphs.texts(masked, "count") == "4" and "Masks: 4 of 4 pictures" in report
    assert "masks let in 50% of the area" in report and "stretched" not in report
    assert "from graph, such as image 0001: zorp number 0" in report
    assert "Masks" not in graphs.texts(plain, "report")
    # half a mask changes what is learned
    assert lora(base_directory, "plain") != lora(base_directory, "masked")


def test_the_same_pictures_are_the_same_run_after_a_restart(
    start_server, client, graphs, graph, base_directory
):
    wires = {"images": ["lists", 0], "captions": ["lists", 1], "mask": ["lists", 2]}
    client.run(graph("again", LISTS, wires))
    written = lora(base_directory, "again")
    with start_server() as restarted:
        other = graphs.Client(restarted)
        same = graph("again", LISTS, wires)
        same["train"]["inputs"]["resume"] = "continue"  # goes on with the same run, or refuses
        other.run(same)
        assert lora(base_directory, "again") == written
        changed = graph("again", {"lists": ("PictureLists", {"seed": 4})}, wires)
        changed["train"]["inputs"]["resume"] = "continue"
        ended = other.wait(other.queue(changed))
    assert ended["status"]["status_str"] == "error" and "dataset" in graphs.failure(ended)
    # the first server still runs, and imports parts of the pack when they are needed
    assert (base_directory / "custom_nodes" / "sdxl-trainer" / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("wires", "words"),
    [
        ({"captions": ["lists", 1]}, "captions holds 4 texts, but there are 3 pictures"),
        ({"mask": ["lists", 2]}, "mask holds 4 masks, but there are 3 pictures"),
        ({"background": "blurple"}, "background is 'blurple'"),
    ],
)
def test_bad_wires_are_refused_before_training(client, graphs, graph, base_directory, wires, words):
    empty = {"width": 64, "height": 64, "batch_size": 3, "color": 0}
    sources = {**LISTS, "empty": ("EmptyImage", empty)}
    ended = client.wait(client.queue(graph("refused", sources, {"images": ["empty", 0], **wires})))
    assert ended["status"]["status_str"] == "error"
    assert words in graphs.failure(ended)
    assert not (base_directory / "output" / "sdxl_trainer" / "refused").exists()


def test_the_lists_of_cores_own_dataset_node(client, graphs, graph, base_directory):
    name = "LoadImageTextDataSetFromFolder"
    if name not in client.get("/object_info"):
        pytest.skip("this ComfyUI has no such node")
    sources = {"folder": (name, {"folder": "zorp"})}
    said = client.run(graph("core", sources, {"images": ["folder", 0], "captions": ["folder", 1]}))
    assert graphs.texts(said, "count") == "12"
    assert "12 pictures: from graph" in graphs.texts(said, "report")
