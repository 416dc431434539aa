"""The nodes as users see them: names that may never change, tooltips, and widgets that equal the settings."""

import asyncio
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

FROZEN = Path(__file__).with_name("frozen_nodes.json")
SETTINGS = {
    f"SDXLTrainer_{name}Settings": f"{name}Config"
    for name in (
        "LoRA",
        "Optimizer",
        "Schedule",
        "Prodigy",
        "Objective",
        "Noise",
        "Prior",
        "Preview",
        "Validation",
        "Run",
        "Logging",
        "TextEncoder",
        "Pivotal",
    )
}
SOCKETS = ("MODEL", "CLIP", "VAE", "IMAGE", "MASK", "LORA_MODEL", "LORA_MODEL,STRING")
TOGETHER = ({"width", "height"},)
TRAINERS = {
    "SDXLTrainer_TrainSDXLLoRA": {"pivotal"},
    "SDXLTrainer_PivotalTuning": set(),
}
"""Trainer -> the sections that it has no socket for."""
FILES = ("folder", "class_folder", "lora_name")


@pytest.fixture
def nodes():
    import sdxl_trainer

    extension = asyncio.run(sdxl_trainer.comfy_entrypoint())
    return {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}


def inputs_of(node):
    """Input id -> (type, options), as the frontend gets them."""
    groups = node.INPUT_TYPES()
    found = {}
    for group in ("required", "optional"):
        for name, (kind, *options) in groups.get(group, {}).items():
            found[name] = ("COMBO" if isinstance(kind, list) else str(kind), options[0] if options else {})
    return found


def widgets_of(node):
    return {
        name: options
        for name, (kind, options) in inputs_of(node).items()
        if kind not in SOCKETS and not kind.startswith("SDXL_")
    }


def test_ids_inputs_outputs_and_defaults_are_as_frozen(nodes):
    found = {}
    for node_id, node in nodes.items():
        outputs = [
            [o.id, str(o.get_io_type() if hasattr(o, "get_io_type") else o.io_type)]
            for o in node.define_schema().outputs
        ]
        listed = {
            name: [kind, "" if name in FILES else options.get("default")]
            for name, (kind, options) in inputs_of(node).items()
        }
        found[node_id] = {"inputs": listed, "outputs": outputs}
    frozen = json.loads(FROZEN.read_text())
    for node_id, node in frozen.items():
        assert list(found[node_id]["inputs"])[: len(node["inputs"])] == list(node["inputs"]), "append only"
    assert found == frozen


def test_every_node_stands_in_the_packs_category_and_says_what_it_does(nodes):
    for node_id, node in nodes.items():
        schema = node.define_schema()
        assert schema.category == "SDXL Trainer"
        assert node_id == f"SDXLTrainer_{node.__name__}"
        assert len(schema.description) > 20


def test_every_input_and_output_has_a_tooltip(nodes):
    for node_id, node in nodes.items():
        for name, (_, options) in inputs_of(node).items():
            assert options.get("tooltip", "").endswith("."), f"{node_id} {name}"
        for output in node.define_schema().outputs:
            assert output.tooltip.endswith("."), f"{node_id} {output.id}"


def test_no_node_has_more_than_twelve_widgets(nodes):
    assert {
        node_id: len(widgets_of(node)) for node_id, node in nodes.items() if len(widgets_of(node)) > 12
    } == {}


@pytest.mark.parametrize("node_id", SETTINGS)
def test_settings_widgets_equal_the_dataclass(nodes, node_id):
    from sdxl_trainer.trainer import config

    kind = getattr(config, SETTINGS[node_id])
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    assert {name: options["default"] for name, options in widgets_of(nodes[node_id]).items()} == fields
    assert nodes[node_id].execute(**fields).args[0] == kind()


@pytest.mark.parametrize("node_id", [*SETTINGS, "SDXLTrainer_LoadDataset"])
def test_the_dataclass_accepts_all_that_a_widget_can_be_set_to_and_no_more(nodes, node_id):
    from sdxl_trainer.trainer import config
    from sdxl_trainer.trainer.errors import InputError

    kind = getattr(config, SETTINGS.get(node_id, "DatasetConfig"))
    for name, options in widgets_of(nodes[node_id]).items():
        names = next((pair for pair in TOGETHER if name in pair), {name})
        for end, step in (("min", -1), ("max", 1)):
            if end not in options:
                continue
            kind(**dict.fromkeys(names, options[end]))
            beyond = options[end] + step * max(1, abs(options[end]))
            with pytest.raises(InputError, match=name):
                kind(**dict.fromkeys(names, beyond))


def test_every_section_has_a_settings_node_and_a_socket_on_the_trainers(nodes):
    from sdxl_trainer.trainer.config import SECTIONS

    assert {kind.__name__ for kind in SECTIONS.values()} == set(SETTINGS.values())
    for node_id, kind in SETTINGS.items():
        (section,) = [name for name, made in SECTIONS.items() if made.__name__ == kind]
        (output,) = nodes[node_id].define_schema().outputs
        assert output.id == f"{section}_settings"
        for trainer, without in TRAINERS.items():
            sockets = inputs_of(nodes[trainer])
            assert (output.id in sockets) == (section not in without)
            title = nodes[trainer].define_schema().display_name
            assert (title in output.tooltip) == (section not in without)
            if section not in without:
                assert sockets[output.id][0] == f"SDXL_{section.upper()}_SETTINGS"


def test_settings_sockets_are_folded_away_on_both_trainers(nodes):
    for trainer in TRAINERS:
        folded = {name for name, (_, options) in inputs_of(nodes[trainer]).items() if options.get("advanced")}
        assert folded == {n for n in inputs_of(nodes[trainer]) if n.endswith("_settings")} | {"initial_lora"}


def test_both_trainers_give_out_the_same_and_pivotal_tuning_its_embedding(nodes):
    lora, pivotal = ([o.id for o in nodes[trainer].define_schema().outputs] for trainer in TRAINERS)
    *both, picture = lora
    assert pivotal == [*both, "embedding", picture]


def test_what_both_trainers_have_is_the_same_on_both(nodes):
    lora, pivotal = (inputs_of(nodes[trainer]) for trainer in TRAINERS)
    both = [name for name in lora if name in pivotal]
    own = {"token", "new_tokens", "ti_fraction", "token_learning_rate", "pivotal_settings"}
    assert pivotal.keys() - set(both) == own
    assert lora.keys() - set(both) == {"epochs", "alpha", "targets"}
    assert "epochs" not in pivotal["steps"][1].pop("tooltip")
    assert lora["steps"][1].pop("tooltip")
    assert [lora[name] for name in both] == [pivotal[name] for name in both]
    assert len(widgets_of(nodes["SDXLTrainer_PivotalTuning"])) == 12


def test_loaded_settings_fit_the_trainers_sockets(nodes):
    sockets = inputs_of(nodes["SDXLTrainer_PivotalTuning"])
    outputs = nodes["SDXLTrainer_LoadTrainingSettings"].define_schema().outputs
    for output in outputs:
        kind = output.get_io_type() if hasattr(output, "get_io_type") else output.io_type
        assert output.id == "report" or sockets[output.id][0] == str(kind)


def test_preview_samplers_are_comfyuis_own(nodes):
    import comfy.samplers

    for node_id, sampler in (("PreviewSettings", "sampler"), ("CompareLoRAs", "sampler_name")):
        types = nodes[f"SDXLTrainer_{node_id}"].INPUT_TYPES()
        groups = types["required"] | types["optional"]
        for name, choices in (
            (sampler, comfy.samplers.KSampler.SAMPLERS),
            ("scheduler", comfy.samplers.KSampler.SCHEDULERS),
        ):
            kind, options = groups[name]
            assert (kind if isinstance(kind, list) else options["options"]) == list(choices)
            assert options["default"] in choices


def test_dataset_widgets_are_all_the_dataset_settings(nodes):
    from sdxl_trainer.trainer.config import DatasetConfig

    fields = {field.name: field.default for field in dataclasses.fields(DatasetConfig)}
    listed = {name: o["default"] for name, o in widgets_of(nodes["SDXLTrainer_LoadDataset"]).items()}
    listed.pop("folder")
    assert listed == fields


def test_seeds_are_not_randomised_by_the_frontend(nodes):
    seeds = [widgets_of(node)["seed"] for node in nodes.values() if "seed" in widgets_of(node)]
    assert len(seeds) >= 3
    for seed in seeds:
        assert seed["control_after_generate"] is False


def test_every_node_has_a_help_page_that_explains_each_input(nodes, pack_folder):
    for node_id, node in nodes.items():
        page = (pack_folder / "web" / "docs" / f"{node_id}.md").read_text("utf-8")
        for name in inputs_of(node):
            assert f"| `{name}` |" in page, f"{node_id} {name}"


def test_the_trainers_page_tells_what_each_preset_sets(pack_folder):
    from sdxl_trainer.trainer.settings.presets import PRESETS

    page = (pack_folder / "web" / "docs" / "SDXLTrainer_TrainSDXLLoRA.md").read_text("utf-8")
    for name, preset in PRESETS.items():
        assert f"| `{name}` | {preset.summary} |" in page


def test_registering_the_nodes_imports_no_training_library(comfyui_folder, pack_folder):
    code = f"""
import importlib.util, sys
sys.path.insert(0, {str(comfyui_folder)!r})
import comfy.options
comfy.options.enable_args_parsing()
sys.argv = ["main.py", "--cpu"]
before = set(sys.modules)
spec = importlib.util.spec_from_file_location(
    "a-pack", {str(pack_folder / "__init__.py")!r}, submodule_search_locations=[{str(pack_folder)!r}])
module = importlib.util.module_from_spec(spec)
sys.modules["a-pack"] = module
spec.loader.exec_module(module)
print(hasattr(module, "comfy_entrypoint"))
print(sorted({{"diffusers", "peft", "accelerate", "kornia"}} & (set(sys.modules) - before)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["True", "[]"], done.stderr


@pytest.mark.parametrize("node_id", SETTINGS)
def test_settings_that_a_saved_prompt_lacks_have_their_defaults(nodes, node_id):
    from sdxl_trainer.trainer import config

    assert nodes[node_id].INPUT_TYPES()["required"] == {}
    assert nodes[node_id].execute().result == (getattr(config, SETTINGS[node_id])(),)
