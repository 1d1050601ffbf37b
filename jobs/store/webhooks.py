"""The outbox of webhooks in Redis: events of jobs that have ended, until they are delivered or given up.

The script that ends a job writes the event, a copy of the record as it then is, so that none is lost and none depends
on what becomes of the job. `Outbox` is the deliverer's side, `Undelivered` the operator's. An event's id never changes.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import redis
import redis.asyncio

from jobs.record import Job
from jobs.settings import Settings
from jobs.store import scripts
from jobs.store.scripts import MICROSECONDS, pairs

LEASE_SECONDS = 30  # a deliverer silent for longer has lost its event to another one; twice as long as a try may take


@dataclass(frozen=True)
class Delivery:
    """An event that one deliverer holds until its lease is over; `token` is what it holds it by."""

    event: str
    record: Mapping[str, str]
    token: str

    @property
    def owner(self) -> str:
        """Return the name of the API key whose job ended."""
        return self.record["owner"]

    @property
    def tries(self) -> int:
        """How often it was tried, this time included."""
        return int(self.record["tries"])


class Outbox:
    """Events to deliver.

    Every method raises `redis.exceptions.RedisError` when Redis can't be reached; the event is delivered again then.
    """

    def __init__(self, client: redis.asyncio.Redis, settings: Settings) -> None:
        self._redis = client
        self._settings = settings
        self._prefix = settings.redis_prefix
        self._claim = client.register_script(scripts.source("webhook_claim"))
        self._settle = client.register_script(scripts.source("webhook_settle"))

    async def claim(self, passed_over: Collection[str] = ()) -> Delivery | None:
        """Take an event that is due; None when none is.

        Owners take turns; of an owner's events the one comes first that has been due for longest.

        Args:
            passed_over: owners whose events are not wanted now.
        """
        token = secrets.token_hex(8)
        arguments: list[str | int] = [LEASE_SECONDS * MICROSECONDS, token, *passed_over]
        found = await self._claim(keys=[self._prefix], args=arguments)
        if not found:
            return None
        event, flat = found
        return Delivery(event, dict(pairs(flat)), token)

    async def delivered(self, delivery: Delivery) -> None:
        """Take a delivered event out."""
        await self._settled(delivery, "delivered")

    async def retry(self, delivery: Delivery, error: str, seconds: float) -> None:
        """Put an event back, to be tried again after some seconds."""
        await self._settled(delivery, "retry", error, seconds)

    async def give_up(self, delivery: Delivery, error: str) -> None:
        """Keep an event among the dead, for as long as an ended job is kept (`ZIMAGE_JOB_TTL`)."""
        await self._settled(delivery, "dead", error)

    async def _settled(self, delivery: Delivery, outcome: str, error: str = "", seconds: float = 0) -> None:
        await self._settle(keys=[self._prefix], args=[delivery.event, delivery.token, outcome, error, seconds])

    async def pending(self) -> int:
        """Return how many events wait for delivery, or for another try."""
        return await self._redis.zcard(f"{self._prefix}webhooks")


@dataclass(frozen=True)
class UndeliveredEvent:
    """An event as an operator sees it; `at` is when it is tried next or looked at again, or was given up."""

    event: str
    state: Literal["pending", "dead"]
    at: datetime
    job: Job
    tries: int
    last_error: str | None


class Undelivered:
    """Events that were not delivered yet, or were given up.

    Every method raises `redis.exceptions.RedisError` when Redis can't be reached or refuses (full memory).
    """

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._redis = client
        self._prefix = settings.redis_prefix
        self._redeliver = client.register_script(scripts.source("webhook_redeliver"))

    def events(self) -> list[UndeliveredEvent]:
        """Return the events: the dead first, then the pending in the order of their next try."""
        dead, pending = self._scores("webhooks:dead"), self._scores("webhooks")
        with self._redis.pipeline(transaction=False) as pipe:
            for event, _ in [*dead, *pending]:
                pipe.hgetall(f"{self._prefix}webhook:{event}")
            records = pipe.execute()
        found = []
        for number, ((event, score), record) in enumerate(zip([*dead, *pending], records, strict=True)):
            if record:  # else it was delivered since, or has been dead for too long
                state: Literal["dead", "pending"] = "dead" if number < len(dead) else "pending"
                at = datetime.fromtimestamp(score / MICROSECONDS, UTC)
                tries, error = int(record.get("tries", 0)), record.get("last_error")
                found.append(UndeliveredEvent(event, state, at, Job.from_record(record), tries, error))
        return found

    def _scores(self, index: str) -> Sequence[tuple[str, float]]:
        rows: Sequence[tuple[str, float]] = self._redis.zrange(  # type: ignore[assignment]  # withscores decides
            f"{self._prefix}{index}", 0, -1, withscores=True
        )
        return rows

    def redeliver(self, event: str) -> Literal["pending", "busy", "unknown"]:
        """Let an event be tried now, and again for as long as a new one; `busy` when it is being tried right now."""
        outcome: Literal["pending", "busy", "unknown"] = self._redeliver(keys=[self._prefix], args=[event])
        return outcome
