"""Train SDXL LoRA as ComfyUI calls it: settings from the sockets, a LoRA to start from, samples as asked."""

import gc
import json

import pytest
import torch


@pytest.fixture
def folders(tmp_path, monkeypatch, loras_folder):
    """Output and temporary folders of ComfyUI inside tmp_path; the loras folder."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return loras_folder


@pytest.fixture
def train(stand_in, example_folder, folders):
    from sdxl_trainer.nodes.train import TrainSDXLLoRA
    from sdxl_trainer.trainer.config import DatasetConfig, LoRAConfig
    from sdxl_trainer.trainer.data.dataset import load_dataset

    dataset = load_dataset(example_folder, DatasetConfig(resolution=64, trigger="zorp"))
    widgets = {
        "name": "cat",
        "preset": "object",
        "steps": 2,
        "epochs": 0,
        "rank": 0,
        "alpha": 0.0,
        "targets": "preset",
        "learning_rate": 0.0,
        "batch_size": 0,
        "seed": 1,
        "resume": "auto",
        "lora_settings": LoRAConfig(rank=4, alpha=2.0),
    }

    def run(**changes):
        with torch.inference_mode():
            return TrainSDXLLoRA.execute(*stand_in, dataset, **{**widgets, **changes}).args

    return run


def test_samples_have_the_sampler_and_size_of_the_preview_settings(train, stand_in):
    from sdxl_trainer.nodes.comfy_bridge.preview import sample_preview
    from sdxl_trainer.trainer.config import PreviewConfig

    preview = PreviewConfig(
        prompts="a zorp\na cat", steps=3, sampler="dpmpp_2m", scheduler="karras", width=96, height=64
    )
    model, clip, _, _, samples, *_ = train(preview_settings=preview)
    assert samples.shape == (2, 64, 96, 3)
    prompts = preview.prompts.splitlines()
    assert torch.equal(samples, sample_preview(model, clip, stand_in[2], prompts, preview, (96, 64)))
    euler = PreviewConfig(prompts=preview.prompts, steps=3)
    assert not torch.equal(samples, sample_preview(model, clip, stand_in[2], prompts, euler, (96, 64)))


def test_what_the_panel_keeps_of_a_run_keeps_no_model_alive(train, folders):
    from sdxl_trainer.nodes.browser.live_runs import RUNS
    from sdxl_trainer.trainer.errors import InputError

    train()
    done = RUNS.newest_first()[0]
    with pytest.raises(InputError):
        train(name="a/b")
    failed = RUNS.newest_first()[0]
    assert (done.light()["state"], failed.light()["state"]) == ("done", "failed")
    assert done.light()["step"] == len(done.full()["history"]["step"]) == 2
    assert kinds_reachable(done) | kinds_reachable(failed) <= PLAIN


PLAIN = {
    *("LiveRun", "LossHistory", "_Point", "AskedWishes", "RunStart", "RunEvents", "Condition", "RLock"),
    *("bool", "int", "float", "str", "NoneType", "dict", "list", "set", "deque", "tuple", "method", "lock"),
    *("PosixPath", "WindowsPath"),
}


def kinds_reachable(run):
    """Names of the types of all that a run holds on to; functions and classes hold the program itself."""
    seen, left, kinds = set(), [run], set()
    while left:
        one = left.pop()
        kind = type(one).__name__
        if id(one) in seen or isinstance(one, type) or kind in ("function", "builtin_function_or_method"):
            continue
        seen.add(id(one))
        kinds.add(kind)
        left += gc.get_referents(one)
    return kinds


def test_a_sampler_that_is_not_there_is_refused_before_training(train, folders):
    from sdxl_trainer.trainer.config import PreviewConfig
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match="sampler is 'eular'"):
        train(preview_settings=PreviewConfig(sampler="eular"))
    assert list(folders.iterdir()) == []


@pytest.mark.parametrize("wired", ["file name", "lora with a file", "tensors alone"])
def test_training_starts_from_a_wired_lora(train, folders, wired):
    from sdxl_trainer.nodes.lora_model import TrainedLoRA
    from sdxl_trainer.trainer.config import OptimizerConfig

    lora = train()[2]
    start = {"file name": lora.path.name, "lora with a file": TrainedLoRA(lora, lora.path)}
    still = OptimizerConfig(learning_rate=1e-9, weight_decay=0.0)
    continued = train(
        name="more", initial_lora=start.get(wired, dict(lora)), optimizer_settings=still, steps=1
    )[2]
    fresh = train(name="fresh", optimizer_settings=still, steps=1)[2]
    up = next(key for key in lora if key.endswith("lora_up.weight"))
    assert torch.allclose(continued[up].float(), lora[up].float(), atol=1e-6)
    assert not torch.allclose(fresh[up].float(), lora[up].float(), atol=1e-6)


def test_every_plugged_section_reaches_the_run(train, folders):
    import dataclasses

    from sdxl_trainer.trainer import config
    from sdxl_trainer.trainer.settings.settings_from_lora import settings_of_file

    sections = {
        "lora": config.LoRAConfig(rank=4, alpha=1.0),
        "optimizer": config.OptimizerConfig(learning_rate=2e-4, lr_schedule="polynomial"),
        "schedule": config.ScheduleConfig(power=2.0),
        "prodigy": config.ProdigyConfig(d_coef=0.5),
        "objective": config.ObjectiveConfig(loss="huber"),
        "noise": config.NoiseConfig(noise_offset=0.03),
        "prior": config.PriorConfig(prior_preservation="off"),
        "preview": config.PreviewConfig(steps=2, width=64, height=64),
        "validation": config.ValidationConfig(validation_share=0.2),
        "run": config.RunConfig(save_every=1),
        "logging": config.LoggingConfig(project="cats"),
        "text_encoder": config.TextEncoderConfig(train_text_encoder="clip_l", stop_fraction=0.5),
    }
    # new tokens are Pivotal Tuning's: test_pivotal_node.py
    assert sections.keys() == config.SECTIONS.keys() - {"pivotal"}
    path = train(**{f"{name}_settings": section for name, section in sections.items()})[2].path
    loaded = settings_of_file(path).sections
    # where a run is logged is not told by its file
    (record,) = folders.parent.rglob("config.json")
    logging = json.loads(record.read_text("utf-8"))["settings"]["logging"]
    loaded = {**loaded, "logging": config.LoggingConfig(**logging)}
    for name, section in sections.items():
        assert loaded[name] == section, name
        assert section != dataclasses.replace(type(section)()), name


@pytest.mark.parametrize("trained", ["off", "clip_l", "both"])
def test_clip_comes_out_with_the_layers_of_its_encoders_and_no_others(train, trained, stand_in):
    from sdxl_trainer.trainer.config import TextEncoderConfig

    rates = {"clip_l_learning_rate": 1e-2, "clip_g_learning_rate": 1e-2}
    _, clip, lora, _, _, report, _ = train(
        text_encoder_settings=TextEncoderConfig(train_text_encoder=trained, **rates)
    )
    expected = {"off": set(), "clip_l": {"clip_l"}, "both": {"clip_l", "clip_g"}}[trained]
    assert {key.split(".")[0] for key in clip.patcher.patches} == expected
    assert {key[:8] for key in lora if key.startswith("lora_te")} == {
        {"clip_l": "lora_te1", "clip_g": "lora_te2"}[name] for name in expected
    }
    assert f"{len(clip.patcher.patches)} of CLIP" in report
    assert stand_in[1].patcher.patches == {}
