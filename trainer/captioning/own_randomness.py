"""Drawn words that are a function of (seed, picture); the host's random numbers stay where they were."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from PIL import Image

from ..data.batches import generator


def picture_digest(picture: Image.Image) -> str:
    """SHA-256 over the size and the pixels."""
    digest = hashlib.sha256(f"{picture.mode} {picture.size}".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def own_randomness(device: torch.device, seed: int, picture: Image.Image) -> Iterator[None]:
    """Seed the generators of the CPU and of `device` by (seed, picture), and put them back afterwards.

    transformers' `generate` takes no generator and draws from the global one of its device.
    """
    number = generator(seed, f"caption {picture_digest(picture)}", 0).getrandbits(63)
    with contextlib.ExitStack() as stack:
        # torch.manual_seed would seed every device of the machine, also those that are not put back
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.default_generator.manual_seed(number)
        if device.type in ("cuda", "xpu"):
            module = torch.get_device_module(device)
            index = module.current_device() if device.index is None else device.index
            stack.enter_context(torch.random.fork_rng(devices=[index], device_type=device.type))
            stack.enter_context(module.device(index))
            module.manual_seed(number)
        elif device.type == "mps":
            stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
            torch.mps.manual_seed(number)
        yield
