"""The reaper: takes jobs from silent workers, expires what waited or lay too long, and rings for forgotten jobs.

Every worker and every API process runs one; a lock in Redis lets one at a time work. So it is noticed within a lease
when the last worker dies.
"""

import logging
import threading
from collections.abc import Sequence

import redis
from botocore.exceptions import BotoCoreError, ClientError
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import LockError, OutOfMemoryError, RedisError

from jobs.doorbell import messages_key, ring
from jobs.images import ImageStore, StillThereError
from jobs.logs import bound
from jobs.settings import Settings
from jobs.worker_store import WorkerStore

log = logging.getLogger(__name__)


class Reaper:
    """One process's reaper.

    Args:
        client: connection to Redis.
        images: bucket from which images past their retention are removed.
        bell: the Celery app to ring with.
        settings: lease and retention.
    """

    def __init__(
        self,
        client: redis.Redis,
        images: ImageStore,
        bell: Celery,
        settings: Settings,
    ) -> None:
        self._redis = client
        self._store = WorkerStore(client, settings)
        self._images = images
        self._bell = bell
        self._messages_key = messages_key(settings)
        self._lock_key = f"{settings.redis_prefix}reaper"
        self._interval = settings.lease_seconds / 6
        self._stop = threading.Event()
        self._forgetting = threading.Thread()  # none yet
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        """Begin to tick, at a sixth of the lease."""
        self._thread.start()

    def stop(self) -> None:
        """Stop ticking; returns at once."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self.tick()
            except (RedisError, OperationalError) as error:
                log.warning("reaper: Redis can't be used (%s); trying again in %.1f s", error, self._interval)

    def tick(self) -> None:
        """Do one round, unless another process is at it."""
        # A reaper that died in its round keeps the others out for two more rounds. One that outlasts its lock does no
        # harm: the lock saves work, and every script is atomic by itself.
        lock = self._redis.lock(self._lock_key, timeout=2 * self._interval, blocking=False)
        try:
            if not lock.acquire():
                return
        except OutOfMemoryError:  # so the lock can't be had; but what ends or goes now is what makes room again
            self._round()
            return
        try:
            self._round()
        finally:
            try:
                lock.release()
            except LockError:
                log.info("reaper: the round outlasted its lock")

    def _round(self) -> None:
        self._store.reap()
        _, old = self._store.expire()
        self._ring_for_forgotten()
        # On a thread of its own: with an S3 that hangs each takes a minute, and leases end meanwhile.
        if old and not self._forgetting.is_alive():
            self._forgetting = threading.Thread(target=self._forget, args=(old,), name="retention", daemon=True)
            self._forgetting.start()

    def _forget(self, job_ids: Sequence[str]) -> None:
        """Remove jobs that are past their retention: a job's images, then its record."""
        for job_id in job_ids:
            with bound(job_id=job_id):
                try:
                    self._images.delete_job(job_id)
                    self._store.delete(job_id)
                except (BotoCoreError, ClientError, StillThereError) as error:
                    log.warning("reaper: images of job %s can't be removed now: %s", job_id, error)
                except RedisError as error:
                    log.warning("reaper: job %s can't be removed now: %s", job_id, error)

    def _ring_for_forgotten(self) -> None:
        # A few rings too many do no harm: whoever hears one and finds nothing returns at once.
        forgotten = self._store.pending() - int(self._redis.llen(self._messages_key))
        for _ in range(forgotten):
            ring(self._bell)
