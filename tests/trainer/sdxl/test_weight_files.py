import pytest
import torch
from safetensors.torch import save_file
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.sdxl.original_layout import Place
from sdxl_trainer.trainer.sdxl.weight_files import WeightFiles
from torch import nn

CPU = torch.device("cpu")


def locate(name):
    return Place(f"net.{name}")


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "net.weight": torch.randn(3, 2, generator=generator),
        "net.bias": torch.randn(3, generator=generator),
    }


def save(tensors, folder, name="a.safetensors"):
    save_file(tensors, folder / name)
    return folder / name


def test_modules_are_filled_frozen_and_cast(tensors, tmp_path):
    module = nn.Linear(2, 3, device="meta")
    WeightFiles([save(tensors, tmp_path)]).fill(module, locate, CPU, torch.bfloat16)

    assert torch.equal(module.weight, tensors["net.weight"].bfloat16())
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())


def test_weights_come_from_several_files(tensors, tmp_path):
    paths = [save({name: t}, tmp_path, f"{i}.safetensors") for i, (name, t) in enumerate(tensors.items())]
    module = nn.Linear(2, 3, device="meta")
    WeightFiles(paths).fill(module, locate, CPU, torch.float32)
    assert torch.equal(module.bias, tensors["net.bias"])


def test_thirds_and_transposed_weights_are_taken_apart(tmp_path):
    fused = torch.arange(18.0).reshape(9, 2)
    path = save({"qkv": fused, "bias": torch.zeros(3)}, tmp_path)
    module = nn.Linear(2, 3, device="meta")
    files = WeightFiles([path])

    def second_third(name):
        return Place("qkv", third=1) if name == "weight" else Place("bias")

    files.check(module, second_third, "file")
    files.fill(module, second_third, CPU, torch.float32)
    assert torch.equal(module.weight, fused[3:6])

    turned = nn.Linear(3, 2, bias=False, device="meta")
    flipped = WeightFiles([save({"w": fused[:3].contiguous()}, tmp_path, "b.safetensors")])
    flipped.fill(turned, lambda name: Place("w", transposed=True), CPU, torch.float32)
    assert torch.equal(turned.weight, fused[:3].T)


@pytest.mark.parametrize("change", [{"net.bias": torch.zeros(4)}, {"net.bias": None}])
def test_missing_and_misshapen_weights_are_named(tensors, tmp_path, change):
    changed = {name: t for name, t in (tensors | change).items() if t is not None}
    files = WeightFiles([save(changed, tmp_path)])
    with pytest.raises(InputError, match=r"model\.x lacks 1 weights .*net\.bias"):
        files.check(nn.Linear(2, 3, device="meta"), locate, "model.x")


def test_fingerprint_does_not_depend_on_the_path_but_on_every_tensor(tensors, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    base = WeightFiles([save(tensors, tmp_path)]).fingerprint()
    assert WeightFiles([save(tensors, tmp_path / "elsewhere", "b.safetensors")]).fingerprint() == base

    for name, tensor in tensors.items():
        moved = {**tensors, name: tensor + 0.01}
        assert WeightFiles([save(moved, tmp_path, "c.safetensors")]).fingerprint() != base
        reshaped = {**tensors, name: tensor.reshape(1, -1)}
        assert WeightFiles([save(reshaped, tmp_path, "d.safetensors")]).fingerprint() != base
