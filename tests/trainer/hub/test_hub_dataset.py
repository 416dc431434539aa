"""Hub datasets with the real `datasets` and the hub's own client, from a server on this machine."""

import functools
import importlib.util
import io
import json
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.hub.growing_folder import disk_sentences
from sdxl_trainer.trainer.hub.hub_dataset import (
    describe_hub_dataset,
    fetch_hub_dataset,
    hub_folder,
    hub_manifest,
)
from sdxl_trainer.trainer.settings.hub_config import HubConfig

datasets = pytest.importorskip("datasets", reason="pip install datasets")
client = pytest.importorskip("huggingface_hub")
NAME = "somebody/cats"
TOKEN = "hf_aSecretThatNobodyMaySee"


def load_hub():
    spec = importlib.util.spec_from_file_location("dataset_hub", Path(__file__).with_name("dataset_hub.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The server, and clients that know no other hub and have empty caches."""
    with load_hub().running_hub() as server:
        cache = tmp_path / "hub cache"
        monkeypatch.setattr(client.constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(client.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(client.constants, "HF_HUB_CACHE", str(cache / "hub"))
        monkeypatch.setattr(client.constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.address)
        monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", str(cache))
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
        monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", str(cache / "datasets/downloads"))
        monkeypatch.setattr(
            datasets.config,
            "HUB_DATASETS_URL",
            server.address + "/datasets/{repo_id}/resolve/{revision}/{path}",
        )
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        client.HfFileSystem.clear_instance_cache()
        yield server


def picture(number, kind="PNG", size=(64, 64)):
    pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def parquet(columns, features, rows_per_group=1000):
    import pyarrow.parquet

    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features)).data.table
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, row_group_size=rows_per_group)
    return buffer.getvalue()


IMAGE_TEXT = {"image": datasets.Image(), "text": datasets.Value("string")}


def cats(numbers, text="cat {}", **values):
    cells = [{"bytes": picture(n, "JPEG" if n % 2 else "PNG"), "path": None} for n in numbers]
    return parquet({"image": cells, "text": [text.format(n) for n in numbers]}, IMAGE_TEXT, **values)


def fetch(tmp_path, on_progress=None, **values):
    return fetch_hub_dataset(
        HubConfig(**{"repository": NAME, **values}), tmp_path / "hub_datasets", on_progress
    )


def table(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text("utf-8").splitlines()]


def test_a_dataset_becomes_a_folder_with_the_files_own_bytes(hub, tmp_path):
    sha = hub.commit(NAME, {"data/train-00000-of-00001.parquet": cats(range(4))})
    seen = []
    folder = fetch(tmp_path, lambda done, total: seen.append((done, total)))
    assert folder == tmp_path / "hub_datasets" / "somebody--cats" / "default-train"
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert table(folder)[1] == {"file_name": "000001.jpg", "text": "cat 1"}
    assert (folder / "000001.jpg").read_bytes() == picture(1, "JPEG")
    assert (folder / "000002.png").read_bytes() == picture(2)
    assert hub_manifest(folder).commit == sha
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert not [p for p in folder.iterdir() if TOKEN.encode() in p.read_bytes()]


def gone(hub):
    hub.is_gone = True
    hub.shutdown()
    hub.server_close()


def test_a_finished_fetch_needs_neither_network_nor_library(hub, tmp_path, monkeypatch):
    hub.commit(NAME, {"data/train-00000-of-00001.parquet": cats(range(3))})
    folder = fetch(tmp_path)
    gone(hub)
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert fetch(tmp_path) == folder
    assert fetch(tmp_path, streaming=True) == folder
    assert fetch(tmp_path, config_name="default") == folder  # as the report calls it
    read = load_dataset(folder, DatasetConfig(resolution=64))
    assert [p.captions for p in read.pictures] == [(f"cat {n}",) for n in range(3)]
    assert [note for note in read.notes if note.kind != "info"] == []
    with pytest.raises(InputError, match='pip install "datasets>=4"'):
        fetch(tmp_path, split="test")


def test_what_the_librarys_own_cache_holds_is_used_without_network(hub, tmp_path):
    sha = hub.commit(NAME, {"data/train-00000-of-00001.parquet": cats(range(3))})
    fetch(tmp_path)
    gone(hub)
    folder = fetch(tmp_path, max_pictures=2, streaming=True)
    assert folder.name == "default-train-first-2"
    assert [row["text"] for row in table(folder)] == ["cat 0", "cat 1"]
    assert hub_manifest(folder).commit == sha
    with pytest.raises(InputError, match="cannot be reached"):
        fetch(tmp_path, revision="a-branch")
    with pytest.raises(InputError, match="cannot be reached"):
        fetch(tmp_path, repository="somebody/dogs")


class CancelledByUserError(OSError):
    """Of a type that the libraries raise, too."""


def stop_at(number):
    def report(done, total):
        if done == number:
            raise CancelledByUserError

    return report


def test_rows_whose_notes_a_power_cut_has_spoiled_are_fetched_again(hub, tmp_path):
    hub.commit(NAME, {"data/train-00000-of-00001.parquet": cats(range(4))})
    with pytest.raises(CancelledByUserError):
        fetch(tmp_path, stop_at(3))
    journal = tmp_path / "hub_datasets" / "somebody--cats" / ".default-train.part" / ".rows.jsonl"
    first, second, third = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(first + b"\0" * (len(second) - 1) + b"\n" + third)
    assert [row["text"] for row in table(fetch(tmp_path))] == [f"cat {n}" for n in range(4)]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_cancelled_fetch_goes_on_where_it_stopped_with_the_same_commit(hub, tmp_path, streaming):
    first = hub.commit(NAME, {"data/train-00000-of-00001.parquet": cats(range(5))})
    with pytest.raises(CancelledByUserError):
        fetch(tmp_path, stop_at(2), streaming=streaming)
    place = tmp_path / "hub_datasets" / "somebody--cats"
    assert [p.name for p in place.iterdir()] == [".default-train.part"]
    with (place / ".default-train.part" / ".rows.jsonl").open("ab") as journal:
        journal.write(b'{"file_name": "0000')
    before = (place / ".default-train.part" / "000000.png").stat().st_mtime_ns

    hub.commit(NAME, {"data/train-00000-of-00001.parquet": cats(range(5), "dog {}")})
    with pytest.raises(CancelledByUserError):
        fetch(tmp_path, stop_at(3), streaming=streaming)
    seen = []
    folder = fetch(tmp_path, lambda done, total: seen.append(done), streaming=streaming)
    assert seen == [4, 5]
    assert [row["text"] for row in table(folder)] == [f"cat {n}" for n in range(5)]
    assert hub_manifest(folder).commit == first
    assert (folder / "000000.png").stat().st_mtime_ns == before
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".")) == [".hub_dataset.json"]
    assert [p.name for p in place.iterdir()] == ["default-train"]


def test_streaming_pulls_only_what_is_wanted(hub, tmp_path):
    hub.commit("somebody/files", {f"train/{n:02d}.jpg": picture(n, "JPEG") for n in range(40)})
    folder = fetch(tmp_path, repository="somebody/files", streaming=True, max_pictures=3)
    assert (folder / "000001.jpg").read_bytes() == picture(1, "JPEG")
    assert len(hub.asked_for(".jpg")) == 3

    shards = {f"data/train-0000{n}-of-00004.parquet": cats(range(40 * n, 40 * n + 40)) for n in range(4)}
    hub.commit(NAME, shards)
    sent = hub.sent
    folder = fetch(tmp_path, streaming=True, max_pictures=3)
    assert [row["text"] for row in table(folder)] == ["cat 0", "cat 1", "cat 2"]
    assert hub.sent - sent < 2 * len(shards["data/train-00000-of-00004.parquet"])
    assert not hub.asked_for("train-00003-of-00004")


def test_downloads_report_megabytes_and_end_when_told(hub, tmp_path, monkeypatch):
    noise = [{"bytes": picture(n, size=(700, 700)), "path": None} for n in range(2)]
    data = parquet({"image": noise}, {"image": datasets.Image()})
    hub.commit(NAME, {"data/train-00000-of-00001.parquet": data})
    into, config = tmp_path / "hub_datasets", HubConfig(repository=NAME)
    monkeypatch.setattr(client.constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.pause = 0.03
    with pytest.raises(CancelledByUserError):
        fetch_hub_dataset(config, into, on_download=stop_at(0))
    assert hub.sent < len(data)
    assert not into.exists()
    hub.pause = 0
    seen = []
    fetch_hub_dataset(config, into, on_download=lambda *place: seen.append(place))
    assert seen[-1] == (2, 3)


def test_files_for_which_there_is_no_room_are_refused_before_any_is_downloaded(hub, tmp_path, monkeypatch):
    hub.commit(NAME, {"data/train-00000-of-00001.parquet": cats(range(3))})
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: full)
    with pytest.raises(InputError, match=r"^the files of somebody/cats take 0\.0 GB, but 0\.0 GB are free"):
        fetch(tmp_path)
    assert not hub.asked_for("GET /datasets/somebody/cats/resolve")


def test_picture_files_of_a_repository_keep_their_bytes_in_both_ways(hub, tmp_path):
    rows = [{"file_name": f"{n}.jpg", "prompt": f"a red cat {n}"} for n in range(3)]
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    files = {f"train/{n}.jpg": picture(n, "JPEG") for n in range(3)} | {"train/metadata.jsonl": lines}
    hub.commit(NAME, files)
    whole = fetch(tmp_path)
    streamed = fetch(tmp_path, streaming=True, max_pictures=2)
    for folder, count in ((whole, 3), (streamed, 2)):
        captions = [{"file_name": f"00000{n}.jpg", "text": f"a red cat {n}"} for n in range(count)]
        assert table(folder) == captions
        assert (folder / "000001.jpg").read_bytes() == picture(1, "JPEG")
        assert hub_manifest(folder).caption_column == "prompt"


@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_in_archives(hub, tmp_path, streaming):
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for n in range(3):
            archive.writestr(f"{n}.jpg", picture(n, "JPEG"))
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        for n in range(3):
            for name, data in ((f"{n}.jpg", picture(n, "JPEG")), (f"{n}.txt", f"cat {n}".encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    hub.commit("somebody/zip", {"data/train.zip": zipped.getvalue()})
    hub.commit("somebody/tar", {"train-000.tar": tarred.getvalue()})
    for name, texts in (("somebody/zip", ["", ""]), ("somebody/tar", ["cat 0", "cat 1"])):
        folder = fetch(tmp_path, repository=name, streaming=streaming, max_pictures=2)
        assert [row["text"] for row in table(folder)] == texts
        assert (folder / "000001.jpg").read_bytes() == picture(1, "JPEG")


def test_arrays_lists_of_captions_and_classes(hub, tmp_path):
    features = {
        "pixels": datasets.Array3D((20, 24, 3), "uint8"),
        "texts": datasets.List(datasets.Value("string")),
        "label": datasets.ClassLabel(names=["tabby", "black"]),
    }
    pixels = np.random.default_rng(1).integers(0, 255, (2, 20, 24, 3), dtype=np.uint8)
    columns = {"pixels": list(pixels), "texts": [["a", "b"], ["c", "d"]], "label": [1, 0]}
    hub.commit(NAME, {"data/train-00000-of-00001.parquet": parquet(columns, features)})
    several = fetch(tmp_path)
    assert table(several)[0] == {"file_name": "000000.png", "text": ["a", "b"]}
    assert (np.asarray(Image.open(several / "000001.png")) == pixels[1]).all()
    classes = fetch(tmp_path, caption_column="label")
    assert [row["text"] for row in table(classes)] == ["black", "tabby"]
    assert classes.name == "default-train-caption-label"


def test_rows_without_a_usable_picture_are_passed_over_and_noted(hub, tmp_path, monkeypatch):
    secret = tmp_path / "private.png"
    secret.write_bytes(picture(7))
    monkeypatch.chdir(tmp_path)
    cells = [
        {"bytes": picture(0), "path": None},
        None,
        {"bytes": picture(1)[:500], "path": None},
        {"bytes": None, "path": str(secret)},
        {"bytes": None, "path": f"{tmp_path}/hub cache/../private.png"},
        {"bytes": None, "path": "hf://datasets/somebody/else@main/a.png"},
        {"bytes": None, "path": f"hf://datasets/{NAME}@main/gone.png"},
        {"bytes": None, "path": f"file://{secret}"},
        {"bytes": None, "path": "file://private.png::hf://datasets/somebody/cats@main/x.zip"},
        {"bytes": picture(3, "PPM"), "path": "x.ppm"},
    ]
    hub.commit(
        NAME, {"data/train-00000-of-00001.parquet": parquet({"image": cells}, {"image": datasets.Image()})}
    )
    folder = fetch(tmp_path, streaming=True)
    assert [row["file_name"] for row in table(folder)] == ["000000.png", "000009.png"]
    manifest = hub_manifest(folder)
    assert (manifest.num_pictures, manifest.num_skipped) == (2, 8)
    report = describe_hub_dataset(manifest, "input/x")
    assert report.startswith(
        "2 pictures from somebody/cats on the Hugging Face hub (configuration default, split"
    )
    assert "row 1 holds no picture" in report
    assert "row 3 names the file 'private.png', which is not in the dataset" in report
    assert "the dataset has no captions" in report
    assert str(tmp_path) not in report
    assert len(load_dataset(folder, DatasetConfig(resolution=64)).pictures) == 2


def test_a_fault_in_the_middle_is_one_sentence_and_the_next_call_goes_on(hub, tmp_path):
    hub.commit(NAME, {f"train/{n}.png": picture(n) for n in range(4)})

    def close(done, total):
        if done == 2:
            hub.closed[NAME] = "RepoNotFound"

    with pytest.raises(
        InputError, match="somebody/cats could not be read: the hub has no such repository, or it is private"
    ):
        fetch(tmp_path, close, streaming=True)
    hub.closed.clear()
    seen = []
    folder = fetch(tmp_path, lambda done, total: seen.append(done), streaming=True)
    assert seen == [3, 4]
    assert len(table(folder)) == 4


BAD = [
    (
        {"repository": "somebody/dogs"},
        "the dataset somebody/dogs could not be read: the hub has no such repository, or it is private",
    ),
    (
        {"repository": "somebody/gated"},
        "somebody/gated could not be read: it is gated, .* on its page http://127.*/datasets/somebody/gated,",
    ),
    (
        {"repository": "somebody/code"},
        "is a program that makes the dataset, and programs of the hub are never run",
    ),
    ({"repository": "somebody/empty"}, "somebody/empty holds no data files"),
    (
        {"repository": "somebody/texts"},
        r"has no column of pictures; its columns are 'words' \(text\), 'n' \(number\)",
    ),
    (
        {"repository": "somebody/two"},
        "several columns of pictures: name one of 'left', 'right' in image_column",
    ),
    ({"repository": "somebody/parts"}, "several configurations: put one of big, small into config_name"),
    (
        {"repository": "somebody/parts", "config_name": "huge"},
        "no configuration 'huge': put one of big, small",
    ),
    ({"repository": "somebody/damaged"}, "somebody/damaged could not be read"),
    ({"repository": "somebody/blank"}, "has no usable picture: row 0 holds no picture"),
    ({"split": "tests"}, "has no split 'tests', only train, validation"),
    ({"image_column": "pic"}, "has no column 'pic' for image_column; its columns are 'image'"),
    ({"image_column": "text"}, "image_column is 'text', which holds text, no pictures"),
    ({"caption_column": "words"}, "caption_column is 'words', which is not there: .* may come from 'text'"),
    ({"caption_column": "image"}, "caption_column is 'image', which is not there"),
    ({"revision": "v9"}, "at revision 'v9' could not be read: the hub has no such revision"),
]


@functools.cache
def odd_contents():
    picture_only = {"left": datasets.Image(), "right": datasets.Image()}
    cell = {"bytes": picture(1), "path": None}
    front = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in ("big", "small")
    )
    none = parquet({"image": [None]}, {"image": datasets.Image()})
    words = parquet(
        {"words": ["a"], "n": [1]}, {"words": datasets.Value("string"), "n": datasets.Value("int32")}
    )
    return {
        NAME: {"data/train-0.parquet": cats([0]), "data/validation-0.parquet": cats([1])},
        "somebody/gated": {"data/train-0.parquet": cats([0])},
        "somebody/code": {"code.py": b"raise SystemExit", "a.txt": b"x"},
        "somebody/empty": {"README.md": b"# nothing"},
        "somebody/texts": {"data/train-0.parquet": words},
        "somebody/two": {"data/train-0.parquet": parquet({"left": [cell], "right": [cell]}, picture_only)},
        "somebody/parts": {
            "README.md": f"{front}---\n".encode(), "big.parquet": cats([0]), "small.parquet": cats([1])
        },
        "somebody/damaged": {"data/train-0.parquet": cats([0])[:-30]},
        "somebody/blank": {"data/train-0.parquet": none},
    }  # fmt: skip


@pytest.fixture
def odd_datasets(hub):
    for name, files in odd_contents().items():
        hub.commit(name, files)
    hub.closed["somebody/gated"] = "GatedRepo"


@pytest.mark.parametrize(("values", "sentence"), BAD)
def test_bad_input_is_one_sentence(odd_datasets, tmp_path, values, sentence):
    streaming = "repository" in values
    with pytest.raises(InputError, match=sentence) as caught:
        fetch(tmp_path, streaming=streaming, **values)
    said = str(caught.value)
    assert "\n" not in said
    assert TOKEN not in said
    assert str(tmp_path) not in said
    folder = hub_folder(HubConfig(**{"repository": NAME, **values}), tmp_path / "hub_datasets")
    assert not folder.exists()


def test_a_folder_of_the_same_name_where_the_program_started_is_not_taken_for_the_dataset(
    hub, tmp_path, monkeypatch
):
    hub.commit(NAME, {"data/train-00000-of-00001.parquet": cats(range(2))})
    (tmp_path / NAME).mkdir(parents=True)
    (tmp_path / NAME / "7.png").write_bytes(picture(7))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="there is a folder 'somebody/cats' where this program was started"):
        fetch(tmp_path)


def test_a_library_that_could_run_programs_is_refused(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(
        InputError, match=r'is 3\.6\.0, which may run programs .* `pip install "datasets>=4"`'
    ):
        fetch(tmp_path)
    assert hub.asked == []


def test_folders_that_are_no_finished_fetch_of_this_dataset_are_left_alone(hub, tmp_path):
    hub.commit(NAME, {"data/train-00000-of-00001.parquet": cats(range(2))})
    place = hub_folder(HubConfig(repository=NAME), tmp_path / "hub_datasets")
    place.mkdir(parents=True)
    with pytest.raises(InputError, match="is there already and is not this dataset"):
        fetch(tmp_path)
    place.rmdir()
    manifest = fetch(tmp_path) / ".hub_dataset.json"
    manifest.write_text(manifest.read_text("utf-8").replace(NAME, "somebody/dogs"), "utf-8")
    with pytest.raises(InputError, match="is there already and is not this dataset"):
        fetch(tmp_path)
    manifest.write_text("{", "utf-8")
    with pytest.raises(InputError, match="is damaged: delete the folder"):
        fetch(tmp_path)


def test_what_the_disk_refuses_is_a_sentence(hub, tmp_path):
    hub.commit(NAME, {"data/train-00000-of-00001.parquet": cats(range(2))})
    (tmp_path / "hub_datasets").write_bytes(b"a file")
    with pytest.raises(InputError, match=r"cannot be written \(Not a directory\): make it writable"):
        fetch(tmp_path)
    full = Path("/dev/full")
    if full.exists():
        with pytest.raises(InputError, match="the disk is full: free some room"), disk_sentences():
            full.write_bytes(b"x")


def test_each_choice_has_a_folder_of_its_own_that_means_nothing_else(tmp_path):
    choices = [
        {},
        {"config_name": "10_cat"},
        {"config_name": ".hidden"},
        {"config_name": "a b"},
        {"config_name": "a_b"},
        {"split": "test"},
        {"max_pictures": 20},
        {"image_column": "pic/../../x"},
        {"caption_column": "text"},
        {"revision": "refs/pr/1"},
        {"repository": "somebody/10_cats"},
    ]
    folders = [hub_folder(HubConfig(**{"repository": NAME, **choice}), tmp_path) for choice in choices]
    assert len({str(folder).lower() for folder in folders}) == len(choices)
    assert all(folder.parent.parent == tmp_path for folder in folders)
    assert not [f for f in folders if f.name.startswith((".", "10_"))]


def test_a_run_trains_on_a_fetched_dataset(hub, tmp_path, tiny_run):
    hub.commit(NAME, {"data/train-00000-of-00001.parquet": cats(range(4))})
    folder = fetch(tmp_path, streaming=True, max_pictures=3)
    dataset = load_dataset(folder, DatasetConfig(resolution=64, bucket_step=32, trigger="zyx"))
    model, listener = tiny_run.TinyModel(), tiny_run.StopAfter()
    result = tiny_run.train(tiny_run.tiny_job(tmp_path, dataset, steps=3), model, listener)
    assert result.trained_steps == 3
    assert all(np.isfinite(listener.losses))
    assert {f"zyx, cat {n}" for n in range(3)} <= set(model.encoded_captions)
