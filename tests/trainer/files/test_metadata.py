import hashlib
import json
from dataclasses import replace
from io import BytesIO

import pytest
import safetensors.torch
import torch
from PIL import Image
from sdxl_trainer.trainer.config import (
    SECTIONS,
    DatasetConfig,
    LoggingConfig,
    LoRAConfig,
    PivotalConfig,
    TrainConfig,
)
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.files.metadata import (
    SETTINGS_KEY,
    RunFacts,
    build_metadata,
    content_hashes,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three pictures: two in a kohya folder with ten repeats, one beside it."""
    root = tmp_path_factory.mktemp("private") / "my pictures"
    cats = root / "10_mia cat"
    cats.mkdir(parents=True)
    for folder, name, size, caption in (
        (cats, "a", (128, 128), "mia cat, Red, red ball"),
        (cats, "b", (128, 128), "mia cat, red"),
        (root, "c", (192, 96), "mia cat, blue"),
    ):
        Image.new("RGB", size, "red").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption)
    Image.new("RGB", (128, 128), "blue").save(cats / "b.png")
    return load_dataset(root, DatasetConfig(resolution=128, trigger="mia", bucket_step=32))


@pytest.fixture
def facts(dataset):
    return RunFacts(
        config=TrainConfig(name="mia", steps=100, batch_size=2, lora=LoRAConfig(rank=8, alpha=4.0)),
        dataset=dataset,
        model_title="juggernaut.safetensors",
        prediction_type="epsilon",
        step=30,
        started_at=1_700_000_000.5,
        finished_at=1_700_000_600.5,
        precision="bf16",
        gradient_checkpointing=False,
        extra={"workflow": '{"nodes": []}', "prompt": "{}", "api_key": "secret"},
    )


def with_config(facts, **changes):
    return replace(facts, config=replace(facts.config, **changes))


def kohya_hashes(tensors, metadata):
    """`precalculate_safetensors_hashes` of sd-scripts, library/train_util.py, step by step."""
    kept = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    file = BytesIO(safetensors.torch.save(tensors, kept))
    header_length = int.from_bytes(file.read(8), "little")
    file.seek(header_length + 8)
    model_hash = hashlib.sha256(file.read()).hexdigest()
    file.seek(0x100000)
    return model_hash, hashlib.sha256(file.read(0x10000)).hexdigest()[0:8]


# one number, 1 MiB and a bit, more than the legacy window, and a header that alone is longer than 1 MiB
@pytest.mark.parametrize(
    ("num_weights", "comment"), [(1, ""), (270_000, ""), (900_000, ""), (900_000, "x" * 1_060_000)]
)
def test_hashes_are_those_kohya_computes(facts, num_weights, comment):
    draw = torch.Generator().manual_seed(1)
    tensors = {
        "b.lora_up.weight": torch.randn(num_weights, generator=draw).half(),
        "a.lora_down.weight": torch.randn(num_weights, generator=draw).half(),
        "a.alpha": torch.tensor(4.0),
    }
    metadata = {**build_metadata(facts), "ss_training_comment": comment + "ü"}
    hashes = content_hashes(tensors, metadata)
    expected = kohya_hashes(tensors, metadata)
    # with a header beyond 1 MiB kohya's window lies in its metadata, whose order the library draws anew
    assert hashes["sshs_model_hash"] == expected[0]
    if not comment:
        assert hashes["sshs_legacy_hash"] == expected[1]
    assert hashes["modelspec.hash_sha256"] == "0x" + expected[0]


def test_hashes_do_not_change_with_metadata_of_others(facts):
    tensors = {"a": torch.randn(600_000)}
    metadata = build_metadata(facts)
    assert content_hashes(tensors, metadata) == content_hashes(tensors, {**metadata, "ssmd_tags": "cat"})


def test_all_values_are_texts(facts):
    assert all(isinstance(value, str) for value in build_metadata(facts).values())


def test_what_readers_look_for_is_there(facts):
    metadata = build_metadata(facts)
    expected = {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_v2": "False",
        "ss_sd_model_name": "juggernaut.safetensors",
        "ss_output_name": "mia",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "8",
        "ss_network_alpha": "4.0",
        "ss_network_args": "{}",
        "ss_num_train_images": "21",
        "ss_num_reg_images": "0",
        "ss_num_batches_per_epoch": "11",
        "ss_epoch": "2",
        "ss_num_epochs": "10",
        "ss_steps": "30",
        "ss_max_train_steps": "100",
        "ss_resolution": "(128, 128)",
        "ss_training_started_at": "1700000000.5",
        "ss_training_finished_at": "1700000600.5",
        "ss_min_snr_gamma": "5.0",
        "ss_mixed_precision": "bf16",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": "mia",
        "modelspec.resolution": "128x128",
        "modelspec.date": "2023-11-14T22:23:20Z",
        "modelspec.prediction_type": "epsilon",
        "modelspec.trigger_phrase": "mia",
        "modelspec.usage_hint": "Put 'mia' into the prompt, strength 1.",
    }
    assert {key: metadata.get(key) for key in expected} == expected


def test_dataset_is_described_as_kohya_does(facts):
    metadata = build_metadata(facts)
    assert json.loads(metadata["ss_dataset_dirs"]) == {
        "10_mia cat": {"n_repeats": 10, "img_count": 2},
        "my pictures": {"n_repeats": 1, "img_count": 1},
    }
    assert json.loads(metadata["ss_tag_frequency"]) == {
        "10_mia cat": {"mia cat": 2, "red": 2, "red ball": 1},
        "my pictures": {"mia cat": 1, "blue": 1},
    }
    buckets = json.loads(metadata["ss_bucket_info"])["buckets"]
    assert sorted((tuple(bucket["resolution"]), bucket["count"]) for bucket in buckets.values()) == [
        ((128, 128), 20),
        ((160, 96), 1),
    ]


def test_settings_come_back_as_they_were(facts):
    settings = json.loads(build_metadata(facts)[SETTINGS_KEY])
    assert TrainConfig.from_json(settings["train"]) == facts.config
    assert DatasetConfig(**settings["dataset"]) == facts.dataset.config


def test_workflow_and_prompt_pass_and_nothing_else(facts):
    metadata = build_metadata(facts)
    assert (metadata["workflow"], metadata["prompt"]) == ('{"nodes": []}', "{}")
    assert "secret" not in json.dumps(metadata)


@pytest.mark.parametrize(
    "title", ["/home/ann/models/juggernaut.safetensors", r"C:\Users\ann\juggernaut.safetensors"]
)
def test_no_path_of_the_user_is_written(facts, title):
    metadata = build_metadata(replace(facts, model_title=title))
    assert metadata["ss_sd_model_name"] == "juggernaut.safetensors"
    everything = json.dumps(metadata)
    parent = facts.dataset.pictures[0].path.parents[2]
    assert not any(word in everything for word in ("ann", str(parent), parent.name))


def test_every_setting_of_every_section_comes_back(facts):
    unusual = {
        "lora": {"adapter": "lokr", "block_ranks": "input_blocks.4=8", "blocks": "style"},
        "optimizer": {"optimizer": "prodigy", "ema_decay": 0.99, "eps": 1e-9},
        "schedule": {"warmup_share": 0.1, "power": 2.0},
        "prodigy": {"d0": 1e-7, "decouple": False},
        "objective": {"loss": "huber", "edm_training": True, "min_snr_gamma": 0.0},
        "noise": {"timestep_min": 100, "logit_std": 0.7},
        "prior": {"prior_preservation": "base_model", "class_prompt": "a 'cat', ü"},
        "preview": {"prompts": 'a cat\na "dog"', "seed": 2**64 - 1},
        "validation": {"validation_share": 0.2, "keep_best": False},
        "run": {"resume_from_step": 5, "save_precision": "bf16"},
        "text_encoder": {"train_text_encoder": "clip_l", "clip_l_learning_rate": 2e-5},
        "pivotal": {"token": "TOK, STY", "new_tokens": "2, 4", "optimizer": "same", "bundle": True},
    }
    assert {*unusual, "logging"} == SECTIONS.keys()
    changed = {name: SECTIONS[name](**values) for name, values in unusual.items()}
    facts = with_config(facts, **changed)
    settings = json.loads(build_metadata(facts)[SETTINGS_KEY])
    assert TrainConfig.from_json(settings["train"]) == facts.config


@pytest.mark.parametrize(("trained", "told"), [("epsilon", "epsilon"), ("v_prediction", "v"), ("edm", "edm")])
def test_what_was_predicted_is_told(facts, trained, told):
    metadata = build_metadata(replace(facts, prediction_type=trained, zero_terminal_snr=trained != "epsilon"))
    assert metadata["modelspec.prediction_type"] == told
    assert metadata["ss_zero_terminal_snr"] == str(trained != "epsilon")


def test_nobody_learns_where_a_run_was_logged_and_published(facts):
    logging = LoggingConfig(hub_model_id="me/secret-cat", project="mine", tracker="wandb")
    metadata = build_metadata(with_config(facts, logging=logging))
    assert not [key for key, value in metadata.items() if "secret-cat" in value or "mine" in value]


ONE, TWO = PivotalConfig(token="TOK"), PivotalConfig(token="TOK, STY")
HINTS = {
    ONE: " Where TOK is not known, write embedding:mia_emb.",
    TWO: " Where TOK, STY are not known, write embedding:mia_emb_tok, embedding:mia_emb_sty.",
}


@pytest.mark.parametrize(("pivotal", "trigger"), [(ONE, "TOK"), (TWO, "TOK, STY")])
def test_new_words_are_triggers_beside_the_datasets_own(facts, pivotal, trigger):
    for own, told in (("mia", f"mia, {trigger}"), ("", trigger), ("a tok", trigger.replace("TOK", "a tok"))):
        dataset = replace(facts.dataset, config=replace(facts.dataset.config, trigger=own))
        metadata = build_metadata(with_config(replace(facts, dataset=dataset), pivotal=pivotal))
        assert metadata["modelspec.trigger_phrase"] == told
        assert (
            metadata["modelspec.usage_hint"] == f"Put '{told}' into the prompt, strength 1.{HINTS[pivotal]}"
        )
