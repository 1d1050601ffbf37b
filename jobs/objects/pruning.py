"""Orphans in S3: objects of jobs that Redis doesn't know, and of attempts that lost.

The bucket is listed first and Redis asked then: a job's record is there before its first object, so an object that was
listed and has no record has lost it. What is an orphan stays one: attempts only grow, an ended job is not drawn again
(a dead letter that is retried is, but no attempt of before can be committed then), and no id comes back.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import redis

from jobs.objects.images import ImageStore, StoredObject
from jobs.objects.removal import MOST_KEYS, StillThereError
from jobs.record import JobStatus
from jobs.settings import Settings

Reason = Literal["unknown_job", "lost_attempt"]
Fields = Sequence[str | None]  # of a record: status, attempt, images; None where it has none


class NothingKnownError(Exception):
    """Redis knows none of the jobs that have objects in the bucket: rather the wrong Redis than a bucket of orphans."""


@dataclass(frozen=True)
class Orphan:
    """An object that no job needs, and why."""

    key: str
    bytes: int
    reason: Reason


class Pruner:
    """Finds and removes orphans.

    Args:
        client: connection to Redis.
        images: the bucket.
        settings: the prefix in Redis.
    """

    def __init__(self, client: redis.Redis, images: ImageStore, settings: Settings) -> None:
        self._redis = client
        self._images = images
        self._prefix = settings.redis_prefix

    def find(self, older_than: timedelta, *, even_all: bool) -> list[Orphan]:
        """Return the orphans of at least that age; nothing is removed.

        Args:
            older_than: spares what is being uploaded.
            even_all: also when Redis knows none of the jobs in the bucket.

        Raises:
            NothingKnownError: it knows none of them.
            redis.exceptions.RedisError: Redis can't be reached.
            botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError: S3 can't be reached or refuses.
        """
        self._redis.ping()  # an empty bucket would leave it unnoticed that Redis is away
        orphans: list[Orphan] = []
        known = even_all
        for page in self._images.uploads():
            records = self._read({stored.job_id for stored in page})
            known = known or any(status for status, *_ in records.values())
            for stored in page:
                reason = self._reason(stored, records[stored.job_id])
                if reason and stored.age >= older_than:
                    orphans.append(Orphan(stored.key, stored.bytes, reason))
        if orphans and not known:
            raise NothingKnownError
        return orphans

    def _read(self, job_ids: Iterable[str]) -> dict[str, Fields]:
        job_ids = list(job_ids)
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hmget(f"{self._prefix}job:{job_id}", "status", "attempt", "images")
            return dict(zip(job_ids, pipe.execute(), strict=True))

    def _reason(self, stored: StoredObject, record: Fields) -> Reason | None:
        status, attempt, images = record
        if status is None:
            return "unknown_job"
        if JobStatus(status).active:
            lost = stored.attempt < int(attempt or 0)
        else:
            winning = (
                image["key"] == self._images.key(stored.job_id, stored.attempt, image["index"])
                for image in json.loads(images or "[]")
            )
            lost = not any(winning)
        return "lost_attempt" if lost else None

    def remove(self, orphans: Sequence[Orphan]) -> Iterator[list[Orphan]]:
        """Remove orphans; yield those removed, request by request.

        Raises:
            StillThereError: S3 did not remove one; all others were asked for, unless it refused all of a request.
            botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError: S3 can't be reached or refuses.
        """
        left: dict[str, StillThereError] = {}
        for start in range(0, len(orphans), MOST_KEYS):
            asked = orphans[start : start + MOST_KEYS]
            left_now = self._images.removal.remove(orphan.key for orphan in asked)
            left |= left_now
            yield [orphan for orphan in asked if orphan.key not in left_now]
            if len(left_now) == len(asked):
                break
        if left:
            raise next(iter(left.values()))
