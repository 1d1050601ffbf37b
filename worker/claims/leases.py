"""The worker's leases: a thread, not the device's, that renews them and hears which jobs to stop."""

import logging
import threading
import time
from collections.abc import Callable

from redis.exceptions import RedisError

from jobs.model_card import ModelCard
from jobs.store.worker import Claim, WorkerStore
from worker import metrics
from worker.executor.rate import Rate
from worker.held import HeldJob

log = logging.getLogger(__name__)


class Leases:
    """Renews the worker's presence and the leases of the jobs that it holds, at a sixth of the lease.

    Args:
        store: the jobs.
        worker: this worker's id.
        card: what it serves.
        rate: how fast it draws.
        trouble: tells what keeps it from its work, None: nothing.
        lease_seconds: length of a lease.
    """

    def __init__(
        self,
        store: WorkerStore,
        worker: str,
        card: ModelCard,
        rate: Rate,
        trouble: Callable[[], str | None],
        lease_seconds: float,
    ) -> None:
        self._store = store
        self._worker = worker
        self._card = card
        self._rate = rate
        self._trouble = trouble
        self._interval = lease_seconds / 6
        self._held: set[HeldJob] = set()
        self._changed = threading.Condition()
        self._work_missed = threading.Event()
        self._stop = threading.Event()
        self._tried = self._renewed = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        """Announce the worker and begin to renew."""
        self._renew()
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing and take the worker out of the live ones."""
        self._stop.set()
        self._thread.join()
        try:
            self._store.depart(self._worker)
        except RedisError as error:
            log.warning("could not sign off (%s): this worker counts as alive until its lease ends", error)

    def add(self, claim: Claim) -> HeldJob:
        """Renew the job's lease from now on."""
        job = HeldJob(claim)
        with self._changed:
            self._held.add(job)
        return job

    def drop(self, job: HeldJob) -> None:
        """Renew the job's lease no more."""
        with self._changed:
            self._held.discard(job)
            self._changed.notify_all()

    def held(self) -> list[HeldJob]:
        """Return the jobs held now."""
        with self._changed:
            return list(self._held)

    def wait_until(self, condition: Callable[[set[HeldJob]], bool]) -> None:
        """Return once the jobs held are so."""
        with self._changed:
            self._changed.wait_for(lambda: condition(self._held))

    def wait_until_work_is_missed(self) -> None:
        """Return when jobs wait in the queue while this worker holds none."""
        self._work_missed.wait()
        self._work_missed.clear()

    def since_renewed(self) -> float:
        """Return the seconds since Redis last heard of this worker."""
        return time.monotonic() - self._renewed

    def since_tried(self) -> float:
        """Return the seconds since this thread last did anything."""
        return time.monotonic() - self._tried

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self._renew()
            except RedisError as error:
                metrics.server_errors_total.labels("redis").inc()
                log.warning("could not renew leases (%s); trying again in %.0f s", error, self._interval)

    def _renew(self) -> None:
        self._tried = time.monotonic()
        jobs = self.held()
        claims = [job.claim for job in jobs]
        verdicts = self._store.heartbeat(
            self._worker, self._card, self._rate.per_second, claims, trouble=self._trouble()
        )
        self._renewed = time.monotonic()
        for job, verdict in zip(jobs, verdicts, strict=True):
            job.verdict = verdict
        if not jobs and self._store.pending():
            self._work_missed.set()
