"""The captioning nodes as users see them: widgets that equal the settings, and the models to choose from."""

import dataclasses

import pytest


@pytest.fixture
def nodes():
    from sdxl_trainer.nodes.caption_images import CaptionImages
    from sdxl_trainer.nodes.captioner_settings import CaptionerSettings

    return CaptionImages, CaptionerSettings


def inputs_of(node):
    groups = node.INPUT_TYPES()
    return {name: made for group in ("required", "optional") for name, made in groups.get(group, {}).items()}


def test_widgets_equal_the_settings(nodes):
    from sdxl_trainer.trainer.settings.caption_config import CaptionConfig
    from sdxl_trainer.trainer.settings.captioner_config import GenerationConfig

    for node, kind, others in (
        (nodes[0], CaptionConfig, {"dataset", "captioner", "other_model", "download", "captioner_settings"}),
        (nodes[1], GenerationConfig, set()),
    ):
        fields = {field.name: field.default for field in dataclasses.fields(kind)}
        made = {name: options[1] for name, options in inputs_of(node).items() if name not in others}
        assert {name: options["default"] for name, options in made.items()} == fields
        assert others <= inputs_of(node).keys()
    assert nodes[1].execute().result == (GenerationConfig(),)
    assert nodes[1].INPUT_TYPES().get("required", {}) == {}


def test_the_settings_accept_all_that_a_widget_can_be_set_to_and_no_more(nodes):
    from sdxl_trainer.trainer.errors import InputError
    from sdxl_trainer.trainer.settings.captioner_config import GenerationConfig

    for name, (_, options) in inputs_of(nodes[1]).items():
        for end, step in (("min", -1), ("max", 1)):
            if end not in options:
                continue
            # the longest caption makes room for every shortest one
            room = {"max_tokens": 2048} if name == "min_tokens" else {}
            GenerationConfig(**{**room, name: options[end]})
            with pytest.raises(InputError, match=name):
                GenerationConfig(**{**room, name: options[end] + step * max(1, abs(options[end]))})


def test_known_captioners_come_first_and_nothing_is_fetched_as_it_comes(nodes):
    from sdxl_trainer.trainer.captioning.catalog import KNOWN

    made = inputs_of(nodes[0])
    kind, options = made["captioner"]
    choices = kind if isinstance(kind, list) else options["options"]
    assert choices[: len(KNOWN)] == list(KNOWN) and options["default"] == next(iter(KNOWN))
    assert made["download"][1]["default"] is False
    assert made["save"][1]["default"] == "no" and made["if_exists"][1]["default"] == "skip"
    captions = next(o for o in nodes[0].define_schema().outputs if o.id == "captions")
    assert captions.is_output_list
