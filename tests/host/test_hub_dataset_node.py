"""Load Hub Dataset in a ComfyUI without the `datasets` library: what is fetched loads, else a sentence."""

import json
import shutil

import pytest


@pytest.fixture
def input_folder(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    return tmp_path / "input"


@pytest.fixture
def fetched(example_folder):
    """A function that makes a folder as a fetch leaves it, from the example pictures."""
    return lambda input_folder, **asked: make_fetched(example_folder, input_folder, **asked)


def make_fetched(example_folder, input_folder, **asked):
    from sdxl_trainer.trainer.hub.hub_dataset import MANIFEST, hub_folder
    from sdxl_trainer.trainer.settings.hub_config import HubConfig

    config = HubConfig(**asked)
    folder = hub_folder(config, input_folder / "hub_datasets")
    folder.mkdir(parents=True)
    rows = []
    for number, picture in enumerate(sorted(example_folder.glob("*.png"))):
        shutil.copy(picture, folder / f"{number:06d}.png")
        rows.append(json.dumps({"file_name": f"{number:06d}.png", "text": f"zorp {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows), "utf-8")
    settings = {name: getattr(config, name) for name in config.__slots__ if name != "streaming"}
    known = {
        "commit": "c0ffee" * 6,
        "config_name": "default",
        "image_column": "image",
        "caption_column": "text",
    }
    counts = {
        "num_pictures": len(rows),
        "num_skipped": 1,
        "skipped": ["row 3 holds no picture"],
        "finished": True,
    }
    manifest = {
        "asked": settings,
        "repository": config.repository,
        "split": "train",
        "note": "",
        **known,
        **counts,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    return folder


@pytest.fixture
def node():
    from sdxl_trainer.nodes.hub_dataset import LoadHubDataset

    return LoadHubDataset


@pytest.fixture
def values(node):
    """All widgets at their defaults, as a queue gives them."""
    groups = node.INPUT_TYPES()
    listed = {**groups.get("required", {}), **groups.get("optional", {})}
    return {
        name: kind[0]
        if isinstance(kind, list)
        else options.get("default", (options.get("options") or [""])[0])
        for name, (kind, options) in listed.items()
    } | {"repository": "somebody/zorps", "resolution": 128}


def test_a_fetched_dataset_is_read_without_the_library_and_stands_in_load_datasets_menu(
    node, values, fetched, input_folder, monkeypatch
):
    import sys

    from sdxl_trainer.nodes.comfy_bridge.folders import dataset_choices

    monkeypatch.setitem(sys.modules, "datasets", None)
    folder = fetched(input_folder, repository="somebody/zorps")
    dataset, sheet, report, count = node.execute(**values).args
    assert count == len(dataset.pictures) == 12
    assert dataset.pictures[3].captions == ("zorp 3",)
    assert sheet.ndim == 4
    place = "input/hub_datasets/somebody--zorps/default-train"
    assert report.startswith("12 pictures from somebody/zorps on the Hugging Face hub")
    assert f"They lie in {place} " in report
    assert "1 row was left out: row 3 holds no picture" in report
    assert str(input_folder) not in report
    assert place in dataset_choices()

    before = node.fingerprint_inputs(**values)
    assert node.fingerprint_inputs(**values) == before
    (folder / "000000.png").unlink()
    assert node.fingerprint_inputs(**values) != before


def test_without_the_library_the_sentence_says_what_to_install(node, values, input_folder, monkeypatch):
    import sys

    from sdxl_trainer.trainer.errors import InputError

    monkeypatch.setitem(sys.modules, "datasets", None)
    assert node.fingerprint_inputs(**values) == "not fetched"
    with pytest.raises(InputError, match=r'need the package `datasets` .* `pip install "datasets>=4"`'):
        node.execute(**values)
    assert not input_folder.exists()


def test_a_foreign_folder_is_left_alone_and_named_by_its_place_in_comfyui(node, values, input_folder):
    from sdxl_trainer.trainer.errors import InputError

    folder = input_folder / "hub_datasets" / "somebody--zorps" / "default-train"
    folder.mkdir(parents=True)
    with pytest.raises(
        InputError, match=r"'input/hub_datasets/somebody--zorps/default-train' is there already"
    ):
        node.execute(**values)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../zorps", "somebody/..", "a/b/c", "/etc/zorps", "zorps", "", "a b/c", "C:\\x/y"]
)
def test_names_that_lead_elsewhere_are_refused(node, values, input_folder, name):
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match=r"repository is .* owner/name"):
        node.execute(**{**values, "repository": name})


@pytest.mark.parametrize("has_library", [False, True])
def test_a_queued_graph_shows_the_report_or_the_sentence(server, graphs, example_folder, has_library):
    """In a server without `datasets`: what is not fetched fails with the sentence, what is fetched runs."""
    client = graphs.Client(server)
    prompt = {
        "1": graphs.node_of_defaults(client.get("/object_info"), "SDXLTrainer_LoadHubDataset"),
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 2]}},
    }
    prompt["1"]["inputs"] |= {"repository": "somebody/zorps", "resolution": 128}
    folder = server.base_directory / "input" / "hub_datasets"
    if has_library:
        make_fetched(example_folder, server.base_directory / "input", repository="somebody/zorps")
        try:
            assert graphs.texts(client.run(prompt), "2").startswith("12 pictures from somebody/zorps")
        finally:
            shutil.rmtree(folder)
    else:
        ended = client.wait(client.queue(prompt))
        assert 'pip install "datasets>=4"' in graphs.failure(ended).replace("\\", "")
        assert not folder.exists()
