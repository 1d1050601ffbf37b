"""The reaper: takes jobs from silent workers, expires what waited too long, rings for forgotten jobs, starts retention.

Every worker and every API process runs one; a lock in Redis lets one at a time work. So it is noticed within a lease
when the last worker dies.
"""

import logging
import threading

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import LockError, OutOfMemoryError, RedisError

from jobs.doorbell import messages_key, ring
from jobs.objects.images import ImageStore
from jobs.objects.retention import Retention
from jobs.settings import Settings
from jobs.store.worker import WorkerStore

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
        self._retention = Retention(self._store, images)
        self._bell = bell
        self._messages_key = messages_key(settings)
        self._lock_key = f"{settings.redis_prefix}reaper"
        self._interval = settings.lease_seconds / 6
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        """Begin to tick, at a sixth of the lease."""
        self._thread.start()

    def stop(self) -> None:
        """Stop ticking; returns at once."""
        self._stop.set()
        self._retention.stop()

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
        self._store.expire()
        self._ring_for_forgotten()
        self._retention.begin()

    def _ring_for_forgotten(self) -> None:
        # A few rings too many do no harm: whoever hears one and finds nothing returns at once.
        forgotten = self._store.pending() - int(self._redis.llen(self._messages_key))
        for _ in range(forgotten):
            ring(self._bell)
