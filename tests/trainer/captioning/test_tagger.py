"""WD taggers: what goes in, which tags come out, and the whole of it where timm is installed."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sdxl_trainer.trainer.captioning.captioner import check_style, load_captioner
from sdxl_trainer.trainer.captioning.tagger import PictureForm, Tag, chosen_tags, tag_text, tagger_pixels
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.settings.captioner_config import GenerationConfig

HALF = (0.5, 0.5, 0.5)
FORM = PictureForm(32, HALF, HALF, Image.Resampling.BICUBIC)


def _tiny_captioners():
    place = Path(__file__).with_name("tiny_captioners.py")
    spec = importlib.util.spec_from_file_location("tiny_captioners", place)
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_captioners"] = module
    spec.loader.exec_module(module)
    return module


tiny = _tiny_captioners()


def test_a_picture_is_padded_to_a_white_square_and_goes_in_blue_first():
    pixels = tagger_pixels(Image.new("RGB", (64, 32), (255, 0, 51)), FORM)
    assert pixels.shape == (3, 32, 32)
    middle, above, below = pixels[:, 16, 16], pixels[:, 2, 16], pixels[:, 29, 16]
    assert torch.allclose(middle, torch.tensor([51 / 255 * 2 - 1, -1.0, 1.0]))
    assert torch.equal(above, torch.ones(3))
    assert torch.equal(below, torch.ones(3))


def test_tags_are_chosen_by_two_thresholds_and_ratings_never():
    tags = [
        Tag("general", 9),
        Tag("long hair", 0),
        Tag("red circle", 0),
        Tag("saber (fate)", 4),
        Tag("solo", 0),
    ]
    probabilities = torch.tensor([0.99, 0.4, 0.9, 0.8, 0.2])

    def chosen(**values):
        return chosen_tags(tags, probabilities, GenerationConfig(**values))

    assert chosen() == ["red circle", "long hair"]
    assert chosen(character_threshold=0.7) == ["saber (fate)", "red circle", "long hair"]
    assert chosen(tag_threshold=0.1) == ["red circle", "long hair", "solo"]
    assert chosen(tag_threshold=0.5) == ["red circle"]
    assert chosen(tag_threshold=1) == []


def test_underscores_become_spaces_but_in_faces():
    names = ("long_hair", "^_^", ">_<", "saber_(fate)", "||_||")
    assert [tag_text(n) for n in names] == ["long hair", "^_^", ">_<", "saber (fate)", "||_||"]


def bare_tagger(folder, table="tag_id,name,category,count\n1,long_hair,0,5\n"):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_base_patch16_224"}))
    (folder / "selected_tags.csv").write_text(table)
    save_file({"head.bias": torch.zeros(1)}, folder / "model.safetensors")
    return folder


def test_without_timm_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"mine is a tagger, .* `pip install --no-deps timm`"):
        load_captioner(bare_tagger(tmp_path / "x"), "mine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("timm", exc_type=ImportError)
    return tiny.write_tiny_tagger(tmp_path_factory.mktemp("tagger") / "wd")


def test_a_tagger_writes_the_tags_of_a_picture(folder):
    tagger = load_captioner(folder, "wd")
    assert tagger.styles == ("tags",)
    assert not tagger.module.training
    loose = GenerationConfig(tag_threshold=0.2, character_threshold=0.2)
    texts = [
        tagger.caption(Image.new("RGB", (40, 60), colour), "tags", "", loose)
        for colour in ("red", "blue", "green")
    ]
    assert len(set(texts)) > 1
    known = {tag_text(name) for name, category in tiny.TAGS if category != 9}
    assert {tag for text in texts for tag in text.split(", ")} <= known
    everything = GenerationConfig(tag_threshold=0.01, character_threshold=0.01)
    assert len(tagger.caption(Image.new("RGB", (40, 60)), "tags", "", everything)) >= len(texts[0])
    with pytest.raises(
        InputError, match="wd cannot write captions of the style 'short': a tagger writes tags"
    ):
        check_style(tagger, "short")


def test_a_tagger_works_in_half_precision(folder):
    tagger = load_captioner(folder, "wd", "bf16")
    assert {p.dtype for p in tagger.module.parameters()} == {torch.bfloat16}
    assert isinstance(tagger.caption(Image.new("RGB", (40, 60), "red"), "tags", "", GenerationConfig()), str)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("selected_tags.csv", "a,b\n1,2\n", "is no table with the columns name and category"),
        (
            "selected_tags.csv",
            "name,category\nx,0\n",
            "cannot be loaded as timm's 'vit_base_patch16_224' with 1 tags",
        ),
        ("config.json", '{"architecture": "nobody_knows"}', "'nobody_knows', which is no network of timm"),
    ],
)
def test_files_of_a_tagger_that_do_not_fit_are_refused(folder, tmp_path, file, content, said):
    copy = shutil.copytree(folder, tmp_path / "wd")
    (copy / file).write_text(content)
    with pytest.raises(InputError, match=said):
        load_captioner(copy, "wd")


def test_a_tagger_is_made_of_its_own_files_alone(folder, tmp_path, monkeypatch):
    """timm takes names of repositories and of pickled files, too."""
    asked = []

    def no_network(*place, **_):
        asked.append(place)
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", no_network)
    monkeypatch.setattr("time.sleep", lambda _: None)
    copy = shutil.copytree(folder, tmp_path / "wd")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "architecture": "hf-hub:somebody/model"}))
    with pytest.raises(InputError, match="'hf-hub:somebody/model', which is no network of timm"):
        load_captioner(copy, "wd")
    torch.save({"head.bias": torch.zeros(1)}, tmp_path / "more.txt")
    config["model_args"] |= {"checkpoint_path": str(tmp_path / "more.txt"), "pretrained": True}
    (copy / "config.json").write_text(json.dumps(config))
    question = Image.new("RGB", (40, 60), "red"), "tags", "", GenerationConfig()
    assert load_captioner(copy, "wd").caption(*question) == load_captioner(folder, "wd").caption(*question)
    assert asked == []
