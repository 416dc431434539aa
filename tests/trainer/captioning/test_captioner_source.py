"""Where a captioner comes from: refused before it is fetched, and mended where its copy is damaged."""

import contextlib
import importlib.util
import sys
from pathlib import Path

import pytest
from PIL import Image
from sdxl_trainer.trainer.captioning.caption_run import caption_with
from sdxl_trainer.trainer.captioning.captioner import load_captioner
from sdxl_trainer.trainer.captioning.captioner_source import CaptionerSource
from sdxl_trainer.trainer.captioning.catalog import KNOWN
from sdxl_trainer.trainer.captioning.model_files import download, locate
from sdxl_trainer.trainer.captioning.style_choice import refuse_known_style
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.settings.caption_config import CaptionConfig
from sdxl_trainer.trainer.settings.captioner_config import GenerationConfig


def _beside(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


hub_tests, tiny = _beside("test_model_files"), _beside("tiny_captioners")
blip, server = hub_tests.blip, hub_tests.server
REPOSITORY = hub_tests.REPOSITORY


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "pictures").mkdir()
    for color in ("red", "blue"):
        Image.new("RGB", (64, 64), color).save(tmp_path / "pictures" / f"{color}.png")
    return load_dataset(tmp_path / "pictures", DatasetConfig(resolution=64))


class Opened:
    """Loads as the command line does, and counts how often."""

    def __init__(self):
        self.times = 0

    @contextlib.contextmanager
    def __call__(self, found, precision):
        self.times += 1
        yield load_captioner(found.folder, found.name, precision)


def source_of(folder, name=REPOSITORY, fetch=True, **more):
    heard = (lambda done, total: None) if fetch else None
    return CaptionerSource(
        name=name, folders=(folder,), places=("models/x",), open=Opened(), on_download=heard, **more
    )


def caption(dataset, source, tmp_path, style="short"):
    config, words = CaptionConfig(style=style), GenerationConfig(max_tokens=6)
    return caption_with(dataset, source, config, words, tmp_path / "journals")


@pytest.mark.parametrize(
    ("name", "style", "question", "said"),
    [
        ("wd-vit-tagger-v3", "short", "", "a tagger writes tags only; choose the style 'tags'"),
        ("blip-large", "detailed", "", "BLIP writes one short sentence"),
        ("Salesforce/blip2-opt-2.7b", "tags", "", "BLIP-2 writes a short sentence"),
        ("florence-2-base", "tags", "", "Florence-2 knows only its own tasks"),
        ("florence-2-large", "custom", "what is it?", "ask for one of <CAPTION>"),
    ],
)
@pytest.mark.parametrize("fetch", [True, False])
def test_a_style_that_a_known_model_lacks_is_refused_before_a_download(
    server, tmp_path, name, style, question, said, fetch
):
    with pytest.raises(InputError, match=said):
        source_of(tmp_path, name, fetch).find(style, question)
    assert server.asked == [] and not list(tmp_path.glob("*--*"))


def test_every_known_model_has_a_style_that_passes():
    for name, model in KNOWN.items():
        style = "tags" if model.kind == "tagger" else "short"
        refuse_known_style(name, style, "")
    refuse_known_style("joycaption", "tags", "")
    refuse_known_style("somebody/unknown", "tags", "")


def test_kinds_of_the_catalogue_are_those_of_transformers():
    modeling = importlib.import_module("transformers.models.auto.modeling_auto")
    kinds = {model.kind for model in KNOWN.values()} - {"tagger"}
    assert kinds <= set(modeling.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


@pytest.mark.parametrize(
    ("kind", "style"), [("blip", "detailed"), ("blip-2", "tags"), ("florence2", "tags"), ("tagger", "short")]
)
def test_a_style_that_a_model_lacks_is_refused_before_its_weights_are_read(dataset, tmp_path, kind, style):
    folder = tmp_path / "models" / "mine"
    tiny.WRITERS.get(kind, tiny.write_tiny_blip)(folder)
    if kind == "tagger":  # a real one needs timm, and nothing of it is loaded here
        (folder / "selected_tags.csv").write_text("name,category\n")
    source = source_of(tmp_path / "models", "mine", fetch=False)
    with pytest.raises(InputError, match=f"mine cannot write captions of the style '{style}'"):
        caption(dataset, source, tmp_path, style)
    assert source.open.times == 0


def test_a_model_with_a_chat_template_has_all_styles(tmp_path):
    for kind in ("qwen2_vl", "smolvlm", "llava"):
        tiny.WRITERS[kind](tmp_path / kind)
        for style in ("short", "detailed", "tags", "custom"):
            source_of(tmp_path, kind, fetch=False).find(style, "what?")


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


DAMAGES = {
    "model.safetensors": cut,
    "vocab.txt": Path.unlink,
    "config.json": lambda path: path.write_text("{"),
    "preprocessor_config.json": lambda path: path.write_text("{"),
    "tokenizer.json": lambda path: path.write_text("{"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_download_is_mended_by_the_files_that_differ(server, dataset, tmp_path, name):
    folder = download(REPOSITORY, tmp_path / "models", lambda *_: None)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    DAMAGES[name](folder / name)
    if name == "vocab.txt":
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
    server.asked.clear()
    done = caption(dataset, source_of(tmp_path / "models"), tmp_path)
    assert done.made == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert name in {asked for asked, _ in server.asked} and len(server.asked) <= 3


def test_without_download_a_damaged_copy_stays_as_it_is(server, dataset, tmp_path):
    folder = download(REPOSITORY, tmp_path / "models", lambda *_: None)
    cut(folder / "model.safetensors")
    server.asked.clear()
    with pytest.raises(InputError, match=r"somebody/tiny-blip: model.safetensors .*; download it again$"):
        caption(dataset, source_of(tmp_path / "models", fetch=False), tmp_path)
    assert server.asked == []


def test_a_damaged_copy_elsewhere_is_named(server, dataset, tmp_path, blip):
    place = tmp_path / "models" / "somebody" / "tiny-blip"
    place.mkdir(parents=True)
    for path in blip.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    cut(place / "model.safetensors")
    with pytest.raises(InputError, match="delete the folder somebody/tiny-blip, and it is down") as caught:
        caption(dataset, source_of(tmp_path / "models"), tmp_path)
    assert str(tmp_path) not in str(caught.value) and server.asked == []
    cached = tmp_path / "cache" / "models--somebody--tiny-blip" / "snapshots" / hub_tests.COMMIT
    cached.parent.mkdir(parents=True)
    place.rename(cached)
    (cached.parents[1] / "refs").mkdir()
    (cached.parents[1] / "refs" / "main").write_text(hub_tests.COMMIT)
    with pytest.raises(InputError, match="delete the folder models--somebody--tiny-blip in the hub's cache"):
        caption(dataset, source_of(tmp_path / "models"), tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt"])
def test_damage_that_sizes_do_not_show_names_the_folder_to_delete(server, dataset, tmp_path, name):
    folder = download(REPOSITORY, tmp_path / "models", lambda *_: None)
    for spoiled in (name, "tokenizer.json") if name == "vocab.txt" else (name,):
        (folder / spoiled).write_bytes(b"\xff" * (folder / spoiled).stat().st_size)
    with pytest.raises(InputError, match="delete the folder models/somebody--tiny-blip, and it is down"):
        caption(dataset, source_of(tmp_path / "models"), tmp_path)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert locate(REPOSITORY, [tmp_path / "models"]) is None
    assert caption(dataset, source_of(tmp_path / "models"), tmp_path).made == 2


def test_a_damaged_folder_given_by_its_path_is_never_written(server, dataset, tmp_path):
    folder = download(REPOSITORY, tmp_path / "models", lambda *_: None)
    (folder / "model.safetensors").unlink()
    server.asked.clear()
    source = source_of(tmp_path / "models", str(folder), given=folder)
    with pytest.raises(InputError, match="holds no weights"):
        caption(dataset, source, tmp_path)
    assert server.asked == []


def test_neither_found_nor_opened_where_no_caption_is_missing_or_all_are_remembered(
    server, dataset, tmp_path
):
    source = source_of(tmp_path / "models")
    assert caption(dataset, source, tmp_path).made == 2 and source.open.times == 1
    assert caption(dataset, source, tmp_path).remembered == 2 and source.open.times == 1
    (tmp_path / "pictures" / "red.txt").write_text("own")
    (tmp_path / "pictures" / "blue.txt").write_text("own")
    captioned = load_dataset(tmp_path / "pictures", DatasetConfig(resolution=64))
    assert caption(captioned, source_of(tmp_path, "no/such"), tmp_path).kept == 2
