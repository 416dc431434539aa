import dataclasses
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.setting_texts import TYPEABLE, all_settings, parse_settings


def other_value(kind, field):
    """A value of a field that is not its default."""
    hint = get_type_hints(kind)[field.name]
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice != field.default)
    if hint is bool:
        return not field.default
    return {"str": "a = b, c", "int": 64, "float": 0.25}[hint.__name__]


@pytest.mark.parametrize("place", all_settings())
def test_every_setting_can_be_typed(place):
    section, name = place.split(".")
    (field,) = [field for field in dataclasses.fields(TYPEABLE[section]) if field.name == name]
    value = other_value(TYPEABLE[section], field)
    typed = {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    parsed = parse_settings([f"{place}={typed}"])
    assert parsed == {section: {name: value}}
    assert type(parsed[section][name]) is type(field.default)


def test_there_are_all_sections_and_the_dataset():
    assert {place.split(".")[0] for place in all_settings()} == set(TYPEABLE)
    assert len(all_settings()) == len(set(all_settings())) > 80


def test_the_last_of_two_counts_and_spaces_do_not():
    assert parse_settings(["run.save_every = 5", "run.save_every=6", "run.keep_last=1"]) == {
        "run": {"save_every": 6, "keep_last": 1}
    }
    assert parse_settings([]) == {}


@pytest.mark.parametrize("text", ["on", "TRUE", "yes", "1"])
def test_switches_are_words(text):
    assert parse_settings([f"objective.edm_training={text}"])["objective"]["edm_training"] is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("noise.noise_ofset=0.1", "did you mean noise.noise_offset"),
        ("noise.colour=0.1", "noise.pyramid_iterations"),
        ("colour=0.1", "there are lora.rank"),
        ("lora.rank", "write it as section.field=value"),
        ("lora.rank=eight", "lora.rank is 'eight', but must be a whole number"),
        ("lora.alpha=", "lora.alpha is '', but must be a number"),
        ("objective.edm_training=perhaps", "must be on or off"),
    ],
)
def test_what_cannot_be_set_is_refused_in_words(text, said):
    with pytest.raises(InputError, match=said):
        parse_settings([text])


def test_all_problems_come_at_once():
    with pytest.raises(InputError) as refused:
        parse_settings(["lora.rank=x", "lora.alpha=1", "run.x=1"])
    assert len(str(refused.value).splitlines()) == 2
