"""Settings and dataset in kohya's words."""

import json
from dataclasses import replace

import pytest
from PIL import Image
from sdxl_trainer.trainer.config import (
    DatasetConfig,
    LoRAConfig,
    NoiseConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PivotalConfig,
    PriorConfig,
    RunConfig,
    ScheduleConfig,
    TextEncoderConfig,
    TrainConfig,
    ValidationConfig,
)
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.data.dataset_sets import with_class_images
from sdxl_trainer.trainer.files.metadata import SETTINGS_KEY, RunFacts, build_metadata
from sdxl_trainer.trainer.settings.settings_from_lora import settings_of_metadata

KOHYA_KEYS = """
adaptive_noise_scale base_model_version batch_size_per_device bucket_info bucket_no_upscale cache_latents
caption_dropout_rate caption_tag_dropout_rate color_aug dataset_dirs debiased_estimation enable_bucket
epoch flip_aug full_fp16
gradient_accumulation_steps gradient_checkpointing huber_c huber_scale huber_schedule ip_noise_gamma
keep_tokens learning_rate loss_type lr_scheduler lr_warmup_steps max_bucket_reso max_grad_norm
max_train_steps min_bucket_reso min_snr_gamma mixed_precision multires_noise_discount
multires_noise_iterations network_alpha network_args network_dim network_dropout network_module
noise_offset num_batches_per_epoch num_epochs num_reg_images num_train_images optimizer output_name
prior_loss_weight random_crop reg_dataset_dirs resolution scale_weight_norms sd_model_name seed
session_id shuffle_caption steps tag_frequency text_encoder_lr total_batch_size training_comment
training_finished_at training_started_at unet_lr v2 validate_every_n_steps validation_split
zero_terminal_snr
"""
"""Those of sd-scripts' train_network.py (48d368f) that are written here, without `ss_`."""


@pytest.fixture
def facts(tmp_path):
    Image.new("RGB", (128, 128), "red").save(tmp_path / "a.png")
    return RunFacts(
        config=TrainConfig(name="mia", steps=100, batch_size=2, lora=LoRAConfig(rank=8, alpha=4.0)),
        dataset=load_dataset(tmp_path, DatasetConfig(resolution=128, bucket_step=32, prompt="mia")),
        model_title="juggernaut.safetensors",
        prediction_type="epsilon",
        step=30,
        started_at=0.0,
        finished_at=0.0,
        precision="bf16",
        gradient_checkpointing=False,
    )


def with_config(facts, **changes):
    return replace(facts, config=replace(facts.config, **changes))


def test_keys_are_kohyas(facts):
    written = {key for key in build_metadata(facts) if key.startswith("ss_")}
    assert written == {f"ss_{key}" for key in KOHYA_KEYS.split()}


# the key, what is set, and what kohya's scripts would write for it
@pytest.mark.parametrize(
    ("key", "changes", "value"),
    [
        ("ss_seed", {"seed": 7}, "7"),
        ("ss_batch_size_per_device", {"batch_size": 4}, "4"),
        ("ss_total_batch_size", {"run": RunConfig(gradient_accumulation=3)}, "6"),
        ("ss_network_dim", {"lora": LoRAConfig(rank=2)}, "2"),
        (
            "ss_network_args",
            {"lora": LoRAConfig(rank=8, alpha=4.0, targets="attention+ff+conv")},
            '{"conv_dim": "8", "conv_alpha": "4.0"}',
        ),
        ("ss_network_dropout", {"lora": LoRAConfig(dropout=0.1)}, "0.1"),
        ("ss_network_args", {"lora": LoRAConfig(rank_dropout=0.2)}, '{"rank_dropout": "0.2"}'),
        ("ss_network_args", {"lora": LoRAConfig(module_dropout=0.3)}, '{"module_dropout": "0.3"}'),
        (
            "ss_network_args",
            {"optimizer": OptimizerConfig(lora_plus_ratio=4.0)},
            '{"loraplus_unet_lr_ratio": "4.0"}',
        ),
        ("ss_learning_rate", {"optimizer": OptimizerConfig(learning_rate=0.5)}, "0.5"),
        ("ss_learning_rate", {"optimizer": OptimizerConfig(optimizer="prodigy")}, "1.0"),
        ("ss_unet_lr", {"optimizer": OptimizerConfig(learning_rate=0.5, scale_lr=True)}, "1.0"),
        (
            "ss_text_encoder_lr",
            {"text_encoder": TextEncoderConfig(train_text_encoder="both", clip_g_learning_rate=2e-5)},
            "[5e-05, 2e-05]",
        ),
        (
            "ss_text_encoder_lr",
            {"text_encoder": TextEncoderConfig(train_text_encoder="clip_g")},
            "[0.0, 5e-05]",
        ),
        ("ss_unet_lr", {"pivotal": PivotalConfig(token="TOK", ti_fraction=1)}, "None"),
        (
            "ss_network_args",
            {
                "optimizer": OptimizerConfig(lora_plus_ratio=4.0),
                "text_encoder": TextEncoderConfig(train_text_encoder="clip_l"),
            },
            '{"loraplus_unet_lr_ratio": "4.0", "loraplus_text_encoder_lr_ratio": "4.0"}',
        ),
        ("ss_lr_scheduler", {"optimizer": OptimizerConfig(lr_schedule="cosine")}, "cosine"),
        ("ss_lr_warmup_steps", {"optimizer": OptimizerConfig(warmup_steps=9)}, "9"),
        ("ss_lr_warmup_steps", {"schedule": ScheduleConfig(warmup_share=0.2)}, "20"),
        (
            "ss_optimizer",
            {"optimizer": OptimizerConfig(weight_decay=0.5)},
            "torch.optim.adamw.AdamW(weight_decay=0.5,betas=(0.9, 0.999),eps=1e-08)",
        ),
        ("ss_max_grad_norm", {"optimizer": OptimizerConfig(max_grad_norm=0.0)}, "0.0"),
        ("ss_min_snr_gamma", {"objective": ObjectiveConfig(min_snr_gamma=0.0)}, "None"),
        ("ss_debiased_estimation", {"objective": ObjectiveConfig(debiased_estimation=True)}, "True"),
        ("ss_loss_type", {"objective": ObjectiveConfig(loss="smooth_l1")}, "smooth_l1"),
        ("ss_huber_c", {"objective": ObjectiveConfig(huber_c=0.2)}, "0.2"),
        ("ss_huber_schedule", {"objective": ObjectiveConfig(huber_schedule="constant")}, "constant"),
        ("ss_caption_dropout_rate", {"objective": ObjectiveConfig(caption_dropout=0.5)}, "0.5"),
        ("ss_noise_offset", {"noise": NoiseConfig(noise_offset=0.05)}, "0.05"),
        ("ss_multires_noise_iterations", {"noise": NoiseConfig(pyramid_iterations=6)}, "6"),
        ("ss_multires_noise_discount", {"noise": NoiseConfig(pyramid_discount=0.5)}, "0.5"),
        ("ss_ip_noise_gamma", {"noise": NoiseConfig(input_perturbation=0.1)}, "0.1"),
        ("ss_prior_loss_weight", {"prior": PriorConfig(prior_loss_weight=0.4)}, "0.4"),
        ("ss_validation_split", {"validation": ValidationConfig(validation_share=0.2)}, "0.2"),
        ("ss_validate_every_n_steps", {"validation": ValidationConfig(validate_every=50)}, "50"),
    ],
)
def test_settings_are_told_in_kohyas_words(facts, key, changes, value):
    before, after = build_metadata(facts), build_metadata(with_config(facts, **changes))
    assert after[key] == value != before[key]


# as LyCORIS' kohya.create_network reads them
@pytest.mark.parametrize(
    ("lora", "arguments"),
    [
        (LoRAConfig(adapter="loha"), {"algo": "loha", "preset": "attn-mlp"}),
        (LoRAConfig(adapter="lokr", lokr_factor=4), {"algo": "lokr", "preset": "attn-mlp", "factor": "4"}),
        (
            LoRAConfig(adapter="dora", targets="attention", rank_dropout=0.1),
            {
                "algo": "lora",
                "preset": "attn-only",
                "dora_wd": "True",
                "wd_on_output": "False",
                "rank_dropout": "0.1",
            },
        ),
        (
            LoRAConfig(rank_stabilized=True, rank=4, targets="attention+ff+conv", dropout=0.2),
            {"algo": "lora", "conv_dim": "4", "conv_alpha": "4.0", "rs_lora": "True", "dropout": "0.2"},
        ),
    ],
)
def test_other_adapters_are_told_in_lycoris_words(facts, lora, arguments):
    metadata = build_metadata(with_config(facts, lora=lora))
    assert metadata["ss_network_module"] == "lycoris.kohya"
    assert json.loads(metadata["ss_network_args"]) == arguments


@pytest.mark.parametrize("adapter", ["lora", "dora", "loha", "lokr"])
def test_kohyas_words_alone_give_the_settings_back(facts, adapter):
    lora = LoRAConfig(adapter=adapter, rank=8, alpha=4.0, targets="attention+ff+conv", rank_dropout=0.1)
    optimizer = OptimizerConfig(optimizer="prodigy", learning_rate=0.5, warmup_steps=3, lr_schedule="cosine")
    noise = NoiseConfig(noise_offset=0.05, pyramid_iterations=6, input_perturbation=0.1)
    objective = ObjectiveConfig(min_snr_gamma=1.0, loss="huber", huber_c=0.2, caption_dropout=0.0)
    text = TextEncoderConfig(
        train_text_encoder="clip_l", clip_l_learning_rate=0.5, weight_decay=optimizer.weight_decay
    )
    sections = {"lora": lora, "optimizer": optimizer, "noise": noise, "objective": objective}
    facts = with_config(facts, **sections, text_encoder=text)
    metadata = build_metadata(facts)
    del metadata[SETTINGS_KEY]
    read = settings_of_metadata(metadata, "cat.safetensors")
    assert (read.steps, read.batch_size, read.seed) == (100, 2, 42)
    assert read.sections["lora"] == lora
    assert read.sections["noise"] == noise
    assert read.sections["objective"] == objective
    assert read.sections["text_encoder"] == text
    for name in ("optimizer", "effective_learning_rate", "lr_schedule", "warmup_steps", "effective_beta2"):
        assert getattr(read.sections["optimizer"], name) == getattr(optimizer, name)


def test_class_images_are_told_where_they_are_used(facts, tmp_path):
    folder = tmp_path / "classes" / "5_dog"
    folder.mkdir(parents=True)
    Image.new("RGB", (128, 128), "green").save(folder / "a.png")
    class_set = load_dataset(folder.parent, DatasetConfig(resolution=128, bucket_step=32))
    facts = replace(facts, dataset=with_class_images(facts.dataset, class_set))
    metadata = build_metadata(facts)
    assert metadata["ss_num_reg_images"] == "5"
    assert json.loads(metadata["ss_reg_dataset_dirs"]) == {"5_dog": {"n_repeats": 5, "img_count": 1}}
    unused = build_metadata(with_config(facts, prior=PriorConfig(prior_preservation="off")))
    assert (unused["ss_num_reg_images"], unused["ss_reg_dataset_dirs"]) == ("0", "{}")
