"""Pivotal Tuning as ComfyUI calls it: a word is learned, then a LoRA; files, wires, Cancel, bad input."""

import json
from dataclasses import replace

import pytest
import torch

STEPS = 4
PIVOT = 2


@pytest.fixture
def folders(tmp_path, monkeypatch, loras_folder):
    """All of ComfyUI's folders that a run writes to, inside tmp_path; the one that holds them."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    (tmp_path / "embeddings").mkdir()
    embeddings = {"embeddings": ([str(tmp_path / "embeddings")], {".safetensors"})}
    monkeypatch.setattr(
        folder_paths, "folder_names_and_paths", folder_paths.folder_names_and_paths | embeddings
    )
    return tmp_path


@pytest.fixture
def train(stand_in, example_folder, folders):
    from sdxl_trainer.nodes.pivotal import PivotalTuning
    from sdxl_trainer.trainer.config import DatasetConfig, LoRAConfig, OptimizerConfig, PreviewConfig
    from sdxl_trainer.trainer.data.dataset import load_dataset

    widgets = {
        "name": "cat",
        "preset": "object",
        "token": "zorp",
        "new_tokens": 0,
        "ti_fraction": 0.0,
        "steps": STEPS,
        "rank": 0,
        "learning_rate": 0.0,
        "token_learning_rate": 0.0,
        "batch_size": 0,
        "seed": 1,
        "resume": "auto",
        "lora_settings": LoRAConfig(rank=4, alpha=2.0),
        "optimizer_settings": OptimizerConfig(learning_rate=1e-3, lr_schedule="constant"),
        "preview_settings": PreviewConfig(prompts="a zorp", steps=2, width=64, height=64),
    }

    def run(captions=None, clip=None, **changes):
        dataset = load_dataset(example_folder, DatasetConfig(resolution=64))
        if captions is not None:
            pictures = [replace(picture, captions=(captions,)) for picture in dataset.pictures]
            dataset = replace(dataset, pictures=tuple(pictures), fingerprint=f"all {captions}")
        with torch.inference_mode():
            wires = (stand_in[0], clip or stand_in[1], stand_in[2], dataset)
            values = PivotalTuning.execute(*wires, **{**widgets, **changes}).args
        return dict(zip([o.id for o in PivotalTuning.define_schema().outputs], values, strict=True))

    return run


@pytest.fixture
def cancel_at(monkeypatch):
    """Press ComfyUI's Cancel when this step of the next run is done."""
    import comfy.model_management
    from sdxl_trainer.nodes.comfy_bridge.run_listener import RunListener

    class Pressed(RunListener):
        step_to_press = 0

        def step(self, report):
            if report.step == Pressed.step_to_press:
                Pressed.step_to_press = 0
                comfy.model_management.interrupt_current_processing()
            super().step(report)

    def press(step):
        Pressed.step_to_press = step
        monkeypatch.setattr("sdxl_trainer.nodes.training_node.RunListener", Pressed)

    yield press
    comfy.model_management.interrupt_current_processing(False)


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def steps_logged(folders, name="cat"):
    lines = (folders / "output" / "sdxl_trainer" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def encode(clip, prompt):
    with torch.inference_mode():
        return clip.encode_from_tokens(clip.tokenize(prompt))


def test_a_run_gives_a_lora_an_embedding_and_a_clip_that_knows_the_word(train, folders, stand_in):
    from safetensors.torch import load_file

    found = train()
    assert found["lora_file"] == "cat.safetensors"
    assert found["embedding"] == "cat_emb"
    assert files_in(folders / "loras") == ["cat.safetensors"]
    assert files_in(folders / "embeddings") == ["cat_emb.safetensors"]
    vectors = load_file(folders / "embeddings" / "cat_emb.safetensors")
    assert {name: len(rows) for name, rows in vectors.items()} == {"clip_l": 2, "clip_g": 2}
    assert found["samples"].shape == (1, 64, 64, 3)
    assert "every key fits" in found["report"]
    assert "cat_emb" in found["report"]
    assert "sampling with it failed" not in found["report"]
    knowing, plain = encode(found["trained_clip"], "a zorp"), encode(stand_in[1], "a zorp")
    assert not torch.allclose(knowing, plain, atol=1e-3)
    assert torch.equal(encode(found["trained_clip"], "a cat"), encode(stand_in[1], "a cat"))


def test_the_samples_are_drawn_with_the_word(train, stand_in):
    from sdxl_trainer.nodes.comfy_bridge.preview import sample_preview
    from sdxl_trainer.trainer.config import PreviewConfig

    preview = PreviewConfig(prompts="a zorp", steps=2, width=64, height=64)
    found = train(preview_settings=preview)
    model, clip = found["trained_model"], found["trained_clip"]
    drawn = [
        sample_preview(model, c, stand_in[2], ["a zorp"], preview, (64, 64)) for c in (clip, stand_in[1])
    ]
    assert torch.equal(found["samples"], drawn[0])
    assert not torch.equal(found["samples"], drawn[1])


def test_apply_lora_gives_the_same_wires_from_the_file(train, stand_in):
    from sdxl_trainer.nodes.apply import ApplyLoRA

    found = train()
    with torch.inference_mode():
        _, clip, words, _ = ApplyLoRA.execute(*stand_in[:2], found["lora_file"], 1.0, 1.0, 0).args
    assert torch.equal(encode(clip, "a (zorp:1.2)"), encode(found["trained_clip"], "a (zorp:1.2)"))
    assert "zorp" in words


def test_queueing_again_trains_nothing(train, folders):
    first = train()
    written = {path: path.stat().st_mtime_ns for path in folders.rglob("*.safetensors")}
    again = train()
    assert {path: path.stat().st_mtime_ns for path in folders.rglob("*.safetensors")} == written
    assert steps_logged(folders) == list(range(1, STEPS + 1))
    assert again["embedding"] == first["embedding"]
    assert torch.equal(encode(again["trained_clip"], "a zorp"), encode(first["trained_clip"], "a zorp"))


@pytest.mark.parametrize("step", [PIVOT - 1, PIVOT, PIVOT + 1])
def test_cancel_saves_before_and_after_the_pivot_and_queueing_goes_on(train, folders, cancel_at, step):
    import comfy.model_management
    from safetensors.torch import load_file

    cancel_at(step)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train()
    assert files_in(folders / "embeddings") == [f"cat-step{step:06d}_emb.safetensors"]
    train()
    assert steps_logged(folders) == list(range(1, STEPS + 1))
    train(name="whole")
    for kind, name in (("loras", "{}.safetensors"), ("embeddings", "{}_emb.safetensors")):
        cancelled, whole = (load_file(folders / kind / name.format(run)) for run in ("cat", "whole"))
        assert cancelled.keys() == whole.keys()
        assert all(torch.equal(cancelled[key], whole[key]) for key in whole)


def test_several_words_have_an_embedding_each_and_one_together(train, folders):
    from sdxl_trainer.trainer.config import PivotalConfig

    found = train(token="zorp, background", pivotal_settings=PivotalConfig(new_tokens="1, 2"))
    names = ["cat_emb.safetensors", "cat_emb_background.safetensors", "cat_emb_zorp.safetensors"]
    assert files_in(folders / "embeddings") == names
    assert found["embedding"] == "cat_emb_zorp, cat_emb_background"


def test_tokens_alone_are_a_whole_run(train, folders, stand_in):
    found = train(ti_fraction=1.0)
    assert found["embedding"] == "cat_emb"
    assert not found["trained_model"].patches
    assert not torch.allclose(
        encode(found["trained_clip"], "a zorp"), encode(stand_in[1], "a zorp"), atol=1e-3
    )


def test_the_text_encoders_lora_reaches_the_clip_that_comes_out(train, stand_in):
    from sdxl_trainer.trainer.config import TextEncoderConfig

    found = train(text_encoder_settings=TextEncoderConfig(train_text_encoder="both"))
    assert found["trained_clip"].patcher.patches
    assert not torch.equal(encode(found["trained_clip"], "a cat"), encode(stand_in[1], "a cat"))


def test_the_pivotal_settings_reach_the_run_below_what_is_set_on_the_node(train):
    from sdxl_trainer.trainer.config import PivotalConfig
    from sdxl_trainer.trainer.settings.settings_from_lora import settings_of_file

    settings = PivotalConfig(
        token="zorp",
        new_tokens="3",
        initial_words="circle",
        ti_fraction=0.25,
        learning_rate=5e-4,
        optimizer="sgd",
        weight_decay=0.01,
        norm_pull=0.2,
        train_first="tokens+lora",
        add_token=True,
        bundle=True,
    )
    found = train(pivotal_settings=settings, new_tokens=2, token_learning_rate=1e-3)
    trained = settings_of_file(found["lora"].path).sections["pivotal"]
    assert trained == replace(settings, new_tokens="2", learning_rate=1e-3)
    found = train(name="own", token="", pivotal_settings=settings)
    assert settings_of_file(found["lora"].path).sections["pivotal"] == settings


def test_a_common_word_is_only_warned_of(train):
    report = train(captions="a large red zorp", token="red")["report"]
    assert "token 'red' is one known token of CLIP (red)" in report


def test_a_foreign_file_of_the_same_name_in_another_folder_changes_nothing(
    train, folders, stand_in, monkeypatch
):
    import folder_paths
    from safetensors.torch import load_file, save_file
    from sdxl_trainer.nodes import training_node

    own, other = folders / "embeddings", folders / "other"
    first = train()
    foreign = {name: rows + 1 for name, rows in load_file(own / "cat_emb.safetensors").items()}
    other.mkdir()
    save_file(foreign, other / "cat_emb.safetensors")
    both = {"embeddings": ([str(other), str(own)], {".safetensors"})}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", folder_paths.folder_names_and_paths | both)
    # as where the first folder cannot be written, which no folder is to the user of a test machine
    monkeypatch.setattr(training_node, "embeddings_folder", lambda: own)
    again = train()
    assert torch.equal(encode(again["trained_clip"], "a zorp"), encode(first["trained_clip"], "a zorp"))
    assert "of another run" not in again["report"]


def test_a_clip_that_knows_words_is_refused_before_anything_is_written(train, folders, stand_in):
    from sdxl_trainer.nodes.comfy_bridge.new_words import clip_with_words
    from sdxl_trainer.trainer.errors import InputError
    from sdxl_trainer.trainer.files.embedding_file import WordVectors

    vectors = {"clip_l": torch.ones(2, 16), "clip_g": torch.ones(2, 24)}
    taught = clip_with_words(stand_in[1], WordVectors({"zorp": vectors}))
    with pytest.raises(InputError, match="clip knows the word zorp from a LoRA in front"):
        train(clip=taught)
    assert files_in(folders / "loras") == files_in(folders / "embeddings") == []
    assert not (folders / "output" / "sdxl_trainer" / "cat").exists()


BAD = {
    "no caption holds it": ({"token": "TOK"}, "TOK"),
    "dot": ({"name": "my.cat"}, "my.cat"),
    "space": ({"name": "my cat"}, "my cat"),
    "no token": ({"token": " "}, "token is empty"),
    "same word twice": ({"token": "zorp, Zorp"}, "(?i)zorp"),
    "two words in one": ({"token": "a zorp"}, "a zorp"),
    "too many tokens": ({"new_tokens": 76}, "76"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_before_training(train, folders, case):
    from sdxl_trainer.trainer.errors import InputError

    changes, said = BAD[case]
    with pytest.raises(InputError, match=said) as refused:
        train(**changes)
    assert len(str(refused.value).splitlines()) == 1
    assert files_in(folders / "loras") == files_in(folders / "embeddings") == []
    assert not (folders / "output" / "sdxl_trainer" / "cat" / "metrics.jsonl").exists()


def test_more_new_tokens_than_a_window_holds_are_refused(train):
    from sdxl_trainer.trainer.config import PivotalConfig
    from sdxl_trainer.trainer.errors import InputError

    settings = PivotalConfig(token="zorp, background", new_tokens="40, 36")
    with pytest.raises(InputError, match="76"):
        train(token="", pivotal_settings=settings)


def test_a_fraction_outside_its_range_is_refused_on_the_settings_node():
    from sdxl_trainer.nodes.settings import PivotalSettings
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match=r"ti_fraction.*1\.5"):
        PivotalSettings.execute(ti_fraction=1.5)
