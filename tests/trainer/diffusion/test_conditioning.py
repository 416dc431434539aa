import pytest
import torch
from diffusers import UNet2DConditionModel
from sdxl_trainer.trainer.diffusion.conditioning import (
    Batch,
    TextCondition,
    inference_time_ids,
    stack_conditions,
    stack_time_ids,
)
from sdxl_trainer.trainer.diffusion.noise_schedule import NoiseSchedule
from sdxl_trainer.trainer.sdxl.model import Denoiser


def condition(windows, seed, width=40, pooled=24):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(77 * windows, width, generator=generator)
    return TextCondition(states, torch.randn(pooled, generator=generator))


def test_sizes_are_height_first_and_survive_as_float32():
    assert inference_time_ids((1216, 832)) == (832, 1216, 0, 0, 832, 1216)
    time_ids = stack_time_ids([(1025, 2047, 3, 5, 832, 1216)])
    assert time_ids.dtype == torch.float32
    assert time_ids.tolist() == [[1025, 2047, 3, 5, 832, 1216]]


def test_captions_of_one_length_are_stacked_untouched():
    first, second = condition(2, 1), condition(2, 2)

    embeds, pooled = stack_conditions([first, second])

    assert torch.equal(embeds, torch.stack([first.prompt_embeds, second.prompt_embeds]))
    assert torch.equal(pooled, torch.stack([first.pooled, second.pooled]))


@pytest.mark.parametrize(("windows", "expected"), [((1, 3), 3), ((2, 3), 6), ((5, 6, 7), 28)])
def test_batches_grow_to_the_least_common_length_and_no_further_than_four_times(windows, expected):
    conditions = [condition(n, n) for n in windows]

    embeds, _ = stack_conditions(conditions)

    assert embeds.shape == (len(windows), 77 * expected, 40)
    assert torch.equal(embeds[0, : 77 * windows[0]], conditions[0].prompt_embeds)


def test_a_prediction_does_not_depend_on_longer_captions_in_the_batch(stand_in_folder):
    unet = UNet2DConditionModel.from_pretrained(stand_in_folder / "unet").float()
    denoiser = Denoiser(unet.eval(), NoiseSchedule.sdxl())
    conditions = [condition(2, 1), condition(3, 2)]
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([400, 700])
    time_ids = stack_time_ids([inference_time_ids((64, 64))] * 2)

    def predict(rows):
        embeds, pooled = stack_conditions([conditions[i] for i in rows])
        batch = Batch(latents[rows], embeds, pooled, time_ids[rows])
        return denoiser.predict(latents[rows], timesteps[rows], batch)

    with torch.no_grad():
        together = predict([0, 1])
        alone = torch.cat([predict([0]), predict([1])])

    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
