"""The page: everything in it, nothing from outside, nothing alive, whatever names and captions hold."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """What a browser sees: tags with their attributes, and the text of each."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.inside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if "style" not in self.inside:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)

    def having(self, tag, **attributes):
        return [a for t, a in self.tags if t == tag and attributes.items() <= a.items()]


@pytest.fixture
def page(made_run):
    assert made_run.write() == []
    return Page(made_run.page)


def test_the_parts_stand_in_their_order(page):
    parts = [
        "cat",
        "LoRA for base.safetensors",
        "Write into the prompt:",
        "zorp",
        "rank, alpha",
        "Previews while it learned",
        "a dog",
        "Loss",
        "The held-out loss was lowest at step 20",
        "Pictures trained on (5)",
        "picture 3",
        "Checked at the end",
        "every tensor is as it was trained",
        "Notes",
        "2 of 7 pictures are held out",
        "All settings",
        "The report as text",
        "a report of one line",
    ]
    places = [page.text.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)


def test_the_headline_tells_the_figures(page):
    for words in ("2, 2", "30", "0.50 s", "15.0 s", "cat.safetensors, 3.0 MiB", "2 kept", "fp32", "torch 2"):
        assert words in page.text


def test_all_previews_are_in_with_their_captions_and_the_proposed_column_is_marked(page):
    titles = [image["title"] for image in page.having("img") if "step" in image["title"]]
    assert titles == [f"step {step}: {prompt}" for prompt in ("a zorp", "a dog") for step in (0, 10, 20, 30)]
    heads = [a.get("class") for a in page.having("th", scope="col")]
    assert heads == [None, None, "proposed", None]
    assert "step 20, proposed" in page.text
    assert [a.get("class") for a in page.having("td")][:8] == heads * 2


def test_all_pictures_of_the_dataset_are_in_and_their_trigger_is_marked(made_run, page):
    names = [picture.name for picture in made_run.dataset.pictures]
    assert [image["alt"] for image in page.having("img") if image["alt"] in names] == names
    assert made_run.page.count("<mark>zorp</mark>") == len(names)


def test_it_loads_nothing_and_runs_nothing(made_run, page):
    assert {tag for tag, _ in page.tags}.isdisjoint(
        ("script", "link", "iframe", "object", "a", "base", "form")
    )
    sources = [image["src"] for image in page.having("img")]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not [a for _, a in page.tags for name in a if name.startswith("on") or name in ("href", "srcset")]
    assert "url(" not in made_run.page and "@import" not in made_run.page
    addresses = set(re.findall(r"https?://[^\"' ]+", made_run.page))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    (policy,) = page.having("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_it_names_no_place_on_the_machine(made_run, tmp_path):
    made_run.report = f"encoded pictures are kept in {tmp_path / 'runs'}{'/'}cat"
    made_run.notes = (f"could not write {made_run.files.lora}", f"{tmp_path / 'pictures' / '1.png'} is small")
    made_run.write()
    assert str(tmp_path) not in made_run.page
    assert "could not write loras/cat.safetensors" in made_run.page.replace("\\", "/")


def test_names_captions_prompts_and_notes_stay_text(tiny_run, made_run, tmp_path):
    folder = tmp_path / "evil"
    captions = [f"zorp {EVIL} {n}" for n in range(5)]
    tiny_run.draw_pictures(folder / "pictures", captions=captions)
    made_run.dataset = tiny_run.tiny_dataset(folder, trigger=f"zorp {EVIL}")
    pictures = [replace(picture, name=f'{EVIL}" onload="x') for picture in made_run.dataset.pictures]
    made_run.dataset = replace(made_run.dataset, pictures=tuple(pictures))
    made_run.draw((0, 30), (EVIL, "</style><b>"))
    made_run.checks, made_run.notes = (EVIL,), (EVIL, "\x00\x1b[31m\ud800")
    made_run.report, made_run.title = f"</pre>{EVIL}", EVIL
    made_run.config = replace(made_run.config, name=EVIL)
    assert made_run.write() == []
    page = Page(made_run.page)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [a for _, a in page.tags for name in a if name.startswith("on")]
    assert all(a["src"].startswith("data:") for a in page.having("img"))
    assert page.text.count(EVIL) > 10


def test_settings_are_told_in_full_and_those_that_were_changed_are_marked(made_run, page):
    rows = [a.get("class") for a in page.having("tr")]
    config = made_run.config
    assert (config.lora.rank, config.optimizer.learning_rate) == (2, 0.01)
    assert rows.count("changed") == 7
    for words in ("learning_rate", "keep_last", "min_snr_gamma", "bucket_step", "validation_share"):
        assert words in page.text


def test_a_large_run_stays_below_five_megabytes(made_run):
    noise = np.random.default_rng(0)
    small = Image.fromarray(noise.integers(0, 255, (96, 96, 3), dtype=np.uint8))
    first = made_run.files.samples / "step-000000-00.png"
    for path in made_run.files.samples.iterdir():
        path.unlink()
    small.resize((288, 288), Image.Resampling.NEAREST).save(first)
    for step in range(0, 3000, 100):
        for row in range(20):
            path = made_run.files.samples / f"step-{step:06d}-{row:02d}.png"
            if not path.exists():
                path.hardlink_to(first)
    made_run.log(noise.random(20_000).round(4).tolist(), {})
    assert made_run.write() == []
    assert 500_000 < made_run.files.report.stat().st_size < 5_000_000
    page = Page(made_run.page)
    assert "11 of the 30 steps that were drawn are shown" in page.text
    assert "4 more prompts are in the folder samples" in page.text
    assert made_run.picture.width == 1600
    assert made_run.picture.height < 8000


def test_a_large_dataset_shows_some_of_it_and_says_how_many_more(made_run):
    dataset = made_run.dataset
    copies = 2000
    made_run.dataset = replace(
        dataset, pictures=dataset.pictures * copies, variants=tuple(dataset.variants) * copies
    )
    assert made_run.write() == []
    page = Page(made_run.page)
    assert "Pictures trained on (10,000)" in page.text
    assert "and 9,940 more" in page.text
    assert len(page.having("figure")) == 60
