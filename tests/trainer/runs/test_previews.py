"""Pictures on the way: when, from what noise, and that a run does not hang on them."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sdxl_trainer.trainer.data.captions import literal_prompt
from sdxl_trainer.trainer.errors import CancelledError, InputError
from sdxl_trainer.trainer.runs.drawings import newest_pictures

EVERY_2 = {"preview_every": 2, "steps": 2, "prompts": "a cat\n\n  a dog  "}


def drawn(folder):
    return sorted(path.name for path in (folder / "runs" / "cat" / "samples").iterdir())


def files_of(*steps, prompts=2):
    return [f"step-{step:06d}-{n:02d}.png" for step in steps for n in range(prompts)]


def test_pictures_of_every_prompt_before_the_first_step_on_the_way_and_at_the_end(tiny_run, tmp_path):
    listener = tiny_run.StopAfter()
    result = tiny_run.run_tiny(tmp_path, listener, steps=5, preview=EVERY_2)
    assert drawn(tmp_path) == files_of(0, 2, 4, 5)
    assert listener.drawn == [(step, files_of(step)) for step in (0, 2, 4, 5)]
    assert result.samples_folder == tmp_path / "runs" / "cat" / "samples"
    assert [path.name for path in newest_pictures(result.samples_folder)] == files_of(5)


def test_same_noise_each_time_and_the_first_is_the_model_without_its_lora(tiny_run, tmp_path):
    tiny_run.run_tiny(tmp_path, preview=EVERY_2, optimizer={"learning_rate": 0.3})
    model = tiny_run.TinyModel()
    config = tiny_run.tiny_config(preview=EVERY_2).preview
    with model.open_denoiser(0) as denoiser:
        encoded = model.encode_prompts(["a cat", "a dog"], "")
        plain = model.draw(denoiser, encoded, config, tiny_run.SIZE)
    folder = tmp_path / "runs" / "cat" / "samples"
    before = [Image.open(folder / name).tobytes() for name in files_of(0)]
    after = [Image.open(folder / name).tobytes() for name in files_of(6)]
    assert before == [picture.tobytes() for picture in plain]
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_none_are_drawn_unless_asked_for(tiny_run, tmp_path):
    listener = tiny_run.StopAfter()
    tiny_run.run_tiny(tmp_path, listener)
    assert listener.drawn == []
    assert not (tmp_path / "runs" / "cat" / "samples").exists()


def test_a_run_with_pictures_trains_the_very_same_numbers(tiny_run, tmp_path):
    values = {"lora": {"dropout": 0.3}, "optimizer": {"learning_rate": 1e-2, "ema_decay": 0.9}}
    plain = tiny_run.run_tiny(tmp_path / "a", **values)
    shown = tiny_run.run_tiny(tmp_path / "b", preview={"preview_every": 1, "steps": 1}, **values)
    first, second = load_file(plain.lora_path), load_file(shown.lora_path)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_pictures_do_not_make_another_run(tiny_run, tmp_path):
    first = tiny_run.run_tiny(tmp_path)
    second = tiny_run.run_tiny(tmp_path, preview=EVERY_2)
    assert (second.name, second.trained_steps, second.lora_path) == ("cat", 0, first.lora_path)


def test_without_prompts_a_caption_is_drawn_in_the_most_frequent_size(tiny_run, tmp_path):
    asked = []

    class Asked(tiny_run.TinyModel):
        def encode_prompts(self, prompts, negative):
            asked.append((prompts, negative))
            return super().encode_prompts(prompts, negative)

        def draw(self, denoiser, encoded_prompts, preview, size):
            asked.append(size)
            return super().draw(denoiser, encoded_prompts, preview, size)

    values = {"preview_every": 9, "steps": 1, "negative": "blurry"}
    tiny_run.run_tiny(tmp_path, model=Asked(), steps=1, preview=values)
    dataset = tiny_run.tiny_dataset(tmp_path)
    assert asked[0] == (["picture 0"], "blurry")
    assert asked[1] == max(dataset.buckets, key=dataset.samples_by_bucket.get)
    tiny_run.run_tiny(tmp_path / "b", model=Asked(), steps=1, preview={**values, "width": 96, "height": 72})
    assert asked[-1] == (96, 72)


def test_a_caption_as_prompt_keeps_its_parentheses():
    assert literal_prompt("a cat (orange:1.2) \\(old\\), embedding:x") == (
        "a cat \\(orange:1.2\\) \\(old\\), embedding :x"
    )


def test_a_picture_that_fails_is_noted_once_and_ends_nothing(tiny_run, tmp_path):
    class Broken(tiny_run.TinyModel):
        def draw(self, denoiser, encoded_prompts, preview, size):
            raise RuntimeError("CUDA out of memory")

    plain = tiny_run.run_tiny(tmp_path / "a")
    listener = tiny_run.StopAfter()
    result = tiny_run.run_tiny(tmp_path / "b", listener, Broken(), preview=EVERY_2)
    assert result.trained_steps == 6
    assert listener.drawn == []
    says = "the preview of step 0 could not be drawn (RuntimeError: CUDA out of memory)"
    assert result.report.count("could not be drawn") == result.report.count(says) == 1
    first, second = load_file(plain.lora_path), load_file(result.lora_path)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_settings_that_cannot_be_drawn_end_the_run_only_before_its_first_step(tiny_run, tmp_path):
    class Choosy(tiny_run.TinyModel):
        def draw(self, denoiser, encoded_prompts, preview, size):
            if preview.sampler != "euler":
                raise InputError(f"sampler is '{preview.sampler}', but there is only 'euler'")
            return super().draw(denoiser, encoded_prompts, preview, size)

    dpm = {**EVERY_2, "sampler": "dpmpp_2m"}
    with pytest.raises(InputError, match="sampler is 'dpmpp_2m', but there is only 'euler'"):
        tiny_run.run_tiny(tmp_path / "a", model=Choosy(), preview=dpm)
    assert not (tmp_path / "a" / "loras" / "cat.safetensors").exists()

    with pytest.raises(CancelledError):
        tiny_run.run_tiny(tmp_path / "b", tiny_run.StopAfter(3))
    result = tiny_run.run_tiny(tmp_path / "b", model=Choosy(), preview=dpm)
    assert (result.resumed_from, result.steps) == (3, 6)
    assert "there is only 'euler'" in result.report


def test_an_exception_of_the_host_passes_through_with_all_steps_saved(tiny_run, tmp_path):
    class HostInterruptError(Exception):
        pass

    class Interrupted(tiny_run.TinyModel):
        def draw(self, denoiser, encoded_prompts, preview, size):
            if any(path.name.startswith("step-000000") for path in samples.glob("*.png")):
                raise HostInterruptError
            return super().draw(denoiser, encoded_prompts, preview, size)

    samples = tmp_path / "runs" / "cat" / "samples"
    with pytest.raises(HostInterruptError):
        tiny_run.run_tiny(tmp_path, model=Interrupted(), preview=EVERY_2)
    result = tiny_run.run_tiny(tmp_path, preview=EVERY_2)
    assert result.resumed_from == 2
    assert drawn(tmp_path) == files_of(0, 2, 4, 6)


def test_a_resumed_run_draws_what_is_missing_and_drops_what_lies_ahead(tiny_run, tmp_path):
    with pytest.raises(CancelledError):
        tiny_run.run_tiny(tmp_path, tiny_run.StopAfter(3), preview=EVERY_2)
    samples = tmp_path / "runs" / "cat" / "samples"
    (samples / "step-000004-00.png").write_bytes(b"of a run that was killed later")
    (samples / "notes.png").write_bytes(b"not ours")
    listener = tiny_run.StopAfter()
    tiny_run.run_tiny(tmp_path, listener, preview=EVERY_2)
    assert [step for step, _ in listener.drawn] == [4, 6]
    assert Image.open(samples / "step-000004-00.png").size
    assert (samples / "notes.png").exists()


def test_pictures_are_told_apart_from_the_log(tiny_run, tmp_path):
    tiny_run.run_tiny(tmp_path, preview=EVERY_2)
    lines = [json.loads(x) for x in (tmp_path / "runs/cat/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_pictures_of_other_prompts_are_put_aside_and_not_taken_for_this_runs(tiny_run, tmp_path):
    samples = tmp_path / "runs" / "cat" / "samples"
    samples.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (9, 9)).save(samples / f"step-000000-{number:02d}.png")
    result = tiny_run.run_tiny(tmp_path, preview={"prompts": "a dog\na bird", "preview_every": 3})
    assert result.samples_folder == samples
    assert len(list((samples / "earlier-1").glob("*.png"))) == 3
    assert len(list(samples.glob("step-000000-*.png"))) == 2
    with Image.open(samples / "step-000000-00.png") as picture:
        assert picture.size != (9, 9)
