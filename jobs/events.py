"""Waiting for changes of jobs: one subscription a process, however many wait.

The scripts publish `<id> <version> <status>` on one channel at every change. A message can be missed (Redis restarts),
so whoever waits looks at the record again from time to time.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator

import redis.asyncio
from redis.exceptions import RedisError

from jobs.settings import Settings

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 1.0


class EventHub:
    """Hands the channel's messages to those who wait for one job."""

    def __init__(self, client: redis.asyncio.Redis, settings: Settings) -> None:
        self._redis = client
        self._channel = f"{settings.redis_prefix}events"
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    async def run(self) -> None:
        """Listen until canceled; reconnects by itself."""
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(self._channel)
                    self._wake_all()  # something may have happened while nobody listened
                    while True:
                        message = await pubsub.get_message(timeout=None)
                        if message is not None:
                            self._wake(message["data"].split(" ", 1)[0])
            except (RedisError, OSError) as error:
                log.warning("events: Redis is away (%s); subscribing again", error)
                await asyncio.sleep(RECONNECT_SECONDS)

    def _wake(self, job_id: str) -> None:
        for event in self._waiting.get(job_id, ()):
            event.set()

    def _wake_all(self) -> None:
        for job_id in self._waiting:
            self._wake(job_id)

    @contextlib.asynccontextmanager
    async def watch(self, job_id: str) -> AsyncIterator[asyncio.Event]:
        """Give an event that is set at each change of the job; the waiter clears it before it looks."""
        event = asyncio.Event()
        self._waiting[job_id].add(event)
        try:
            yield event
        finally:
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]
