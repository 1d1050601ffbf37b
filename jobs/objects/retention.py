"""Retention: removes jobs that ended long ago, a job's images first, then its record.

A store that refuses removals keeps no record here: records would fill Redis, which then takes no more jobs. What stays
in the bucket are orphans, for `zimage prune` or the bucket's lifecycle rule.
"""

import logging
import threading
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool

from redis.exceptions import RedisError

from jobs.objects.images import ImageStore
from jobs.objects.refusals import STORAGE_ERRORS, told
from jobs.objects.removal import StillThereError
from jobs.store.worker import MOST_RETIRED, WorkerStore
from jobs.telemetry.logs import bound

log = logging.getLogger(__name__)

THREADS = 4  # that wait for S3: few, since a GPU or the API's clients wait for the same interpreter


class Retention:
    """One process's part of it: what one process is at, no other one takes.

    Args:
        store: the jobs.
        images: the bucket.
    """

    def __init__(self, store: WorkerStore, images: ImageStore) -> None:
        self._store = store
        self._images = images
        self._stop = threading.Event()
        self._s3_away = threading.Event()
        self._thread = threading.Thread()  # none yet

    def begin(self) -> None:
        """Begin to remove what is old, unless it is being done; returns at once.

        Raises:
            redis.exceptions.RedisError: Redis can't be reached.
        """
        # On a thread of its own: with an S3 that hangs each job takes a minute, and leases end meanwhile.
        if not self._thread.is_alive() and (old := self._store.retire()):
            self._thread = threading.Thread(target=self._run, args=(old,), name="retention", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Begin with no further job; returns at once."""
        self._stop.set()

    def _run(self, old: Sequence[str]) -> None:
        self._s3_away.clear()
        with ThreadPool(THREADS) as pool:  # its threads are daemons: none keeps the process from ending
            try:
                while all(pool.map(self._remove, old, chunksize=1)) and len(old) == MOST_RETIRED:
                    old = self._store.retire()
            except RedisError as error:
                log.warning("retention: Redis can't be used (%s)", error)

    def _remove(self, job_id: str) -> bool:
        """Remove a job; return False when it is left for later."""
        if self._stop.is_set() or self._s3_away.is_set():
            return False
        with bound(job_id=job_id):
            try:
                self._images.delete_job(job_id)
            except StillThereError as error:
                if not error.lasting:
                    log.warning("retention: images of job %s can't be removed now: %s", job_id, error)
                    return False
                # Told by `Removal`, once.
            except STORAGE_ERRORS as error:
                self._s3_away.set()  # the others would meet the same
                log.warning("retention: images can't be removed now: %s", told(error))
                return False
            try:
                self._store.delete(job_id)
            except RedisError as error:
                log.warning("retention: job %s can't be removed now: %s", job_id, error)
                return False
        return True
