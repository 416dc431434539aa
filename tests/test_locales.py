"""The texts in English and Chinese: both complete, true to one another, and safe for the frontend to show.

Old frontends compile all of these texts with vue-i18n, in which @ | { } and the backslash have a meaning; new
ones show tooltips as they are, so that an escaped sign is wrong in one of them. None of ours holds any, but
for the {placeholders} of main.json. Where a tooltip needs one, English has no text: the node's own is shown.
"""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NODES = json.loads((ROOT / "tests/nodes/frozen_nodes.json").read_text("utf-8"))
FILES = ("main", "nodeDefs")
SAID_BY_THE_NODE = {
    f"SDXLTrainer_CaptionVariants.inputs.{name}.tooltip" for name in ("keep_separator", "wildcards")
}
"""What only Chinese has here: in English these need a | or {."""
SAME_IN_BOTH = {"alpha", "beta1", "beta2", "beta3", "eps", "d_coef", "d0", "top_p", "top_k"}
SAME_IN_BOTH |= {"cfg", "clip", "vae", "lora", "dropout"}
"""Names that a Chinese user knows as they are."""
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SPECIAL = re.compile(r"[@|{}\\]")
PLACEHOLDER = re.compile(r"\{\w+\}")
NUMBER = re.compile(r"(?<![\w.])-?\d[\d.]*(?:e-?\d+)?")
CITED = re.compile(
    r"\b(?:kohya|diffusers|KSampler|LyCORIS|cog-sdxl|OneTrainer): ([\w.,]*\w)(?= |[.;,]|$)", re.IGNORECASE
)
"""The name that another trainer has for a setting."""


def flat(tree, before=""):
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{before}{key}.")
        else:
            found[before + key] = value
    return found


def read(language, name):
    return json.loads((ROOT / "locales" / language / f"{name}.json").read_text("utf-8"))


def numbers(text):
    return {number.rstrip(".") for number in NUMBER.findall(text)}


@pytest.fixture(params=FILES)
def texts(request):
    """The English and the Chinese texts of a file, by their dotted keys."""
    return flat(read("en", request.param)), flat(read("zh", request.param))


def test_no_other_file_lies_beside_these():
    found = {str(path.relative_to(ROOT / "locales")) for path in (ROOT / "locales").rglob("*.*")}
    assert found == {f"{language}/{name}.json" for language in ("en", "zh") for name in FILES}


def test_both_languages_have_the_same_texts(texts):
    english, chinese = texts
    assert english.keys() - chinese.keys() == set()
    assert chinese.keys() - english.keys() <= SAID_BY_THE_NODE


def test_no_text_is_empty(texts):
    for language in texts:
        assert [key for key, text in language.items() if not str(text).strip()] == []


def test_chinese_is_chinese_wherever_english_has_words(texts):
    english, chinese = texts
    left = {
        key: text
        for key, text in chinese.items()
        if re.search("[A-Za-z]{2}", english.get(key, text))
        and not CHINESE.search(text)
        and english.get(key, "").lower() not in SAME_IN_BOTH
    }
    assert left == {}


def test_english_is_not_chinese(texts):
    assert [key for key, text in texts[0].items() if CHINESE.search(text)] == []


def test_placeholders_are_the_same_in_both_languages(texts):
    english, chinese = texts
    for key, text in english.items():
        assert sorted(PLACEHOLDER.findall(text)) == sorted(PLACEHOLDER.findall(chinese[key])), key


def test_no_text_means_something_to_the_frontends_compiler(texts):
    for language in texts:
        for key, text in language.items():
            assert not SPECIAL.search(PLACEHOLDER.sub("", text)), key


def test_node_texts_have_no_placeholders():
    for language in ("en", "zh"):
        assert not SPECIAL.search("".join(flat(read(language, "nodeDefs")).values()))


def test_every_number_and_every_other_trainers_name_stays(texts):
    english, chinese = texts
    for key, text in english.items():
        assert numbers(text) <= numbers(chinese[key]), key
        for name in CITED.findall(text):
            assert name == "same" or name in chinese[key], key


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_node_input_and_output_has_its_texts(language):
    texts = read(language, "nodeDefs")
    assert list(texts) == list(NODES)
    for node_id, node in NODES.items():
        assert list(texts[node_id]) == ["display_name", "description", "inputs", "outputs"]
        assert list(texts[node_id]["inputs"]) == list(node["inputs"])
        assert list(texts[node_id]["outputs"]) == [str(index) for index in range(len(node["outputs"]))]
        for kind in ("inputs", "outputs"):
            for name, entry in texts[node_id][kind].items():
                said_elsewhere = language == "en" and f"{node_id}.{kind}.{name}.tooltip" in SAID_BY_THE_NODE
                assert list(entry) == ["name"] if said_elsewhere else ["name", "tooltip"]


def test_english_inputs_are_called_what_kohya_users_look_for():
    for node_id, node in read("en", "nodeDefs").items():
        assert {name: entry["name"] for name, entry in node["inputs"].items()} == {
            name: name for name in NODES[node_id]["inputs"]
        }


def test_chinese_tooltips_end_with_the_name_that_messages_and_help_pages_use():
    for node in read("zh", "nodeDefs").values():
        for name, entry in node["inputs"].items():
            assert entry["tooltip"].endswith(f"。 [{name}]")


def test_names_in_chinese_quotes_are_names_of_the_chinese_nodes():
    nodes = read("zh", "nodeDefs").values()
    names = {node["display_name"] for node in nodes} | {"加载图像"}
    names |= {entry["name"] for node in nodes for entry in node["inputs"].values()}
    quoted = set(re.findall("“([^”]*)”", "".join(flat(read("zh", "nodeDefs")).values())))
    assert len(quoted) > 20
    assert quoted <= names


def test_what_is_the_same_in_english_is_the_same_in_chinese():
    english, chinese = flat(read("en", "nodeDefs")), flat(read("zh", "nodeDefs"))
    said = {}
    for key, text in english.items():
        if key.endswith(".tooltip"):
            place = key.split(".")[2] if ".inputs." in key else "output"
            said.setdefault((place, text), set()).add(chinese[key])
    assert len(said) < len(english) / 2
    assert {key: texts for key, texts in said.items() if len(texts) > 1} == {}


def test_the_pages_ask_for_the_texts_that_there_are_and_no_others():
    sections = read("en", "main")["sdxlTrainer"]
    phases = sections.pop("phases")
    there = set(flat(sections))
    pages = [path for path in (ROOT / "web").rglob("*.js") if "vendor" not in path.parts]
    source = "".join(path.read_text("utf-8") for path in pages)
    asked = set()
    for key, is_open in re.findall(rf'["`]((?:{"|".join(sections)})\.\w*)(\$\{{)?', source):
        found = {known for known in there if known == key or (is_open and known.startswith(key))}
        assert found, key
        asked |= found
    assert there - asked == set()
    told = [*(ROOT / "trainer/encoding").glob("*.py"), ROOT / "trainer/runs/run.py"]
    python = "".join(path.read_text("utf-8") for path in told)
    assert set(phases) == set(re.findall(r'listener\.phase\(\s*"([^"]+)"', python))
