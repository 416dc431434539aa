import torch
from sdxl_trainer.trainer.diffusion.conditioning import Batch
from sdxl_trainer.trainer.diffusion.noise_schedule import NoiseSchedule
from sdxl_trainer.trainer.sdxl.model import Denoiser


class RecordingUNet(torch.nn.Module):
    """Keeps what it is called with."""

    def __init__(self):
        super().__init__()
        self.conv_in = torch.nn.Conv2d(4, 4, 1).bfloat16()

    def forward(self, sample, timesteps, encoder_hidden_states, added_cond_kwargs, return_dict):
        self.seen = (sample, timesteps, encoder_hidden_states, added_cond_kwargs)
        return (sample,)


def test_inputs_take_the_unets_type_but_sizes_and_timesteps_stay_exact():
    unet = RecordingUNet()
    denoiser = Denoiser(unet, NoiseSchedule.sdxl())
    time_ids = torch.tensor([[1025.0, 2047, 1, 3, 1216, 832]])
    batch = Batch(torch.zeros(1, 4, 2, 2), torch.zeros(1, 77, 40), torch.zeros(1, 24), time_ids)

    prediction = denoiser.predict(torch.ones(1, 4, 2, 2), torch.tensor([999]), batch)

    sample, timesteps, states, added = unet.seen
    assert denoiser.dtype == prediction.dtype == torch.bfloat16
    assert sample.dtype == states.dtype == added["text_embeds"].dtype == torch.bfloat16
    assert timesteps.tolist() == [999]
    assert added["time_ids"].dtype == torch.float32
    assert torch.equal(added["time_ids"], time_ids)
