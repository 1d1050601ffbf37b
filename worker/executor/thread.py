"""The GPU thread: all work on the device, loading and warm-up included, runs on this one thread, in order.

Task threads hand it a function and wait. So the text encoding, denoising and decoding of the next job run while the
last job is compressed and uploaded. How fast the thread gets work done is measured here too: the queue's ETA comes from
it.
"""

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

from worker import metrics

T = TypeVar("T")

LOOK_SECONDS = 0.25  # how often a waiting job is looked after
ADMITTED = 2  # one job on the device and one waiting for it: a worker hoards nothing
_MEMORY = 0.8  # weight of the past in the measured rate: about the last five jobs count


class GpuThread:
    """One thread for one device."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="gpu")
        self._turns = threading.BoundedSemaphore(ADMITTED)
        self._work = 0.0
        self._seconds = 0.0
        self._idle_since = time.monotonic()
        self._busy_since = self._idle_since
        self._owner = ""
        self._drawing = False
        self._signs_of_life = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn: within it the caller may claim a job and use the device."""
        with self._turns:
            yield

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the device's thread and return its result."""
        return self._executor.submit(function).result()

    def draw(self, owner: str, work: int, function: Callable[[], T], while_waiting: Callable[[], None]) -> T:
        """Like `call`, for a job: counted as busy time however it ends and, when it succeeds, in the rate.

        Args:
            owner: whose job it is.
            work: pixels × steps × images.
            function: draws them.
            while_waiting: called again and again until the job's turn comes; raising from it gives the job up.
        """
        asked = time.monotonic()

        def timed() -> T:
            self._busy_since = time.monotonic()
            self._signs_of_life += 1
            self._owner = owner
            self._drawing = True
            try:
                result = function()
            finally:
                self._drawing = False
                self.count_busy()
                end = time.monotonic()
                # From the end of the last job when this one was waiting already: gaps between jobs count too.
                since = max(asked, self._idle_since)
                self._idle_since = end
            self.measured(work, end - since)
            return result

        # In the caller's context, so that what is logged there is told to be about this job.
        drawing = self._executor.submit(contextvars.copy_context().run, timed)
        while not wait([drawing], LOOK_SECONDS).done:
            if not drawing.running():
                try:
                    while_waiting()
                except BaseException:
                    if drawing.cancel():
                        raise
        return drawing.result()

    def count_busy(self) -> None:
        """Count the time since the job began, or since this was last called; on the device's thread only."""
        now = time.monotonic()
        self._signs_of_life += 1
        metrics.gpu_busy_seconds_total.inc(now - self._busy_since)
        metrics.key_gpu_seconds_total.labels(self._owner).inc(now - self._busy_since)
        self._busy_since = now

    def sign_of_life(self) -> int | None:
        """Return a number that changes at each step of the job on the device; None while there is no job on it."""
        return self._signs_of_life if self._drawing else None

    def measured(self, work: int, seconds: float) -> None:
        """Take a measurement into the rate."""
        self._work = self._work * _MEMORY + work
        self._seconds = self._seconds * _MEMORY + seconds

    @property
    def rate(self) -> float | None:
        """Work per second; None before the first measurement."""
        return self._work / self._seconds if self._seconds else None
