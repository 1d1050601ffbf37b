"""The driver's answers, put in by hand: what torch tells of GPUs that are not here, or of a driver that fails."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from worker import obstacles
from worker.executor import device_choice, gpu_memory

GIB = 1024**3


def no_gpu(monkeypatch: pytest.MonkeyPatch, said: str, *, cuda: str | None = "13.0", warned: bool = True) -> None:
    """Have torch find no GPU, and say why as it does: in a warning, and when CUDA is initialised."""

    def is_available() -> bool:
        if warned:
            warnings.warn(f"CUDA initialization: {said} (Triggered internally at CUDAFunctions.cpp:109.)", stacklevel=2)
        return False

    def init() -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.cuda, "init", init)


def gpus(
    monkeypatch: pytest.MonkeyPatch, *cards: tuple[str, tuple[int, int]], free: int = 20 * GIB, total: int = 24 * GIB
) -> None:
    """Have torch find these cards: name and compute capability; each but the first has a little less memory free."""

    def index(device: Any) -> int:
        return torch.device(device).index or 0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: cards[index(device)][0])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: cards[index(device)][1])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: GIB)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=f"uuid-{index(device)}")
    )

    def memory(device: torch.device) -> tuple[int, int]:
        return free - index(device), total

    for module in (device_choice, gpu_memory, obstacles):
        monkeypatch.setattr(module, "free_and_total", memory)
