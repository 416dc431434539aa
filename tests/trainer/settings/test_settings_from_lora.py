"""Settings read back from a LoRA file: all of ours, what kohya's tell, and a word about the rest."""

import dataclasses
import json

import pytest
from sdxl_trainer.trainer.config import (
    SECTIONS,
    LoggingConfig,
    LoRAConfig,
    NoiseConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PivotalConfig,
    PreviewConfig,
    RunConfig,
    TextEncoderConfig,
    TrainConfig,
)
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.metadata import SETTINGS_KEY
from sdxl_trainer.trainer.settings.settings_from_lora import settings_of_file, settings_of_metadata

CONFIG = TrainConfig(
    name="cat",
    steps=120,
    batch_size=3,
    seed=9,
    lora=LoRAConfig(rank=8, alpha=4.0, adapter="dora"),
    optimizer=OptimizerConfig(optimizer="prodigy", lr_schedule="cosine"),
    noise=NoiseConfig(noise_offset=0.05),
    preview=PreviewConfig(width=64, height=128),
    text_encoder=TextEncoderConfig(train_text_encoder="clip_g", stop_fraction=0.7),
    pivotal=PivotalConfig(token="TOK, STY", new_tokens="2, 4", initial_words="woman, sketch", bundle=True),
)


def ours(train, dataset=None):
    return {SETTINGS_KEY: json.dumps({"train": train, "dataset": dataset or {"trigger": "zorp"}})}


KOHYA = {
    "ss_network_module": "networks.lora",
    "ss_network_dim": "64",
    "ss_network_alpha": "32.0",
    "ss_network_args": '{"conv_dim": "8", "conv_alpha": "1"}',
    "ss_network_dropout": "None",
    "ss_learning_rate": "0.0003",
    "ss_unet_lr": "None",
    "ss_text_encoder_lr": "5e-05",
    "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=(0.85, 0.99))",
    "ss_lr_scheduler": "cosine_with_restarts",
    "ss_lr_warmup_steps": "100",
    "ss_max_grad_norm": "1.0",
    "ss_min_snr_gamma": "None",
    "ss_noise_offset": "0.0357",
    "ss_multires_noise_iterations": "6",
    "ss_multires_noise_discount": "0.4",
    "ss_caption_dropout_rate": "0.0",
    "ss_seed": "1234",
    "ss_max_train_steps": "1000",
    "ss_total_batch_size": "4",
    "ss_gradient_accumulation_steps": "2",
    "ss_debiased_estimation": "True",
    "ss_loss_type": "huber",
    "ss_huber_schedule": "snr",
    "ss_huber_c": "0.2",
}


def test_our_own_settings_come_back_whole():
    loaded = settings_of_metadata(ours(CONFIG.to_json()), "cat.safetensors")
    assert {name: getattr(CONFIG, name) for name in SECTIONS} == loaded.sections
    assert (loaded.steps, loaded.batch_size, loaded.seed) == (120, 3, 9)
    assert loaded.notes == ()
    text = loaded.describe()
    assert "cat.safetensors" in text
    assert "optimizer prodigy" in text
    assert "Load Dataset: trigger zorp" in text


def test_every_setting_stands_in_the_report():
    text = settings_of_metadata(ours(CONFIG.to_json()), "cat.safetensors").describe()
    for kind in SECTIONS.values():
        for field in dataclasses.fields(kind):
            assert f"{field.name.replace('_', ' ')} " in text, field.name


def test_a_file_of_an_older_version_gets_the_defaults_and_says_so():
    train = {key: value for key, value in CONFIG.to_json().items() if key != "prior"}
    train["lora"] = {"rank": 8, "alpha": 4.0, "targets": "attention"}
    loaded = settings_of_metadata(ours(train), "old.safetensors")
    assert loaded.sections["lora"] == LoRAConfig(rank=8, alpha=4.0, targets="attention")
    (note,) = loaded.notes
    assert "adapter" in note
    assert "all prior settings" in note


def test_what_this_version_does_not_know_or_accept_is_left_out_and_said():
    train = CONFIG.to_json()
    train["lora"] |= {"spectral_norm": True, "targets": "everything"}
    loaded = settings_of_metadata(ours(train), "new.safetensors")
    assert loaded.sections["lora"] == dataclasses.replace(CONFIG.lora, targets="attention+ff")
    assert "spectral_norm unknown to this version" in loaded.notes[0]
    assert "targets is 'everything'" in loaded.notes[1]


def test_kohyas_entries_become_our_settings():
    loaded = settings_of_metadata(KOHYA, "kohya.safetensors")
    expected = {
        "lora": LoRAConfig(rank=64, alpha=32.0, targets="attention+ff+conv"),
        "optimizer": OptimizerConfig(
            learning_rate=3e-4,
            optimizer="adamw8bit",
            lr_schedule="cosine_with_restarts",
            warmup_steps=100,
            weight_decay=0.1,
            beta1=0.85,
            beta2=0.99,
        ),
        "objective": ObjectiveConfig(
            min_snr_gamma=0.0,
            caption_dropout=0.0,
            loss="huber",
            huber_c=0.2,
            debiased_estimation=True,
        ),
        "noise": NoiseConfig(noise_offset=0.0357, pyramid_iterations=6, pyramid_discount=0.4),
        "text_encoder": TextEncoderConfig(
            train_text_encoder="both",
            clip_l_learning_rate=5e-5,
            clip_g_learning_rate=5e-5,
            weight_decay=0.1,
        ),
    }
    for name, section in expected.items():
        assert loaded.sections[name] == section, name
    assert loaded.sections["run"].gradient_accumulation == 2
    assert (loaded.steps, loaded.batch_size, loaded.seed) == (1000, 4, 1234)
    notes = " ".join(loaded.notes)
    assert "conv_dim is 8, but here convolutions have the rank of all layers, 64" in notes
    assert "text encoder" not in notes


@pytest.mark.parametrize(
    ("text", "trained", "rates", "note"),
    [
        ("None", "off", (0, 0), "does not tell whether the text encoders were trained"),
        ("0.0", "off", (0, 0), ""),
        ("2e-05", "both", (2e-5, 2e-5), ""),
        ("[2e-05]", "both", (2e-5, 2e-5), ""),
        ("[2e-05, 1e-05]", "both", (2e-5, 1e-5), ""),
        ("[2e-05, 0.0]", "clip_l", (2e-5, 0), ""),
        ("[0.0, 1e-05]", "clip_g", (0, 1e-5), ""),
        ("[1, 2, 3]", "off", (0, 0), "ss_text_encoder_lr is '[1, 2, 3]', which cannot be read"),
        ("high", "off", (0, 0), "ss_text_encoder_lr is 'high', which cannot be read"),
    ],
)
def test_kohyas_rates_of_the_text_encoders_tell_which_were_trained(text, trained, rates, note):
    loaded = settings_of_metadata({**KOHYA, "ss_text_encoder_lr": text}, "kohya.safetensors")
    section = loaded.sections["text_encoder"]
    assert section.train_text_encoder == trained
    assert (section.clip_l_learning_rate, section.clip_g_learning_rate) == rates
    said = [one for one in loaded.notes if "text_encoder" in one or "text encoder" in one]
    assert len(said) == bool(note)
    assert note in "".join(said)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("torch.optim.adamw.AdamW", "adamw"),
        ("prodigyopt.prodigy.Prodigy(d_coef=2.0,decouple=True,safeguard_warmup=False)", "prodigy"),
        (
            "prodigyplus.prodigy_plus_schedulefree.ProdigyPlusScheduleFree(d0=1e-05)",
            "prodigy_plus_schedule_free",
        ),
        ("transformers.optimization.Adafactor(eps=(1e-30, 0.001))", "adafactor"),
        ("lion_pytorch.lion_pytorch.Lion", "lion"),
        ("torch.optim.sgd.SGD(momentum=0.9)", "sgd"),
    ],
)
def test_kohyas_optimizers_are_known_by_their_class(text, name):
    loaded = settings_of_metadata({**KOHYA, "ss_optimizer": text}, "kohya.safetensors")
    assert loaded.sections["optimizer"].optimizer == name
    assert not any("optimizer" in note for note in loaded.notes)
    prodigy = loaded.sections["prodigy"]
    if "d_coef" in text:
        assert (prodigy.d_coef, prodigy.safeguard_warmup) == (2.0, False)
    if "d0" in text:
        assert prodigy.d0 == 1e-5


@pytest.mark.parametrize(
    ("arguments", "adapter"),
    [
        ('{"algo": "loha"}', "loha"),
        ('{"algo": "lokr", "factor": "4"}', "lokr"),
        ('{"dora_wd": "True"}', "dora"),
    ],
)
def test_lycoris_kinds_are_known_by_their_algorithm(arguments, adapter):
    entries = {**KOHYA, "ss_network_module": "lycoris.kohya", "ss_network_args": arguments}
    lora = settings_of_metadata(entries, "lycoris.safetensors").sections["lora"]
    assert lora.adapter == adapter
    assert lora.lokr_factor == (4 if adapter == "lokr" else LoRAConfig().lokr_factor)


def test_what_kohyas_file_does_not_tell_is_said():
    loaded = settings_of_metadata(
        {"ss_network_dim": "many", "ss_optimizer": "x.CAME", "ss_network_module": "networks.oft"}, "odd"
    )
    notes = " ".join(loaded.notes)
    assert "ss_network_dim is 'many', which is no number" in notes
    assert "the optimizer is CAME, which is not known here" in notes
    assert "the network is networks.oft" in notes
    assert "not in the file: steps, batch_size, seed, rank, alpha" in notes
    assert (loaded.steps, loaded.batch_size, loaded.seed) == (0, 0, 42)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [({}, "holds no settings"), ({SETTINGS_KEY: "{"}, "are damaged"), ({SETTINGS_KEY: "[]"}, "are damaged")],
)
def test_a_file_without_settings_is_refused(metadata, message):
    with pytest.raises(InputError, match=message):
        settings_of_metadata(metadata, "empty.safetensors")


def test_settings_of_a_finished_lora_resolve_to_the_same_run(tiny_run, tmp_path):
    from sdxl_trainer.trainer.runs.run import train
    from sdxl_trainer.trainer.settings.presets import Settings, Widgets, resolve

    job = tiny_run.tiny_job(tmp_path, steps=3, seed=7, batch_size=2, lora={"alpha": 1.0})
    first = train(job, tiny_run.TinyModel(), tiny_run.SilentListener())
    loaded = settings_of_file(first.lora_path)
    widgets = Widgets(
        name=job.config.name, steps=loaded.steps, batch_size=loaded.batch_size, seed=loaded.seed
    )
    config = resolve("style", widgets, Settings(**loaded.sections), job.dataset)
    again = train(dataclasses.replace(job, config=config), tiny_run.TinyModel(), tiny_run.SilentListener())
    assert again.lora_path == first.lora_path
    assert (first.trained_steps, again.trained_steps) == (3, 0)


def test_a_file_never_decides_where_to_log_publish_or_resume():
    config = TrainConfig(
        name="x",
        steps=3,
        run=RunConfig(resume_from_step=2),
        logging=LoggingConfig(hub_model_id="somebody/else", tracker="wandb", hub_private=False),
    )
    text = json.dumps({"train": config.to_json(), "dataset": {}})
    loaded = settings_of_metadata({SETTINGS_KEY: text}, "x.safetensors")
    assert loaded.sections["logging"] == LoggingConfig()
    assert loaded.sections["run"].resume_from_step == 0
