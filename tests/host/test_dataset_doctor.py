"""The Dataset Doctor in a real ComfyUI: a folder with planted faults, and the good example folder."""

import shutil

import pytest
from PIL import Image, ImageFilter


@pytest.fixture
def client(server, graphs):
    return graphs.Client(server)


@pytest.fixture
def graph(client, graphs):
    """A graph that loads a folder and has it looked at; every widget at its default but those given."""
    info = client.get("/object_info")

    def make(folder, **values):
        load = graphs.node_of_defaults(info, "SDXLTrainer_LoadDataset")
        load["inputs"] |= {"folder": folder, "resolution": 128, "trigger": "zorp"}
        look = graphs.node_of_defaults(info, "SDXLTrainer_DatasetDoctor")
        look["inputs"] |= {"dataset": ["data", 0], **values}
        again = graphs.node_of_defaults(info, "SDXLTrainer_DatasetDoctor")
        again["inputs"] |= {"dataset": ["look", 0]}
        return {
            "data": load,
            "look": look,
            "again": again,
            "report": {"class_type": "PreviewAny", "inputs": {"source": ["look", 2]}},
            "problems": {"class_type": "PreviewAny", "inputs": {"source": ["again", 3]}},
            "sheet": {"class_type": "PreviewImage", "inputs": {"images": ["look", 1]}},
        }

    return make


@pytest.fixture
def faulty(base_directory, example_folder):
    """input/faulty: the example pictures, with a copy, a blurred one, one without a caption, a broken one."""
    folder = base_directory / "input" / "faulty"
    shutil.copytree(example_folder, folder)
    Image.open(folder / "zorp_01.png").convert("RGB").save(folder / "zorp_99.jpg", quality=80)
    (folder / "zorp_99.txt").write_text("a zorp once more")
    picture = Image.open(folder / "zorp_02.png").convert("RGB")
    picture.filter(ImageFilter.GaussianBlur(3)).save(folder / "zorp_02.png")
    (folder / "zorp_03.txt").unlink()
    (folder / "zorp_04.png").write_bytes((folder / "zorp_04.png").read_bytes()[:300])
    yield "input/faulty"
    shutil.rmtree(folder)


def test_planted_faults_are_told_counted_and_on_the_sheet(client, graphs, graph, faulty, base_directory):
    ended = client.run(graph(faulty))
    report = graphs.texts(ended, "report")
    for sentence in (
        "zorp_99.jpg (near-duplicate of zorp_01.png)",
        "1 picture looks blurred, shaken or enlarged from something small: zorp_02.png",
        "1 picture has no caption and trains on the trigger word alone, unlike the others: zorp_03.png",
        "zorp_04.png is damaged or cut off",
    ):
        assert sentence in report
    assert graphs.texts(ended, "problems") == "4"
    assert str(base_directory) not in report
    assert ended["outputs"]["sheet"]["images"]


def test_the_example_dataset_has_nothing_to_mend(client, graphs, graph):
    ended = client.run(graph("input/zorp", subject="object", batch_size=4, max_pictures=3))
    assert "There is nothing to mend." in graphs.texts(ended, "report")
    assert graphs.texts(ended, "problems") == "0"
