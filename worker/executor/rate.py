"""How fast jobs are drawn; the queue's ETA comes from it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_MEMORY = 0.8  # weight of the past: about the last five jobs count


@dataclass
class Taken:
    """What is taken into the rate."""

    work: int


class Rate:
    """Measured on one device, from job to job."""

    def __init__(self) -> None:
        self._work = 0.0
        self._seconds = 0.0
        self._idle_since = time.monotonic()

    @contextmanager
    def measured(self, work: int, asked: float) -> Iterator[Taken]:
        """Take what the device does within into the rate, unless it raises; it may say that it was less work.

        Args:
            work: what the job costs, as `JobInput.cost` expects it.
            asked: when the job was ready for the device, by `time.monotonic`.
        """
        # From the end of the last job when this one was waiting already: gaps between jobs count too.
        since = max(asked, self._idle_since)
        taken = Taken(work)
        try:
            yield taken
        finally:
            self._idle_since = time.monotonic()
        self._work = self._work * _MEMORY + taken.work
        self._seconds = self._seconds * _MEMORY + (self._idle_since - since)

    @property
    def per_second(self) -> float | None:
        """Work per second; None before the first measurement."""
        return self._work / self._seconds if self._seconds else None
