"""Tells Redis which step each job is at and hears whether to go on, on a thread of its own.

The device never waits for Redis: a step is noted, and the latest one is sent as soon as the thread gets to it.
"""

import logging
import threading
import time

from redis.exceptions import RedisError

from jobs.store.worker import WorkerStore
from jobs.telemetry.logs import about
from worker.held import HeldJob

log = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0  # after Redis failed to answer


class ProgressReporter:
    """Reports for all jobs of this worker."""

    def __init__(self, store: WorkerStore) -> None:
        self._store = store
        self._steps: dict[HeldJob, int] = {}
        self._news = threading.Condition()
        threading.Thread(target=self._run, name="progress", daemon=True).start()

    def report(self, held: HeldJob, step: int) -> None:
        """Have the job's step told and its `verdict` renewed; returns at once."""
        with self._news:
            self._steps[held] = step
            self._news.notify()

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._steps)
                held, step = self._steps.popitem()
            try:
                held.verdict = self._store.progress(held.claim, step)
            except RedisError as error:
                with about(held.claim.job):
                    log.warning("job %s: progress not reported: %s", held.claim.job.id, error)
                time.sleep(PAUSE_SECONDS)
