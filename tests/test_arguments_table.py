"""docs/arguments.md against what it speaks of: the arguments asked for, the nodes, and their defaults."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from sdxl_trainer.trainer.config import SECTIONS, DatasetConfig

ROOT = Path(__file__).resolve().parents[1]
NODES = json.loads((ROOT / "tests/nodes/frozen_nodes.json").read_text("utf-8"))
NONE = "–"
DIFFUSERS = """
pretrained_model_name_or_path pretrained_vae_model_name_or_path revision variant dataset_name
dataset_config_name train_data_dir instance_data_dir class_data_dir image_column caption_column
instance_prompt class_prompt validation_prompt num_validation_images validation_epochs max_train_samples
repeats output_dir cache_dir seed resolution center_crop random_flip train_text_encoder
train_text_encoder_frac
train_text_encoder_ti train_text_encoder_ti_frac token_abstraction num_new_tokens_per_abstraction
train_batch_size sample_batch_size num_train_epochs max_train_steps checkpointing_steps
checkpoints_total_limit resume_from_checkpoint gradient_accumulation_steps gradient_checkpointing
learning_rate text_encoder_lr scale_lr lr_scheduler lr_warmup_steps lr_num_cycles lr_power snr_gamma
do_edm_style_training with_prior_preservation prior_loss_weight num_class_images
prior_generation_precision output_kohya_format optimizer use_8bit_adam adam_beta1 adam_beta2
adam_weight_decay adam_weight_decay_text_encoder adam_epsilon prodigy_beta3 prodigy_decouple
prodigy_use_bias_correction prodigy_safeguard_warmup max_grad_norm allow_tf32 mixed_precision
prediction_type noise_offset rank debug_loss dataloader_num_workers local_rank
enable_xformers_memory_efficient_attention enable_npu_flash_attention logging_dir report_to push_to_hub
hub_token hub_model_id
"""
KOHYA = (
    "Instance prompt",
    "Class prompt",
    "Repeats",
    "Training images folder",
    "Regularisation images folder",
    "LoRA type",
    "Train batch size",
    "Epochs",
    "Mixed precision",
    "Save precision",
    "Learning rate",
    "Max resolution",
    "Enable buckets",
    "Network rank",
    "Network alpha",
    "Caption prefix",
)


class Row(NamedTuple):
    argument: str
    origin: str
    inputs: str
    default_there: str
    default_here: str
    remark: str

    @property
    def places(self):
        """(node id, input) of each input named."""
        found = re.findall(r"([A-Z][\w ]+): `(\w+)`", self.inputs)
        return [(f"SDXLTrainer_{node.replace(' ', '')}", name) for node, name in found]


def read_rows():
    rows = []
    for line in (ROOT / "docs/arguments.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == len(Row._fields) and cells[0] != "argument" and set(cells[0]) != {"-"}:
            rows.append(Row(*cells))
    return rows


ROWS = read_rows()
WITH_INPUT = [row for row in ROWS if row.inputs != NONE]


def names(rows):
    return [row.argument for row in rows]


def test_every_argument_has_one_row_and_there_is_no_other():
    expected = [f"`{name}`" for name in DIFFUSERS.split()] + list(KOHYA)
    assert sorted(names(ROWS)) == sorted(expected)


@pytest.mark.parametrize("row", WITH_INPUT, ids=names(WITH_INPUT))
def test_nodes_and_inputs_are_there(row):
    assert row.places
    assert len(row.places) == len(row.inputs.split(";"))
    for node, name in row.places:
        assert name in NODES[node]["inputs"]


def as_text(value):
    return json.dumps(value) if isinstance(value, bool) or value == "" else str(value)


@pytest.mark.parametrize("row", WITH_INPUT, ids=names(WITH_INPUT))
def test_the_default_here_is_the_inputs(row):
    expected = []
    for node, name in row.places:
        kind, default = NODES[node]["inputs"][name]
        is_socket = default is None or (kind == "COMBO" and default == "")
        expected.append(NONE if is_socket else f"`{as_text(default)}`")
    assert row.default_here.split("; ") == expected


@pytest.mark.parametrize("row", WITH_INPUT, ids=names(WITH_INPUT))
def test_the_default_here_is_the_dataclass(row):
    kinds = {
        f"SDXLTrainer_{kind.__name__.removesuffix('Config')}Settings": kind for kind in SECTIONS.values()
    }
    kinds["SDXLTrainer_LoadDataset"] = DatasetConfig
    for (node, name), told in zip(row.places, row.default_here.split("; "), strict=True):
        if told != NONE and node in kinds:
            assert f"`{as_text(getattr(kinds[node](), name))}`" == told


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_rows_are_whole(row):
    assert row.origin in ("T", "D", "A", "K", "T, D, A", "D, A", "T, A")
    assert row.default_there
    if row.inputs == NONE:
        assert row.default_here == NONE
        assert len(row.remark) > 15, "a row without an input says why"


def test_the_presets_it_names_are_the_recipes():
    from sdxl_trainer.trainer.settings.presets import PRESETS

    text = (ROOT / "docs/arguments.md").read_text("utf-8").partition("Three habits")[0]
    assert set(re.findall(r"`([a-z_]+)`", text)) == set(PRESETS) - {"person", "character", "style", "object"}
