import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from sdxl_trainer.trainer.config import MAX_SEED, PreviewConfig
from sdxl_trainer.trainer.diffusion.noise_schedule import NoiseSchedule
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.sdxl.sampling import decode_latents, euler_scheduler, sample_latents
from sdxl_trainer.trainer.sdxl.sdxl_files import open_checkpoint
from sdxl_trainer.trainer.sdxl.sdxl_model import HeadlessSDXL

PROMPT, NEGATIVE = "a large red circle on a blue background", "a small ring"


@pytest.fixture(scope="module")
def model(stand_in_folder):
    return HeadlessSDXL.load(stand_in_folder)


@pytest.fixture(scope="module")
def conditions(model):
    return model.encode_captions([PROMPT, NEGATIVE, "many words " * 60])


@pytest.fixture
def denoiser(model, conditions):
    with model.open_denoiser(0) as opened:
        yield opened


def test_samples_equal_diffusers_own_pipeline(stand_in_folder, denoiser, conditions):
    files = open_checkpoint(stand_in_folder)
    encoders = [p.load(torch.device("cpu"), torch.float32) for p in (files.clip_l, files.clip_g)]
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        stand_in_folder, text_encoder=encoders[0], text_encoder_2=encoders[1], local_files_only=True
    ).to(torch.float32)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="linspace"
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(7))
    expected = pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        num_inference_steps=4,
        guidance_scale=5.0,
        height=64,
        width=96,
        latents=noise,
        output_type="latent",
    ).images

    found = sample_latents(
        denoiser, conditions[:1], conditions[1], PreviewConfig(steps=4, guidance=5.0, seed=7), (96, 64)
    )

    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_prompt_i_is_drawn_from_seed_plus_i(denoiser, conditions):
    prompt, negative, long = conditions
    both = sample_latents(denoiser, [long, prompt], negative, PreviewConfig(steps=2, seed=MAX_SEED), (64, 64))
    alone = sample_latents(denoiser, [prompt], negative, PreviewConfig(steps=2, seed=0), (64, 64))
    torch.testing.assert_close(both[1:], alone)


def test_guidance_of_one_ignores_the_negative_prompt_and_more_does_not(denoiser, conditions):
    prompt, negative, other = conditions

    def sample(unwanted, guidance):
        return sample_latents(
            denoiser, [prompt], unwanted, PreviewConfig(steps=2, guidance=guidance), (64, 64)
        )

    assert torch.equal(sample(negative, 1), sample(other, 1))
    assert not torch.allclose(sample(negative, 6), sample(other, 6))
    assert not torch.allclose(sample(negative, 6), sample(negative, 3))


def test_progress_is_told_and_may_end_the_sampling(denoiser, conditions):
    heard = []
    settings = PreviewConfig(steps=2)
    sample_latents(denoiser, conditions[:2], conditions[1], settings, (32, 32), lambda *at: heard.append(at))
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def stop(done, total):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sample_latents(denoiser, conditions[:1], conditions[1], settings, (32, 32), stop)


def test_sizes_that_are_no_multiple_of_eight_are_refused(denoiser, conditions):
    with pytest.raises(InputError, match="100x64"):
        sample_latents(denoiser, conditions[:1], conditions[1], PreviewConfig(), (100, 64))


@pytest.mark.parametrize(("prediction_type", "zero_snr"), [("epsilon", False), ("v_prediction", True)])
def test_a_perfect_denoiser_arrives_at_the_picture(prediction_type, zero_snr):
    schedule = NoiseSchedule.sdxl(prediction_type, zero_snr)
    scheduler = euler_scheduler(schedule)
    scheduler.set_timesteps(10)
    picture = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    latents = (
        torch.randn(picture.shape, generator=torch.Generator().manual_seed(1)) * scheduler.init_noise_sigma
    )
    for step, timestep in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[step]
        scheduler.scale_model_input(latents, timestep)
        noise = (latents - picture) / sigma
        alpha = 1 / (1 + sigma**2)
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * picture
        prediction = noise if prediction_type == "epsilon" else velocity
        latents = scheduler.step(prediction, timestep, latents).prev_sample
    torch.testing.assert_close(latents, picture, rtol=1e-3, atol=2e-3)


def test_decoded_pictures_are_rgb_in_the_latents_order(stand_in_folder):
    vae = HeadlessSDXL.load(stand_in_folder)._load_vae()
    latents = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    pictures = decode_latents(vae, latents, 0.13025)
    assert [p.size for p in pictures] == [(48, 64)] * 2
    assert pictures[0].mode == "RGB"
    (second,) = decode_latents(vae, latents[1:], 0.13025)
    assert second.tobytes() == pictures[1].tobytes()
