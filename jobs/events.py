"""Waiting for changes of jobs: one subscription a process, however many wait.

The scripts publish `<id> <version> <status>` on one channel at every change. A change can be missed only while the
subscription is lost, so whenever there is a new one everybody who waits is woken to look.
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
SILENCE_SECONDS = 5.0  # after which Redis is asked whether it is still there
ANSWER_SECONDS = 5.0


class EventHub:
    """Hands the channel's messages to those who wait for one job."""

    def __init__(self, client: redis.asyncio.Redis, settings: Settings) -> None:
        self._redis = client
        self._channel = f"{settings.redis_prefix}events"
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.closing = False

    def close(self) -> None:
        """Wake everybody who waits, since this process is about to end; `closing` tells them."""
        self.closing = True
        self._wake_all()

    async def run(self) -> None:
        """Listen until canceled; reconnects by itself."""
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(self._channel)
                    while True:
                        await self._hear(pubsub)
            except (RedisError, OSError) as error:
                log.warning("events: Redis is away (%s); subscribing again", error)
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _hear(self, pubsub: redis.asyncio.client.PubSub) -> None:
        message = await pubsub.get_message(timeout=SILENCE_SECONDS)
        if message is None:  # nothing happened, or the connection is half-open
            await pubsub.ping()
            message = await pubsub.get_message(timeout=ANSWER_SECONDS)
            if message is None:
                raise TimeoutError(f"no answer within {ANSWER_SECONDS:.0f} s")
        if message["type"] == "message":
            self._wake(message["data"].split(" ", 1)[0])
        elif message["type"] == "subscribe":  # at first, and after each reconnect that redis-py makes by itself
            self._wake_all()

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
