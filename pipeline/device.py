"""Devices by their names, and which of them is at work."""

from contextlib import AbstractContextManager, nullcontext

import torch


def find_device(name: str | torch.device) -> torch.device:
    """Return the device of this machine that has this name: cpu, cuda or cuda:N.

    Raises:
        ValueError: there is none.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {str(name)!r}, expected cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        there = ", ".join(f"cuda:{index}" for index in range(count)) or "no CUDA device"
        raise ValueError(f"device is {device}, and this machine has {there}; cpu works without one")
    return device


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one, where Triton launches, and streams, events and graphs are made."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
