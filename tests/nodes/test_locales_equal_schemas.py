"""The English texts against what the nodes say of themselves: a frontend shows those in place of these."""

import asyncio
import json
import re

import pytest

SPECIAL = re.compile(r"[@|{}\\]")
"""Signs that vue-i18n would read as its own: such a tooltip is left to the node."""


@pytest.fixture(scope="module")
def english(pack_folder):
    return json.loads((pack_folder / "locales/en/nodeDefs.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def nodes():
    import sdxl_trainer

    extension = asyncio.run(sdxl_trainer.comfy_entrypoint())
    return {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}


def inputs_of(node):
    """Texts of the inputs as the frontend gets them."""
    groups = node.INPUT_TYPES()
    widgets = {**groups.get("required", {}), **groups.get("optional", {})}
    return {name: text(name, options[0]["tooltip"]) for name, (_, *options) in widgets.items()}


def text(name, tooltip):
    return {"name": name} if SPECIAL.search(tooltip) else {"name": name, "tooltip": tooltip}


def test_english_is_what_the_nodes_say_of_themselves(english, nodes):
    said = {}
    for node_id, node in nodes.items():
        schema = node.define_schema()
        said[node_id] = {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": inputs_of(node),
            "outputs": {
                str(index): text(output.display_name or output.id, output.tooltip)
                for index, output in enumerate(schema.outputs)
            },
        }
    assert said == english


def test_the_category_is_translated(pack_folder, nodes):
    (category,) = {node.define_schema().category for node in nodes.values()}
    for language in ("en", "zh"):
        main = json.loads((pack_folder / f"locales/{language}/main.json").read_text("utf-8"))
        assert list(main["nodeCategories"]) == [category]
