"""Leaving: at SIGTERM the worker claims nothing more and finishes what it holds.

What can't finish in time is handed back.
"""

import logging
import os
import threading
import time
from typing import Any

from celery.signals import worker_shutting_down
from redis.exceptions import RedisError

from jobs.worker_store import WorkerStore
from worker.lease import Leases
from worker.task import JobRunner

log = logging.getLogger(__name__)


def drain_at_shutdown(runner: JobRunner, leases: Leases, store: WorkerStore, seconds: float) -> None:
    """Arrange for an orderly exit once Celery is told to stop.

    Args:
        runner: stops claiming.
        leases: knows the jobs at hand.
        store: takes back what is not finished.
        seconds: how long jobs may go on.
    """

    def hand_back_after_deadline() -> None:
        time.sleep(seconds)
        for held in leases.held():
            try:
                outcome = store.requeue(held.claim)
                log.warning("job %s not done within %.0f s: now %s", held.claim.job.id, seconds, outcome)
            except RedisError as error:
                log.warning("job %s not handed back (%s): its lease will end", held.claim.job.id, error)
        leases.stop()
        # Not sys.exit: Celery and the interpreter would wait for the threads that did not finish.
        os._exit(0)

    def on_shutting_down(**_: Any) -> None:
        runner.stop_claiming()
        threading.Thread(target=hand_back_after_deadline, name="drain", daemon=True).start()

    worker_shutting_down.connect(on_shutting_down, weak=False)
