"""Which device a command computes on."""

import torch


def chosen_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, else Apple's Metal, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
