import json

import pytest
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.runs.run_folder import (
    RunFiles,
    choose_run,
    is_finished,
    record_run,
)
from sdxl_trainer.trainer.runs.run_identity import run_identity

DATASET = ("d" * 64, DatasetConfig())
MODEL = ("m" * 64, "model.safetensors")


@pytest.fixture
def files(tmp_path):
    for name in ("loras", "runs/cat"):
        (tmp_path / name).mkdir(parents=True)
    return RunFiles("cat", tmp_path / "loras", tmp_path / "runs" / "cat")


def add_state(files):
    files.state.mkdir()
    (files.state / "step-000001.safetensors").touch()


@pytest.fixture
def identity(tiny_run):
    return lambda **values: run_identity(tiny_run.tiny_config(**values), DATASET, MODEL)


@pytest.mark.parametrize(
    "values",
    [
        {"name": "dog"},
        {"resume": "new"},
        {"run": {"save_every": 7}},
        {"run": {"keep_last": 7}},
        {"run": {"gradient_checkpointing": "on"}},
        {"run": {"save_every_epochs": 7}},
        {"run": {"resume_from_step": 7}},
        {"run": {"save_precision": "fp32"}},
        {"run": {"save_diffusers": True}},
        {"preview": {"preview_every": 7, "prompts": "a cat"}},
        {"logging": {"tracker": "all", "hub_model_id": "a/b"}},
        {
            "validation": {"validate_every": 7, "early_stop_patience": 7, "keep_best": False}
        },  # nothing held out
        {"lora": {"alpha": 2.0}},  # what 0 stands for at rank 2
        {"optimizer": {"learning_rate": 1e-2, "beta2": 0.999}},  # what 0 stands for with AdamW
    ],
)
def test_what_does_not_shape_the_numbers_is_not_in_the_fingerprint(identity, values):
    assert identity(**values).fingerprint == identity().fingerprint


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 7},
        {"seed": 1},
        {"lora": {"rank": 3}},
        {"run": {"gradient_accumulation": 2}},
        {"schedule": {"power": 2.0}},
        {"noise": {"noise_offset": 0.1}},
        {"prior": {"prior_loss_weight": 0.5}},
        {"validation": {"validation_share": 0.1}},
    ],
)
def test_what_shapes_the_numbers_is(identity, values):
    assert identity(**values).fingerprint != identity().fingerprint


def test_the_rhythm_of_validation_is_part_of_a_run_only_where_it_can_end_it(tiny_run):
    def fingerprint(every, **validation):
        config = tiny_run.tiny_config(validation={"validation_share": 0.2, **validation})
        return run_identity(config, DATASET, MODEL, every).fingerprint

    assert fingerprint(2) == fingerprint(3)
    assert fingerprint(2, early_stop_patience=2) != fingerprint(3, early_stop_patience=2)


def test_dataset_and_model_are_part_of_a_run(tiny_run, identity):
    config = tiny_run.tiny_config()
    others = [run_identity(config, ("e" * 64, DATASET[1]), MODEL), run_identity(config, DATASET, ("n", "x"))]
    assert len({identity().fingerprint, *(other.fingerprint for other in others)}) == 3
    assert others[0].differences(identity().values) == ["dataset dddddddd -> eeeeeeee"]


def test_recorded_identity_compares_equal_after_json(identity, tiny_run, files):
    record_run(files, tiny_run.tiny_config(), identity(), {})
    recorded = json.loads(files.config.read_text())
    assert identity().differences(recorded["identity"]) == []
    assert recorded["fingerprint"] == identity().fingerprint


def test_free_name_is_taken_and_a_begun_run_goes_on(identity, tiny_run, files):
    assert choose_run(files, identity(), "auto") == (files, [])
    record_run(files, tiny_run.tiny_config(), identity(), {})
    add_state(files)
    assert choose_run(files, identity(), "auto") == (files, [])
    chosen, notes = choose_run(files, identity(), "new")
    assert chosen.name == "cat-2"
    assert "resume is 'new'" in notes[0]


def test_numbered_brother_is_found_when_the_first_is_gone(identity, tiny_run, files):
    files.folder.rmdir()
    brother = RunFiles("cat-3", files.loras_folder, files.folder.with_name("cat-3"))
    brother.folder.mkdir()
    record_run(brother, tiny_run.tiny_config(), identity(), {})
    assert choose_run(files, identity(), "auto")[0].name == "cat-3"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_unreadable_config_counts_as_somebody_elses(identity, files, content):
    files.config.write_bytes(content)
    add_state(files)
    assert choose_run(files, identity(), "auto")[0].name == "cat-2"


@pytest.mark.parametrize("content", [b"", b"\xff" * 100])
def test_a_file_that_is_no_lora_of_ours_is_no_finished_run(files, content):
    assert not is_finished(files, "x")
    files.lora.write_bytes(content)
    assert not is_finished(files, "x")


def test_kept_loras_are_only_those_of_the_very_name(files):
    for name in ("cat-step000010", "cat-step000002", "cat-2-step000001", "cat-stepx", "cat"):
        (files.loras_folder / f"{name}.safetensors").touch()
    assert [step for step, _ in files.kept_loras()] == [2, 10]


def test_a_run_that_failed_before_its_first_step_leaves_its_name_free(identity, tiny_run, files):
    record_run(files, tiny_run.tiny_config(), identity(), {})
    assert choose_run(files, identity(seed=5), "auto") == (files, [])
