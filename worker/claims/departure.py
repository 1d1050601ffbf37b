"""The way out with jobs at hand: they are handed back, and the process ends.

It ends by `os._exit`: Celery and the interpreter would wait for threads that may never finish.
"""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from redis.exceptions import RedisError

from jobs.exit_codes import ProgramExit
from jobs.record import JobError
from jobs.store.worker import MAX_LOSSES, WorkerStore
from jobs.telemetry import trace_export
from jobs.telemetry.logs import about
from worker.claims.leases import Leases
from worker.held import HeldJob
from worker.observers.observer import Observer

log = logging.getLogger(__name__)

LEAVE_SECONDS = 6.0  # with the flush of traces less than the 10 s that docs/operations.md names beside the drain
BROKEN = ProgramExit.BROKEN_DEVICE


class Departure:
    """The way out of this process; taken once, whoever asks first.

    Args:
        leases: of the jobs at hand.
        store: takes them back.
        observer: is told of each job's end.
    """

    def __init__(self, leases: Leases, store: WorkerStore, observer: Observer) -> None:
        self._leases = leases
        self._store = store
        self._observer = observer
        self._taken = threading.Lock()

    @contextmanager
    def put_off(self) -> Iterator[None]:
        """Make `leave` wait meanwhile; once somebody leaves, it does not return.

        A job that is just being claimed is in nobody's list yet, and would not be handed back.
        """
        with self._taken:
            yield

    def leave(self, code: int, culprit: HeldJob | None = None, error: JobError | None = None) -> NoReturn:
        """Hand the jobs at hand back and end the process, within `LEAVE_SECONDS` whatever Redis does.

        Args:
            code: exit code.
            culprit: the job because of which the process must end; it counts a loss.
            error: with which its last loss fails it.
        """
        # Each call to a half-open Redis, tried again, takes a quarter of a minute and more.
        orderly = threading.Thread(target=self._hand_back, args=(culprit, error), name="hand-back", daemon=True)
        orderly.start()
        orderly.join(LEAVE_SECONDS)
        if orderly.is_alive():
            log.warning("Redis did not take everything back within %g s: leases will end", LEAVE_SECONDS)
        trace_export.flush()
        os._exit(code)

    def leave_hung(self, seconds: float) -> NoReturn:
        """Leave because the job on the device made no progress for so many seconds."""
        culprit = next((held for held in self._leases.held() if held.drawing), None)
        message = f"a step made no progress for {seconds:g} s"
        if culprit:
            message += f": this was loss {culprit.claim.job.losses + 1} of {MAX_LOSSES}"
        self.leave(BROKEN, culprit, JobError(code="step_timeout", message=message, retryable=True))

    def _hand_back(self, culprit: HeldJob | None, error: JobError | None) -> None:
        self._taken.acquire()  # never released: who comes second, or wants to claim, waits for the end
        for held in self._leases.held():
            job = held.claim.job
            try:
                if held is culprit and error is not None:
                    held.error = error
                    outcome: str = self._store.lose(held.claim, error)
                else:
                    outcome = self._store.requeue(held.claim, held.stages)
                self._observer.ended(held, outcome)
            except RedisError as redis_error:
                with about(job):
                    log.warning("job %s not handed back (%s): its lease will end", job.id, redis_error)
        self._leases.stop()
