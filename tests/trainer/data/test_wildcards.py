"""Choices in braces: kohya's where none is inside another, and sense where one is."""

import random
import re
from collections import Counter

import pytest
from sdxl_trainer.trainer.data.wildcards import MAX_DEPTH, has_choices, has_lone_brace, pick_choices


def all_texts(text):
    """Every text that draws can give, with how often of 600."""
    chance = random.Random(0)
    return Counter(pick_choices(text, lambda number: chance.choice(range(number))) for _ in range(600))


def kohya(text, chance):
    """enable_wildcard of sd-scripts, library/train_util.py, process_caption."""
    text = text.replace("{{", "\0").replace("}}", "\1")
    text = re.sub(r"\{([^}]+)\}", lambda match: chance.choice(match.group(1).split("|")), text)
    return text.replace("\0", "{").replace("\1", "}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a dog",
        "a {red|blue} dog, {big|small|tiny}",
        "{{a}} {b|c}",
        "{{a|b}}",
        "{only}",
        "{a|}x",
        "a|b",
        "a}{b",
    ],
)
def test_without_nesting_draws_are_kohyas(text):
    for seed in range(20):
        ours, theirs = random.Random(seed), random.Random(seed)
        assert pick_choices(text, lambda n, chance=ours: chance.choice(range(n))) == kohya(text, theirs)
        assert ours.random() == theirs.random()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{a|{b|c}}", {"a": 300, "b": 150, "c": 150}),
        ("{{a|b}|c}", {"a": 150, "b": 150, "c": 300}),
        ("{a|}", {"a": 300, "": 300}),
        ("{|}x", {"x": 600}),
        ("{}", {"": 600}),
        ("{{{a|b}}}", {"{a}": 300, "{b}": 300}),
        ("{x {a|b}|y, z}", {"x a": 150, "x b": 150, "y, z": 300}),
        ("{a|b", {"{a|b": 600}),
        ("a|b}", {"a|b}": 600}),
        ("{a|{b|c}", {"{a|b": 300, "{a|c": 300}),
    ],
)
def test_choices_may_be_nested_empty_or_broken(text, expected):
    found = all_texts(text)
    assert found.keys() == expected.keys()
    assert all(abs(found[one] - number) <= 50 for one, number in expected.items())
    assert has_choices(text) == ("|" in text and (len(expected) > 1 or text == "{|}x"))
    assert has_lone_brace(text) == (text in ("{a|b", "a|b}", "{a|{b|c}"))


def test_thousands_of_braces_are_read_without_an_error():
    deep = 5000
    assert pick_choices("{" * deep, lambda _: 0) == "{" * deep
    text = pick_choices("{" * deep + "a|b" + "}" * deep, lambda _: 0)
    assert "a|b" in text and len(text) <= 2 * deep + 3
    assert has_lone_brace("{" * (MAX_DEPTH + 1) + "}" * (MAX_DEPTH + 1))
