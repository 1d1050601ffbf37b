"""Dead letters: jobs that failed because they lost worker after worker; an operator retries or drops them.

A job that is retried keeps its id and its record. One that is dropped is only taken off the list: it stays failed.
"""

from collections.abc import Sequence
from typing import Literal

import redis

from jobs.record import Job
from jobs.settings import Settings
from jobs.store import scripts
from jobs.store.scripts import MICROSECONDS


class DeadLetters:
    """The dead letters of one service.

    Every method raises `redis.exceptions.RedisError` when Redis can't be reached or refuses (full memory).
    """

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._redis = client
        self._settings = settings
        self._prefix = settings.redis_prefix
        self._key = f"{self._prefix}dead"
        self._retry = client.register_script(scripts.source("retry"))

    def ids(self) -> Sequence[str]:
        """Return the ids, of the longest dead first."""
        ids: Sequence[str] = self._redis.zrange(self._key, 0, -1)  # type: ignore[assignment]  # of a decoding client
        return ids

    def jobs(self) -> list[Job]:
        """Return the jobs, the longest dead first."""
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in self.ids():
                pipe.hgetall(self._job_key(job_id))
            # One that was deleted since the ids were read has no record any more.
            return [Job.from_record(record) for record in pipe.execute() if record]

    def retry(self, job_id: str) -> Literal["queued", "unknown", "too_late"]:
        """Queue a dead letter again, with its losses forgiven; ringing is left to the caller.

        It waits for `ZIMAGE_QUEUE_TTL` at most, and no longer than its own `timeout_seconds` since it was accepted: a
        worker would give it up, so it is refused as `too_late` once these have passed.
        """
        with self._redis.pipeline() as pipe:
            pipe.zscore(self._key, job_id)
            pipe.hgetall(self._job_key(job_id))
            pipe.time()
            dead, record, (seconds, microseconds) = pipe.execute()
        if dead is None or not record:
            return "unknown"
        job_input = Job.from_record(record).input
        ttl = float(self._settings.queue_ttl)
        if job_input.timeout_seconds is not None:
            age = seconds + (microseconds - int(record["created_at"])) / MICROSECONDS
            ttl = min(ttl, job_input.timeout_seconds - age)
        if ttl <= 0:
            return "too_late"
        outcome: Literal["queued", "unknown"] = self._retry(keys=[self._prefix], args=[job_id, job_input.cost, ttl])
        return outcome

    def drop(self, job_id: str) -> bool:
        """Take a job off the list; tell whether it was on it."""
        return self._redis.zrem(self._key, job_id) == 1

    def _job_key(self, job_id: str) -> str:
        return f"{self._prefix}job:{job_id}"
