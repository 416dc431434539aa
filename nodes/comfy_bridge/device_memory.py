"""How much of the training device's memory is in use: cheap enough to be read with each event."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import psutil
import torch

Reader = Callable[[], dict[str, Any] | None]

GAUGE_ERRORS = (RuntimeError, AssertionError, OSError, psutil.Error)
"""What a device that has failed, a torch without its driver, or a process that may not look at itself raises;
the first two as torch does."""


def memory_reader(device: torch.device) -> Reader:
    """A function that gives {"used", "peak", "total"} in bytes and "where" they are, "GPU" or "RAM".

    The peak is the one since this call. On CUDA it counts what this process has in tensors; elsewhere what
    readings have found. Figures are worth no run: what cannot be read is None, and nothing is raised.
    """
    try:
        read = _reader(device)
    except GAUGE_ERRORS:
        return lambda: None
    return lambda: _or_none(read)


def _or_none(read: Reader) -> dict[str, Any] | None:
    try:
        return read()
    except GAUGE_ERRORS:
        return None


def _reader(device: torch.device) -> Reader:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: _figures(
            torch.cuda.memory_allocated(device),
            torch.cuda.max_memory_allocated(device),
            torch.cuda.get_device_properties(device).total_memory,
            "GPU",
        )
    used, where = (_process_memory, "RAM") if device.type == "cpu" else (lambda: _taken(device), "GPU")
    total = psutil.virtual_memory().total if device.type == "cpu" else _total(device)
    return _with_peak(used, total, where)


def _with_peak(used: Callable[[], int], total: int, where: str) -> Reader:
    peak = 0

    def read() -> dict[str, Any]:
        nonlocal peak
        now = used()
        peak = max(peak, now)
        return _figures(now, peak, total, where)

    return read


def _figures(used: int, peak: int, total: int, where: str) -> dict[str, Any]:
    return {"used": int(used), "peak": int(peak), "total": int(total), "where": where}


def _process_memory() -> int:
    return psutil.Process().memory_info().rss


def _taken(device: torch.device) -> int:
    return max(0, _total(device) - int(comfy.model_management.get_free_memory(device)))


def _total(device: torch.device) -> int:
    return int(comfy.model_management.get_total_memory(device))
