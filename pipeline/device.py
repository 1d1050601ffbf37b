"""Devices by their names, and which of them is at work."""

from contextlib import AbstractContextManager, nullcontext

import torch

from pipeline.driver import UnfitGpuError, count_gpus


def find_device(name: str | torch.device) -> torch.device:
    """Return the device of this machine that has this name: cpu, cuda or cuda:N.

    Raises:
        UnfitGpuError: torch can use no GPU of this machine.
        ValueError: the name is no device's, or that of a GPU that is not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {str(name)!r}, expected cpu, cuda or cuda:N")
    if device.type == "cuda":
        try:
            count = count_gpus()
        except UnfitGpuError as error:
            told = f"device is {device}, and this machine has no CUDA device; cpu works without one: {error}"
            raise UnfitGpuError(told) from error
        if (device.index or 0) >= count:
            there = ", ".join(f"cuda:{index}" for index in range(count))
            raise ValueError(f"device is {device}, and this machine has {there}; cpu works without one")
    return device


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one, where Triton launches, and streams, events and graphs are made."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def free_memory() -> int:
    """Bytes of the current GPU that tensors of this process can still take, with what torch holds for none."""
    held, used = torch.cuda.memory_reserved(), torch.cuda.memory_allocated()
    free, total = torch.cuda.mem_get_info()
    allowed = int(torch.cuda.get_per_process_memory_fraction() * total)
    return min(free + held, allowed) - used
