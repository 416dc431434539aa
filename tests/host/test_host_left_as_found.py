"""Runs on ComfyUI's own objects: whatever happens, they are as they were, and sampling gives the same."""

import shutil
from typing import ClassVar

import pytest
import torch


@pytest.fixture
def run(stand_in, example_folder, tmp_path):
    """Train on the stand-in with any listener; returns the Result."""
    from sdxl_trainer.nodes.comfy_bridge.host_model import HostModel
    from sdxl_trainer.trainer.config import DatasetConfig, LoRAConfig, TrainConfig
    from sdxl_trainer.trainer.data.dataset import load_dataset
    from sdxl_trainer.trainer.runs.run import Job, train

    dataset = load_dataset(example_folder, DatasetConfig(resolution=128, trigger="zorp"))

    def start(listener, steps=3, targets="attention+ff+conv", **sections):
        lora = LoRAConfig(rank=4, targets=targets)
        config = TrainConfig(name="test", steps=steps, batch_size=2, lora=lora, **sections)
        job = Job(config=config, dataset=dataset, loras_folder=tmp_path, run_folder=tmp_path / "runs")
        with torch.inference_mode():  # as ComfyUI runs every node
            return train(job, HostModel(*stand_in, "stand-in"), listener)

    return start


@pytest.fixture
def silent():
    from sdxl_trainer.trainer.events import SilentListener

    return SilentListener


def sample(model, clip, vae):
    from sdxl_trainer.nodes.comfy_bridge.preview import sample_preview
    from sdxl_trainer.trainer.config import PreviewConfig

    return sample_preview(model, clip, vae, ["a red circle"], PreviewConfig(steps=3), (128, 128))


def test_after_a_run_host_and_sample_are_identical(run, silent, stand_in, host_state):
    picture, state = sample(*stand_in), host_state(*stand_in)
    result = run(silent())
    assert result.trained_steps == 3
    assert host_state(*stand_in) == state
    assert torch.equal(sample(*stand_in), picture)


def test_previews_on_the_way_leave_the_host_and_the_training_alone(
    run, silent, stand_in, host_state, tmp_path
):
    from PIL import Image
    from sdxl_trainer.trainer.config import PreviewConfig, ValidationConfig

    class Seeing(silent):
        drawn: ClassVar = {}

        def preview(self, step, pictures):
            self.drawn[step] = [Image.open(path).convert("RGB").tobytes() for path in pictures]

    picture, state = sample(*stand_in), host_state(*stand_in)
    validation = ValidationConfig(validation_share=0.2, validate_every=2)
    plain = run(silent(), validation=validation).lora_path.read_bytes()
    preview = PreviewConfig(prompts="a zorp\na cat", preview_every=1, steps=2, sampler="dpmpp_sde")
    (tmp_path / "test.safetensors").unlink()
    shutil.rmtree(tmp_path / "runs")
    seen = Seeing()
    drawn = run(seen, validation=validation, preview=preview)
    assert list(seen.drawn)[:3] == [0, 1, 2]
    assert {len(pictures) for pictures in seen.drawn.values()} == {2}
    assert seen.drawn[0] != seen.drawn[2]
    assert tensors_of(drawn.lora_path.read_bytes()) == tensors_of(plain)
    assert host_state(*stand_in) == state
    assert torch.equal(sample(*stand_in), picture)


def tensors_of(content):
    """The bytes of a safetensors file behind its header, which tells the settings too."""
    return content[8 + int.from_bytes(content[:8], "little") :]


def test_after_an_error_the_host_is_as_it_was(run, silent, stand_in, host_state):
    class Failing(silent):
        def step(self, report):
            raise ArithmeticError("a listener breaks")

    picture, state = sample(*stand_in), host_state(*stand_in)
    with pytest.raises(ArithmeticError):
        run(Failing())
    assert host_state(*stand_in) == state
    assert torch.equal(sample(*stand_in), picture)


def test_after_cancel_the_host_is_as_it_was_and_the_steps_are_kept(run, silent, stand_in, host_state):
    from sdxl_trainer.trainer.errors import CancelledError

    class Stopping(silent):
        steps = 0

        def step(self, report):
            self.steps = report.step

        def should_stop(self):
            return self.steps >= 1

    state = host_state(*stand_in)
    with pytest.raises(CancelledError) as caught:
        run(Stopping())
    assert caught.value.lora_path.exists()
    assert host_state(*stand_in) == state


def test_comfyuis_cancel_button_saves_first_and_is_then_passed_on(run, stand_in):
    import comfy.model_management
    from sdxl_trainer.nodes.comfy_bridge.progress import HostListener
    from sdxl_trainer.trainer.errors import CancelledError

    class Pressed(HostListener):
        def step(self, report):
            comfy.model_management.interrupt_current_processing()
            super().step(report)

    listener = Pressed(None)
    with pytest.raises(CancelledError) as caught:
        run(listener, steps=5)
    assert 1 <= caught.value.step < 5
    assert caught.value.lora_path.exists()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        listener.raise_interrupt()
    assert not comfy.model_management.processing_interrupted()


def test_a_cancel_that_the_progress_bar_swallows_is_not_lost():
    import comfy.model_management
    import comfy.utils
    from sdxl_trainer.nodes.comfy_bridge.progress import HostListener

    def pressed_just_now(*_, **__):
        comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()

    listener = HostListener(None)
    comfy.utils.set_progress_bar_global_hook(pressed_just_now)
    try:
        listener.phase("reading pictures", 1, 2)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert not comfy.model_management.processing_interrupted()
    assert listener.should_stop()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        listener.raise_interrupt()


def test_every_key_of_the_file_finds_its_place_and_changes_the_picture(run, silent, stand_in):
    from safetensors.torch import load_file
    from sdxl_trainer.nodes.comfy_bridge.lora_patches import apply_lora, check_keys

    picture = sample(*stand_in)
    tensors = load_file(run(silent()).lora_path)
    count = check_keys(*stand_in[:2], tensors, "test")
    assert (count.model, count.clip) == (len([k for k in tensors if k.endswith(".alpha")]), 0)
    model, clip = apply_lora(*stand_in[:2], tensors, 1.0, 1.0)
    assert len(model.patches) == count.model
    assert not torch.equal(sample(model, clip, stand_in[2]), picture)
    assert torch.equal(sample(*stand_in), picture)


def test_latents_equal_vae_encode_times_the_latent_format(stand_in):
    from sdxl_trainer.nodes.comfy_bridge.host_model import HostModel

    pixels = torch.rand(2, 3, 128, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        expected = stand_in[2].encode((pixels / 2 + 0.5).permute(0, 2, 3, 1)) * 0.13025
        latents = HostModel(*stand_in, "stand-in").encode_pixels(pixels)
    assert torch.allclose(latents, expected, atol=1e-6)
    assert latents.dtype == torch.float32
    assert not latents.is_inference()


def test_the_vae_agrees_with_the_headless_one(stand_in, stand_in_folder):
    from sdxl_trainer.nodes.comfy_bridge.host_model import HostModel
    from sdxl_trainer.trainer.sdxl.sdxl_model import HeadlessSDXL

    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    hosts = HostModel(*stand_in, "stand-in").encode_pixels(pixels)
    ours = HeadlessSDXL.load(stand_in_folder, "cpu", torch.float32).encode_pixels(pixels)
    assert ((ours - hosts).norm() / hosts.norm()).item() < 1e-4


def test_latents_that_overflow_are_encoded_again_in_float32(stand_in, loading):
    from sdxl_trainer.nodes.comfy_bridge.pixels import encode_pixels

    model = stand_in[0]
    half = loading.load_vae(dtype=torch.float16)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = encode_pixels(model, stand_in[2], pixels)
    rounded = encode_pixels(model, half, pixels)
    encode = half.encode

    def overflowing(images):
        latents = encode(images).clone()
        latents[1] = float("nan")
        return latents

    half.encode = overflowing
    latents = encode_pixels(model, half, pixels)
    assert torch.equal(latents[0], rounded[0])
    assert torch.allclose(latents[1], expected[1], atol=1e-5)
    assert not torch.allclose(rounded[1], expected[1], atol=1e-5)
    assert {p.dtype for p in half.first_stage_model.parameters()} == {torch.float16}


def test_what_acts_on_sampling_only_is_ignored_and_said(stand_in):
    from sdxl_trainer.nodes.comfy_bridge.host_model import HostModel

    model, clip, vae = stand_in
    patched = model.clone()
    patched.set_model_attn1_patch(lambda q, k, v, extra_options: (q, k, v))
    patched.set_model_sampler_cfg_function(lambda args: args["cond"])
    (note,) = HostModel(patched, clip, vae, "stand-in").notes
    assert note.startswith("ignored while training")
    assert "patches" in note
    assert "sampler_cfg_function" in note
    assert HostModel(model, clip, vae, "stand-in").notes == []
