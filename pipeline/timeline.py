"""What the device has done, told without making it wait: the seconds of stages, how far it is, the peak memory.

Work on CUDA is queued: a host that waits for the end of one part before it queues the next leaves the GPU idle between.
"""

import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol, Self

import torch


class Stages:
    """Measures consecutive stages of one call, on CUDA by the device's own clock."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ends = [("", _mark(device))]

    def end(self, name: str) -> None:
        """What was done, or queued, since the last stage's end was stage `name`."""
        self._ends.append((name, _mark(self._device)))

    def seconds(self) -> dict[str, float]:
        """Wait for the last stage's end; return the seconds of each."""
        self._ends[-1][1].synchronize()
        return {name: start.elapsed_time(end) / 1000 for (_, start), (name, end) in pairwise(self._ends)}


class Progress:
    """Calls `tell(n, total)` when the device gets to the n-th of the points in its work, counted from 1.

    On CUDA point n is waited for after point n + 1 was queued, so what `tell` raises stops the run one point later.
    """

    def __init__(self, device: torch.device, total: int, tell: Callable[[int, int], None] | None) -> None:
        self._device = device
        self._total = total
        self._tell = tell
        self._done = 0
        self._queued: deque[Mark] = deque()

    def queued(self) -> None:
        """Call it when what lies before a point has been queued: tells of those that are to be waited for."""
        if self._tell is None:
            return
        self._queued.append(_mark(self._device))
        last = self._done + len(self._queued) == self._total
        ahead = 0 if last or self._device.type == "cpu" else 1
        while len(self._queued) > ahead:
            self._queued.popleft().synchronize()
            self._done += 1
            self._tell(self._done, self._total)


class Mark(Protocol):
    """A point in a device's work, as `torch.cuda.Event` has it."""

    def synchronize(self) -> None:
        """Wait until the device is there."""

    def elapsed_time(self, end: Self) -> float:
        """Milliseconds from here to `end`."""


class PeakMemory:
    """The most CUDA memory allocated at once since this was made; 0 on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def bytes(self) -> int:
        """What it was, weights included."""
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else 0


class _HostMark:
    """On the CPU work is done when the call returns."""

    def __init__(self) -> None:
        self._at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Self) -> float:
        return (end._at - self._at) * 1000


def _mark(device: torch.device) -> Mark:
    if device.type == "cpu":
        return _HostMark()
    # Who waits for it sleeps: the threads that upload need the CPU too.
    event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
