"""The command line, in this process; tests/trainer/test_faults.py kills whole ones."""

import importlib
import json

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file


@pytest.fixture
def command():
    return importlib.import_module("sdxl_trainer.trainer.__main__")


@pytest.fixture
def arguments(tiny_run, tmp_path):
    pictures = tiny_run.draw_pictures(tmp_path / "noise", 2)
    output = tmp_path / "out"
    fixed = ["--resolution", "64", "--rank", "2", "--targets", "attention", "--seed", "1", "--device", "cpu"]
    return ["--data", str(pictures), "--output", str(output), *fixed]


def test_trains_on_the_stand_in_and_draws_the_sheet(command, arguments, tmp_path, capsys):
    sheet = tmp_path / "sheets" / "sheet.png"
    options = ["--steps", "2", "--name", "zyx", "--sheet", str(sheet), "--prompts", "a red circle", "noise"]
    assert command.main([*arguments, *options]) == 0
    assert load_file(tmp_path / "out" / "loras" / "zyx.safetensors")
    width, height = Image.open(sheet).size
    assert width > 2 * 200
    assert height > 2 * 200
    said = capsys.readouterr().out
    assert "rank 2 (node)" in said
    assert "trained 2 steps" in said
    page = tmp_path / "out" / "sdxl_trainer" / "zyx" / "report.html"
    assert page.exists()
    assert said.rstrip().endswith(f", {page}")


def test_a_report_that_could_not_be_written_is_not_said_to_be(command, arguments, monkeypatch, capsys):
    import sdxl_trainer.trainer.report.write_report as write_report

    def fail(facts):
        raise ValueError("odd numbers")

    assert command.main([*arguments, "--steps", "1", "--name", "zyx"]) == 0
    assert "report.html" in capsys.readouterr().out
    monkeypatch.setattr(write_report, "html_report", fail)
    assert command.main([*arguments, "--steps", "2", "--name", "zyx"]) == 0
    assert "report.html could not be written (ValueError: odd numbers)" in (said := capsys.readouterr().out)
    assert said.rstrip().endswith("zyx-2.safetensors")


def test_bad_input_is_one_sentence_and_status_1(command, arguments, capsys):
    assert command.main([*arguments, "--steps", "2", "--name", "a/b"]) == 1
    said = capsys.readouterr().err
    assert "error: name 'a/b' holds /" in said
    assert "Traceback" not in said


def test_stopped_is_status_130_and_the_same_command_goes_on(
    command, arguments, tmp_path, monkeypatch, capsys
):
    class Stopping(command.TerminalListener):
        def step(self, report):
            super().step(report)
            if report.step == 2:
                self.stop()

    monkeypatch.setattr(command, "TerminalListener", Stopping)
    assert command.main([*arguments, "--steps", "3"]) == 130
    assert "kept in noise-step000002.safetensors" in capsys.readouterr().err
    monkeypatch.undo()
    assert command.main([*arguments, "--steps", "3"]) == 0
    assert "went on from step 2" in capsys.readouterr().out


def test_settings_of_every_kind_reach_the_run(command, arguments, tmp_path, capsys):
    """A LoRA's own settings, then flags, with a part held out and previews on the way."""
    first = ["--steps", "2", "--name", "one", "--adapter", "loha", "--set", "noise.noise_offset=0.05"]
    assert command.main([*arguments, *first]) == 0
    one = tmp_path / "out" / "loras" / "one.safetensors"
    again = ["--config", str(one), "--name", "two", "--set", "preview.steps=2", "--prompts", "a red circle"]
    again += ["--validation-share", "0.5", "--preview-every", "1", "--optimizer", "lion", "--batch-size", "1"]
    assert command.main([*arguments, *again]) == 0
    said = capsys.readouterr().out
    for part in ("adapter loha (LoRA settings)", "optimizer lion", "noise offset 0.05", "trained 2 steps"):
        assert part in said
    folder = tmp_path / "out" / "sdxl_trainer" / "two"
    settings = json.loads((folder / "config.json").read_text())["settings"]
    assert settings["noise"]["noise_offset"] == 0.05
    assert sorted(path.name for path in (folder / "samples").iterdir()) == [
        f"step-{step:06d}-00.png" for step in (0, 1, 2)
    ]


def test_starts_from_a_lora_and_leaves_out_what_is_transparent(command, arguments, tmp_path, capsys):
    pictures = tmp_path / "noise"
    for path in pictures.glob("*.png"):
        picture = Image.open(path).convert("RGBA")
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        picture.save(path)
    assert command.main([*arguments, "--steps", "2", "--name", "one"]) == 0
    one = tmp_path / "out" / "loras" / "one.safetensors"
    capsys.readouterr()
    options = ["--start-from", str(one), "--masks", "alpha", "--steps", "1", "--name", "two"]
    assert command.main([*arguments, *options]) == 0
    said = capsys.readouterr().out
    assert "masks let in 50%" in said
    assert (tmp_path / "out" / "loras" / "two.safetensors").exists()


def test_class_images_are_drawn_once_and_used(command, arguments, tmp_path, capsys):
    classes = tmp_path / "classes"
    prior = ["--class-data", str(classes), "--class-prompt", "a red circle", "--num-class-images", "2"]
    assert command.main([*arguments, *prior, "--steps", "1", "--name", "one"]) == 0
    drawn = {path: path.read_bytes() for path in classes.iterdir()}
    assert len(drawn) == 2
    with safe_open(tmp_path / "out" / "loras" / "one.safetensors", "pt") as file:
        assert file.metadata()["ss_num_reg_images"] == "2"
    assert command.main([*arguments, *prior, "--steps", "1", "--name", "one"]) == 0
    assert "nothing was trained" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in classes.iterdir()} == drawn


def test_class_images_without_a_prompt_or_a_folder_are_refused(command, arguments, tmp_path, capsys):
    missing = ["--class-data", str(tmp_path / "classes"), "--steps", "1"]
    assert command.main([*arguments, *missing, "--num-class-images", "2"]) == 1
    assert "0 of 2 class images and class_prompt is empty" in capsys.readouterr().err
    assert command.main([*arguments, *missing]) == 1
    assert "class folder 'classes' is not there" in capsys.readouterr().err


def test_a_base_model_that_keeps_the_class_is_wished_for_in_one_word(command, arguments, tmp_path):
    options = [
        "--class-prompt",
        "a red circle",
        "--prior-loss-weight",
        "0.5",
        "--steps",
        "1",
        "--name",
        "one",
    ]
    assert command.main([*arguments, *options]) == 0
    config = json.loads((tmp_path / "out" / "sdxl_trainer" / "one" / "config.json").read_text())
    assert config["settings"]["prior"] == {
        "prior_preservation": "base_model",
        "prior_loss_weight": 0.5,
        "class_prompt": "a red circle",
    }


def test_new_words_and_text_encoders_are_trained_by_flags(command, arguments, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    words = ["--token", "TOK", "--new-tokens", "3", "--set", "pivotal.add_token=on"]
    text = ["--train-text-encoder", "clip_l", "--ti-fraction", "0.5", "--steps", "2", "--name", "one"]
    prompts = ["--sheet", str(sheet), "--prompts", "a photo of TOK"]
    assert command.main([*arguments, *words, *text, *prompts]) == 0
    said = capsys.readouterr().out
    for part in ("token TOK (node)", "tokens train to step 1 of 2", "CLIP-L rate 5e-05 (half of the UNet's)"):
        assert part in said
    assert "one.safetensors, " in said.splitlines()[-1]
    assert "one_emb.safetensors" in said.splitlines()[-1]
    vectors = load_file(tmp_path / "out" / "embeddings" / "one_emb.safetensors")
    assert {name: len(rows) for name, rows in vectors.items()} == {"clip_l": 3, "clip_g": 3}
    names = load_file(tmp_path / "out" / "loras" / "one.safetensors")
    assert {name.split("_")[1] for name in names} == {"unet", "te1"}
    assert sheet.exists()


def test_a_word_that_no_caption_holds_is_refused(command, arguments, capsys):
    assert command.main([*arguments, "--token", "TOK", "--steps", "2"]) == 1
    assert "token 'TOK' stands in none of the dataset's captions" in capsys.readouterr().err


def test_a_typing_error_is_one_sentence_before_anything_is_read(command, arguments, tmp_path, capsys):
    assert command.main([*arguments, "--set", "noise.noise_ofset=1"]) == 1
    assert "did you mean noise.noise_offset" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_check_writes_report_and_sheet_and_trains_nothing(command, arguments, tmp_path, capsys):
    assert command.main([*arguments, "--check", "object"]) == 0
    said = capsys.readouterr().out
    report = (tmp_path / "out" / "dataset_check" / "report.txt").read_text("utf-8")
    assert report.strip() and report.strip() in said
    assert Image.open(tmp_path / "out" / "dataset_check" / "sheet.png").size[0] > 200
    assert not (tmp_path / "out" / "loras").exists()


def test_the_check_looks_at_class_images_too(command, arguments, tmp_path, capsys):
    classes = tmp_path / "others"
    classes.mkdir()
    Image.new("RGB", (64, 64), "teal").save(classes / "teal.png")
    assert command.main([*arguments, "--check", "object", "--class-data", str(classes)]) == 0
    assert "class image" in capsys.readouterr().out
