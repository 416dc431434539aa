import torch
from sdxl_trainer.trainer.optimization.loss_scale import GROWTH_INTERVAL, LossScale

CPU = torch.device("cpu")


def test_moves_as_torch_grad_scaler_does():
    # the operation that torch.amp.GradScaler calls, as an independent source
    ours, theirs, tracker = LossScale(CPU), torch.tensor(65536.0), torch.tensor(0, dtype=torch.int32)
    chance = torch.Generator().manual_seed(1)
    for _ in range(3 * GROWTH_INTERVAL):
        overflowed = torch.rand((), generator=chance) < 0.0005
        ours.update(overflowed)
        torch._amp_update_scale_(theirs, tracker, overflowed.float(), 2.0, 0.5, GROWTH_INTERVAL)
        assert ours.scale == theirs
    assert ours.scale != 65536.0


def test_state_goes_on_where_it_was():
    first, second = LossScale(CPU), LossScale(CPU)
    first.update(torch.tensor(True))
    first.update(torch.tensor(False))
    second.load_state(first.state())
    for _ in range(GROWTH_INTERVAL):
        first.update(torch.tensor(False))
        second.update(torch.tensor(False))
    assert second.scale == first.scale == 65536.0
