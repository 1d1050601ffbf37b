"""Leaving: in order at SIGTERM, or at once when the device can't be used any more. Jobs at hand are handed back.

The process ends by `os._exit`: Celery and the interpreter would wait for threads that may never finish.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.platforms import EX_OK
from celery.signals import worker_shutting_down
from celery.worker import state
from redis.exceptions import RedisError

from jobs.record import JobError
from jobs.store.worker import MAX_LOSSES, WorkerStore
from jobs.telemetry import trace_export
from jobs.telemetry.logs import about
from worker.executor.thread import GpuThread
from worker.held import HeldJob
from worker.leases import Leases

log = logging.getLogger(__name__)

LEAVE_SECONDS = 6.0  # with the flush of traces less than the 10 s that docs/operations.md names beside the drain
LOOKS = 10  # of the watchdog within its timeout
BROKEN = 70  # exit code: the device is of no use to this process, a new one may do better


class Departure:
    """The way out of this process; taken once, whoever asks first."""

    def __init__(self, leases: Leases, store: WorkerStore) -> None:
        self._leases = leases
        self._store = store
        self._taken = threading.Lock()

    @contextmanager
    def put_off(self) -> Iterator[None]:
        """Make `leave` wait meanwhile; once somebody leaves, it does not return.

        A job that is just being claimed is in nobody's list yet, and would not be handed back.
        """
        with self._taken:
            yield

    def leave(self, code: int, culprit: HeldJob | None = None, error: JobError | None = None) -> None:
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

    def _hand_back(self, culprit: HeldJob | None, error: JobError | None) -> None:
        self._taken.acquire()  # never released: who comes second, or wants to claim, waits for the end
        for held in self._leases.held():
            job = held.claim.job
            try:
                if held is culprit and error is not None:
                    held.error = error
                    outcome: str = self._store.lose(held.claim, error)
                else:
                    outcome = self._store.requeue(held.claim)
                held.tell_end(outcome)
            except RedisError as redis_error:
                with about(job):
                    log.warning("job %s not handed back (%s): its lease will end", job.id, redis_error)
        self._leases.stop()


def drain_at_shutdown(departure: Departure, stop_claiming: threading.Event, seconds: float) -> None:
    """Arrange for an orderly exit at SIGTERM and SIGINT: nothing more is claimed, what is at hand goes on.

    Celery has handlers of its own, but only once it runs, and the first jobs are claimed before. Call it on the main
    thread.

    Args:
        departure: taken by what is not finished in time.
        stop_claiming: is set then.
        seconds: how long jobs may go on.
    """

    def leave_after_deadline() -> None:
        log.info("draining: no job is taken any more, those at hand have %.0f s", seconds)
        time.sleep(seconds)
        departure.leave(0)

    def on_shutting_down(**_: Any) -> None:
        stop_claiming.set()
        threading.Thread(target=leave_after_deadline, name="drain", daemon=True).start()

    def on_early_signal(*_: Any) -> None:
        on_shutting_down()
        state.should_stop = EX_OK  # type: ignore[assignment]  # a Celery that is just starting stops again

    worker_shutting_down.connect(on_shutting_down, weak=False)
    for early in (signal.SIGTERM, signal.SIGINT):
        signal.signal(early, on_early_signal)


def watch_device(departure: Departure, gpu: GpuThread, leases: Leases, timeout: float) -> None:
    """Leave when the job on the device makes no progress for `timeout` seconds: nothing else ends a hanging kernel.

    Looks are counted, not seconds: a machine that was suspended meanwhile has not hung.
    """

    def watch() -> None:
        last, looks = None, 0
        while True:
            time.sleep(timeout / LOOKS)
            sign = gpu.sign_of_life()
            looks = looks + 1 if sign is not None and sign == last else 0
            last = sign
            if looks >= LOOKS:
                log.critical("the device made no progress for %g s: this process ends", timeout)
                culprit = next((held for held in leases.held() if held.drawing), None)
                message = f"a step made no progress for {timeout:g} s"
                if culprit:
                    message += f": this was loss {culprit.claim.job.losses + 1} of {MAX_LOSSES}"
                departure.leave(BROKEN, culprit, JobError(code="step_timeout", message=message, retryable=True))

    threading.Thread(target=watch, name="watchdog", daemon=True).start()
