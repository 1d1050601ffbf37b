"""How long the device works on jobs, and for whom."""

import time

from worker import metrics


class BusySeconds:
    """A job's time on the device, from now on; on the device's thread only.

    Args:
        owner: whose job it is.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._since = time.monotonic()

    def count(self) -> None:
        """Count the time since the job began, or since this was last called."""
        now = time.monotonic()
        metrics.gpu_busy_seconds_total.inc(now - self._since)
        metrics.key_gpu_seconds_total.labels(self._owner).inc(now - self._since)
        self._since = now
