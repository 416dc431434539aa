import dataclasses
import gc
import json
import shutil
import weakref

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import ImageChops
from safetensors.torch import load_file, save_file
from sdxl_trainer.trainer.config import NoiseConfig, ObjectiveConfig, PreviewConfig
from sdxl_trainer.trainer.diffusion.conditioning import (
    Batch,
    inference_time_ids,
    stack_conditions,
    stack_time_ids,
)
from sdxl_trainer.trainer.diffusion.noise_draw import draw_noise
from sdxl_trainer.trainer.diffusion.objective import denoising_losses
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.embedding_file import word_metadata, write_embeddings
from sdxl_trainer.trainer.sdxl.sdxl_model import HeadlessSDXL
from sdxl_trainer.trainer.sdxl.text_encoder import SDXLTextEncoder
from sdxl_trainer.trainer.text.new_tokens import NewTokens
from sdxl_trainer.trainer.text.token_vectors import with_vectors

WIDTHS = {"clip_l": 16, "clip_g": 24}
CAPTIONS = ["a large red circle on a blue background", ""]


@pytest.fixture(scope="module")
def folder_model(stand_in_folder):
    return HeadlessSDXL.load(stand_in_folder)


@pytest.fixture
def folder_copy(stand_in_folder, tmp_path):
    """A copy whose files may be changed; weights are links."""
    place = tmp_path / "copy"
    shutil.copytree(stand_in_folder, place, copy_function=lambda a, b: shutil.copy(a, b))
    return place


def predict(model, caption=CAPTIONS[0]):
    embeds, pooled = stack_conditions(model.encode_captions([caption]))
    latents = torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(0))
    batch = Batch(latents, embeds, pooled, stack_time_ids([inference_time_ids((96, 128))]))
    with model.open_denoiser(0) as denoiser, torch.no_grad():
        return denoiser.predict(latents, torch.tensor([321]), batch)


def test_a_single_file_gives_the_same_prediction_as_the_folder(folder_model, single_file):
    file_model = HeadlessSDXL.load(single_file)

    for one, other in zip(
        file_model.encode_captions(CAPTIONS), folder_model.encode_captions(CAPTIONS), strict=True
    ):
        assert torch.equal(one.prompt_embeds, other.prompt_embeds)
        assert torch.equal(one.pooled, other.pooled)
    assert torch.equal(predict(file_model), predict(folder_model))
    pixels = torch.rand(1, 3, 64, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(file_model.encode_pixels(pixels), folder_model.encode_pixels(pixels))
    assert file_model.title == "tiny.safetensors"


def test_prediction_equals_plain_diffusers(folder_model, stand_in_folder):
    unet = UNet2DConditionModel.from_pretrained(stand_in_folder / "unet").float().eval()
    (condition,) = folder_model.encode_captions([CAPTIONS[0]])
    latents = torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = unet(
            latents,
            torch.tensor([321]),
            condition.prompt_embeds[None],
            added_cond_kwargs={
                "text_embeds": condition.pooled[None],
                "time_ids": torch.tensor([[128.0, 96, 0, 0, 128, 96]]),
            },
        ).sample
    torch.testing.assert_close(predict(folder_model), expected, rtol=1e-5, atol=1e-5)


def test_latents_are_the_scaled_posterior_mean(folder_model, stand_in_folder):
    vae = AutoencoderKL.from_pretrained(stand_in_folder / "vae").float()
    pixels = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = vae.encode(pixels).latent_dist.mean * 0.13025

    latents = folder_model.encode_pixels(pixels)

    assert latents.dtype == torch.float32
    torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_denoiser_is_frozen_in_the_wanted_type_and_dropped_afterwards(stand_in_folder, dtype):
    model = HeadlessSDXL.load(stand_in_folder, dtype=dtype)
    with model.open_denoiser(0) as denoiser:
        assert denoiser.dtype == dtype
        assert not denoiser.unet.training
        assert not any(p.requires_grad for p in denoiser.unet.parameters())
        assert {p.dtype for p in denoiser.unet.parameters()} == {dtype}
        remains = weakref.ref(denoiser.unet)
    del denoiser
    gc.collect()
    assert remains() is None


def test_encoders_make_room_for_the_denoiser(stand_in_folder):
    model = HeadlessSDXL.load(stand_in_folder)
    model.encode_captions(["a cat"])
    model.encode_pixels(torch.zeros(1, 3, 16, 16))
    remains = [weakref.ref(model._text_encoder), weakref.ref(model._vae)]
    with model.open_denoiser(0):
        gc.collect()
        assert [r() for r in remains] == [None, None]


def test_gradients_flow_through_the_denoiser_into_an_adapter(folder_model):
    embeds, pooled = stack_conditions(folder_model.encode_captions(CAPTIONS))
    draw = draw_noise((2, 4, 16, 16), 0, 0, NoiseConfig(), 1000)
    batch = Batch(draw.noise * 0.3, embeds, pooled, stack_time_ids([inference_time_ids((128, 128))] * 2))
    with folder_model.open_denoiser(0) as denoiser:
        weight = denoiser.unet.mid_block.attentions[0].proj_in.weight.requires_grad_(True)
        losses = denoising_losses(denoiser.predict, batch, draw, denoiser.schedule, ObjectiveConfig())
        losses.mean().backward()
        assert losses.shape == (2,)
        assert weight.grad.abs().sum() > 0
        assert denoiser.unet.conv_in.weight.grad is None


def test_fingerprint_is_stable_and_tells_weights_apart(folder_model, folder_copy):
    assert HeadlessSDXL.load(folder_copy).fingerprint == folder_model.fingerprint
    place = folder_copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(place)
    tensors["conv_in.bias"] = tensors["conv_in.bias"] + 1
    save_file(tensors, place)
    assert HeadlessSDXL.load(folder_copy).fingerprint != folder_model.fingerprint


def test_fp16_variants_and_shards_are_found(folder_copy, folder_model):
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        (folder_copy / part / f"{stem}.safetensors").rename(folder_copy / part / f"{stem}.fp16.safetensors")
    place = folder_copy / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(place)
    place.unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({n: tensors[n] for n in members}, folder_copy / "vae" / file)
    index = {"weight_map": {n: file for file, members in shards.items() for n in members}}
    (folder_copy / "vae" / f"{place.name}.index.json").write_text(json.dumps(index))

    model = HeadlessSDXL.load(folder_copy)

    assert torch.equal(predict(model), predict(folder_model))
    pixels = torch.zeros(1, 3, 32, 32)
    assert torch.equal(model.encode_pixels(pixels), folder_model.encode_pixels(pixels))


def test_v_prediction_is_read_from_the_schedulers_config(folder_copy):
    place = folder_copy / "scheduler" / "scheduler_config.json"
    config = json.loads(place.read_text())
    place.write_text(json.dumps(config | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}))
    with HeadlessSDXL.load(folder_copy).open_denoiser(0) as denoiser:
        assert denoiser.schedule.prediction_type == "v_prediction"
        assert denoiser.schedule.alphas_cumprod[-1] < 1e-7


@pytest.mark.parametrize(
    ("marks", "prediction_type", "last"),
    [
        ((), "epsilon", 0.00466),
        (("v_pred",), "v_prediction", 0.00466),
        (("v_pred", "ztsnr"), "v_prediction", 0),
    ],
)
def test_v_prediction_is_read_from_the_marks_of_a_file(
    stand_in_tensors, tmp_path, marks, prediction_type, last
):
    path = tmp_path / "model.safetensors"
    save_file(stand_in_tensors | {mark: torch.zeros(0) for mark in marks}, path)
    with HeadlessSDXL.load(path).open_denoiser(0) as denoiser:
        assert denoiser.schedule.prediction_type == prediction_type
        assert denoiser.schedule.alphas_cumprod[-1].item() == pytest.approx(last, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
        ({"beta_start": 0.0001}, "scaled_linear"),
        ({"prediction_type": "sample"}, "'sample'"),
        ({"rescale_betas_zero_snr": True}, "v_prediction"),
    ],
)
def test_other_schedules_are_refused(folder_copy, changes, sentence):
    place = folder_copy / "scheduler" / "scheduler_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))
    with pytest.raises(InputError, match=sentence):
        HeadlessSDXL.load(folder_copy)


def test_incomplete_checkpoints_are_refused_before_anything_is_loaded(stand_in_tensors, tmp_path):
    path = tmp_path / "half.safetensors"
    lost = "model.diffusion_model.middle_block.2.in_layers.2.weight"
    save_file({n: t for n, t in stand_in_tensors.items() if n != lost}, path)
    with pytest.raises(InputError, match=r"half\.safetensors lacks 1 weights .*middle_block\.2"):
        HeadlessSDXL.load(path)


def test_folders_of_pickles_are_refused(folder_copy):
    place = folder_copy / "unet" / "diffusion_pytorch_model.safetensors"
    place.rename(place.with_suffix(".bin"))
    with pytest.raises(InputError, match=r"copy/unet holds no \.safetensors"):
        HeadlessSDXL.load(folder_copy)


def test_hub_ids_are_not_looked_up():
    with pytest.raises(InputError, match="nothing is downloaded"):
        HeadlessSDXL.load("stabilityai/stable-diffusion-xl-base-1.0")


def test_a_projection_kept_as_a_linear_layer_is_understood(stand_in_tensors, tmp_path, folder_model):
    tensors = dict(stand_in_tensors)
    name = "conditioner.embedders.1.model.text_projection"
    tensors[f"{name}.weight"] = tensors.pop(name).T.contiguous()
    save_file(tensors, tmp_path / "linear.safetensors")
    (found,) = HeadlessSDXL.load(tmp_path / "linear.safetensors").encode_captions(["a cat"])
    assert torch.equal(found.pooled, folder_model.encode_captions(["a cat"])[0].pooled)


def test_samples_have_the_wanted_size_and_repeat_with_the_same_seed(folder_model):
    settings = PreviewConfig(steps=2, guidance=3, seed=5)
    first, second = folder_model.sample(["a cat", "a dog"], settings, 96, 64)
    assert first.size == second.size == (96, 64)
    (again,) = folder_model.sample(["a cat"], settings, 96, 64)
    assert ImageChops.difference(first, again).getbbox() is None
    assert ImageChops.difference(first, second).getbbox() is not None
    assert folder_model.sample([], settings, 96, 64) == []


def test_a_lora_file_changes_the_samples(folder_model, tmp_path):
    generator = torch.Generator().manual_seed(0)
    name = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v"
    down = torch.randn(2, 40, generator=generator)
    up = torch.randn(128, 2, generator=generator)
    path = tmp_path / "x.safetensors"
    save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, path)
    settings = PreviewConfig(steps=2)

    (plain,) = folder_model.sample(["a cat"], settings, 64, 64)
    (changed,) = folder_model.sample(["a cat"], settings, 64, 64, lora_path=path)
    (after,) = folder_model.sample(["a cat"], settings, 64, 64)

    assert ImageChops.difference(plain, changed).getbbox() is not None
    assert ImageChops.difference(plain, after).getbbox() is None


@pytest.fixture
def word_lora(tmp_path):
    """A LoRA file with a layer of each text encoder and the word TOK, and its embedding beside it."""
    generator = torch.Generator().manual_seed(0)
    tokens = NewTokens((("TOK", 2),))
    vectors = {name: torch.randn(2, width, generator=generator) for name, width in WIDTHS.items()}
    tensors = {}
    for name, width in (("lora_te1", 16), ("lora_te2", 24)):
        layer = f"{name}_text_model_encoder_layers_0_mlp_fc1"
        tensors[f"{layer}.lora_down.weight"] = torch.randn(2, width, generator=generator)
        tensors[f"{layer}.lora_up.weight"] = torch.randn(4 * width, 2, generator=generator)
    path = tmp_path / "loras" / "cat.safetensors"
    path.parent.mkdir()
    save_file(tensors, path, word_metadata("cat_emb", tokens))
    write_embeddings(path.parent, "cat_emb", vectors, tokens, {})
    return path, tensors, vectors, tokens


def test_samples_read_the_word_and_the_text_layers_of_a_lora_file(folder_model, word_lora):
    path, tensors, vectors, tokens = word_lora
    settings = PreviewConfig(steps=2, negative="blurry")
    with folder_model.open_text_encoders() as encoders:
        for name, encoder in (("lora_te1", encoders.clip_l), ("lora_te2", encoders.clip_g)):
            layer = f"{name}_text_model_encoder_layers_0_mlp_fc1"
            update = tensors[f"{layer}.lora_up.weight"] @ tensors[f"{layer}.lora_down.weight"]
            getattr(encoder, "text_model", encoder).encoder.layers[0].mlp.fc1.weight += update
        with with_vectors(encoders, vectors):
            encoded = folder_model.encode_prompts(["a TOK"], "blurry", SDXLTextEncoder(encoders, tokens))
    with folder_model.open_denoiser(0) as denoiser:
        (wanted,) = folder_model.draw(denoiser, encoded, settings, (64, 64))

    (found,) = folder_model.sample(["a TOK"], settings, 64, 64, path)

    (plain,) = folder_model.sample(["a TOK"], settings, 64, 64)
    assert ImageChops.difference(found, wanted).getbbox() is None
    assert ImageChops.difference(found, plain).getbbox() is not None


def test_the_embedding_is_found_in_a_folder_of_embeddings_and_missed_by_name(folder_model, word_lora):
    path = word_lora[0]
    settings = PreviewConfig(steps=1)
    (beside,) = folder_model.sample(["a TOK"], settings, 64, 64, path)
    for folder in (path.parent / "embeddings", path.parent.parent / "embeddings"):
        folder.mkdir()
        (path.parent / "cat_emb.safetensors").rename(folder / "cat_emb.safetensors")
        (found,) = folder_model.sample(["a TOK"], settings, 64, 64, path)
        assert ImageChops.difference(found, beside).getbbox() is None
        (folder / "cat_emb.safetensors").rename(path.parent / "cat_emb.safetensors")
    (path.parent / "cat_emb.safetensors").unlink()
    with pytest.raises(InputError, match=r"word TOK.*cat_emb\.safetensors"):
        folder_model.sample(["a TOK"], settings, 64, 64, path)


def test_the_encoders_to_train_on_are_dropped_and_are_not_those_of_captions(folder_model):
    (before,) = folder_model.encode_captions(["a cat"])
    with folder_model.open_text_encoders() as encoders:
        assert encoders.clip_l.dtype == encoders.clip_g.dtype == torch.float32
        assert not any(p.requires_grad for p in encoders.clip_g.parameters())
        for parameter in encoders.clip_l.parameters():
            parameter += 1
        (during,) = folder_model.encode_captions(["a cat"])
        (changed,) = folder_model.encode_prompts([], "a cat", SDXLTextEncoder(encoders))
        remains = [weakref.ref(encoders.clip_l), weakref.ref(encoders.clip_g)]
    del encoders, parameter
    gc.collect()
    assert [r() for r in remains] == [None, None]
    assert torch.equal(during.prompt_embeds, before.prompt_embeds)
    assert not torch.equal(changed.prompt_embeds, before.prompt_embeds)


def test_pictures_in_the_middle_of_a_run_are_those_of_the_file_afterwards(folder_model, tmp_path):
    preview = PreviewConfig(steps=2, guidance=3.0)
    encoded = folder_model.encode_prompts(["a red circle", "a blue square"], "blurry")
    with folder_model.open_denoiser(0) as denoiser:
        plain = folder_model.draw(denoiser, encoded, preview, (64, 64))
        again = folder_model.draw(denoiser, encoded, preview, (64, 64))
    sampled = folder_model.sample(
        ["a red circle", "a blue square"], dataclasses.replace(preview, negative="blurry"), 64, 64
    )
    assert [picture.size for picture in plain] == [(64, 64)] * 2
    assert [p.tobytes() for p in plain] == [p.tobytes() for p in again] == [p.tobytes() for p in sampled]


@pytest.mark.parametrize("values", [{"sampler": "dpmpp_2m"}, {"scheduler": "karras"}])
def test_a_sampler_that_only_comfyui_has_is_refused_with_those_there_are(folder_model, values):
    encoded = folder_model.encode_prompts(["a red circle"], "")
    with (
        folder_model.open_denoiser(0) as denoiser,
        pytest.raises(InputError, match=r"without ComfyUI there are only 'euler' and 'normal'"),
    ):
        folder_model.draw(denoiser, encoded, PreviewConfig(**values), (64, 64))


def test_latents_and_text_are_named_by_their_own_networks_alone(folder_model, folder_copy):
    def names():
        model = HeadlessSDXL.load(folder_copy)
        return model.vae_fingerprint, model.text_fingerprint

    def change(part, stem):
        place = folder_copy / part / f"{stem}.safetensors"
        tensors = load_file(place)
        name = next(key for key in tensors if key.endswith(".bias"))
        save_file({**tensors, name: tensors[name] + 1}, place)

    base = (folder_model.vae_fingerprint, folder_model.text_fingerprint)
    change("unet", "diffusion_pytorch_model")
    assert names() == base
    change("vae", "diffusion_pytorch_model")
    vae = names()
    assert vae[0] != base[0] and vae[1] == base[1]
    change("text_encoder_2", "model")
    text = names()
    assert text[0] == vae[0] and text[1] != vae[1]
    config = folder_copy / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_act": "gelu"}))
    assert names()[1] not in (base[1], text[1])


def test_one_checkpoint_file_names_its_vae_and_text_apart(single_file, stand_in_tensors, tmp_path):
    def names(path):
        model = HeadlessSDXL.load(path)
        return model.vae_fingerprint, model.text_fingerprint

    base = names(single_file)
    found = {}
    for start in ("model.diffusion_model.", "first_stage_model.encoder.", "conditioner.embedders.1."):
        name = next(n for n in stand_in_tensors if n.startswith(start) and n.endswith(".bias"))
        path = tmp_path / "other.safetensors"
        save_file({**stand_in_tensors, name: stand_in_tensors[name] + 1}, path)
        found[start] = [a == b for a, b in zip(names(path), base, strict=True)]
    assert list(found.values()) == [[True, True], [False, True], [True, False]]
